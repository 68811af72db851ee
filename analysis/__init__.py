"""From result files to data frames, tables, statistics and plots."""
