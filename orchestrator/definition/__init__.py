"""What a sweep says: a YAML file, checked, and the graph of jobs that it expands to. Needs no cluster, no model and no store."""
