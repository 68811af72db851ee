"""The table at the end of a run, on the terminal and as files."""

from rich.console import Console
from rich.text import Text

from orchestrator.store import Store


def print_report(store: Store, sweep: str, console: Console) -> None:
    """Print the benchmark table and write it to `<store>/reports/<sweep>/`; say so where there is nothing to show yet.

    Args:
        store: The store.
        sweep: Name of a sweep that was run into it.
        console: Where to print.
    """
    import analysis  # pandas: most of a second, which `plan` does not spend

    try:
        table = analysis.benchmark_table(analysis.load(str(store.root), sweep=sweep))
    except analysis.ResultsError as error:
        console.print(Text(f"No table yet: {error}", style="yellow"), soft_wrap=True)
        return
    folder = store.root / "reports" / sweep
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.csv").write_text(analysis.render.to_csv(table), encoding="utf-8")
    (folder / "benchmark.md").write_text(analysis.render.to_markdown(table), encoding="utf-8")
    analysis.render.to_terminal(table, console)
