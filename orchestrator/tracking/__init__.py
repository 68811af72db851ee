"""MLflow: what jobs leave in the store is logged there as runs, each job once."""
