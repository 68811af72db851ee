"""The graph of jobs on Ray Tune: sweeps, artifacts, tracking and the command line."""
