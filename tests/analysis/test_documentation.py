from pathlib import Path

from analysis.reading.frame import COLUMNS


def test_every_column_of_the_frame_is_documented_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "results.md").read_text()
    lines = [line for line in page.split("## The frame, column by column")[1].splitlines() if line.startswith("| `")]
    assert lines == [f"| `{name}` | {dtype} | {meaning} |" for name, (dtype, meaning) in COLUMNS.items()]
