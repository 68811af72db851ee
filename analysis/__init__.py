"""From result files to data frames, tables, statistics and plots.

Start with `frame = analysis.load("runs", sweep="quickstart")`, then `analysis.render.to_terminal(analysis.benchmark_table(frame))`.
"""

from analysis.errors import ResultsError
from analysis.reading import frame
from analysis.reading.load import load
from analysis.tables import render
from analysis.tables.benchmark import BenchmarkTable, benchmark_table

__all__ = ["BenchmarkTable", "ResultsError", "benchmark_table", "frame", "load", "render"]
