"""MLflow: what jobs left in the store becomes runs there, each once."""
