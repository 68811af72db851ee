"""The definition of a sweep: a YAML file, checked, and the graph of jobs that it expands to. This needs no cluster, model or store."""
