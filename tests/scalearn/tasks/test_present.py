"""Empty and broken files are seen before a run, in every format; whole ones pass."""

from pathlib import Path

import pytest
from datasets import Dataset

from scalearn.errors import UserError
from scalearn.tasks import get_task, own_task
from scalearn.tasks.present import check_present

ROWS = {"text": ["one", "two"], "label": [0, 1]}
TASK = own_task("mine/spam", {"columns": "text", "splits": {"validation": None, "test": None}})


def write(directory: Path, form: str, count: int) -> None:
    directory.mkdir(parents=True)
    rows = Dataset.from_dict({name: values[:count] for name, values in ROWS.items()})
    match form:
        case "parquet":
            rows.to_parquet(directory / "train.parquet")
        case "saved":
            rows.save_to_disk(str(directory / "train"))
        case "csv" | "tsv":
            separator = "\t" if form == "tsv" else ","
            lines = [f"text{separator}label", *(["one,0", "two,1"][:count])]
            (directory / f"train.{form}").write_text("\n".join(lines) + "\n\n")
        case _:
            (directory / f"train.{form}").write_text('{"text": "one", "label": 0}\n' * count + "\n")


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl", "saved"])
def test_local_file_with_rows_passes_and_without_is_refused(form: str, tmp_path: Path) -> None:
    write(tmp_path / "full/mine/spam", form, 2)
    check_present(TASK, tmp_path / "full")
    write(tmp_path / "empty/mine/spam", form, 0)
    with pytest.raises(UserError, match=r"^Task mine/spam: .*train.* holds no rows; fetch or write it again\.$"):
        check_present(TASK, tmp_path / "empty")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet"])
def test_broken_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine/spam").mkdir(parents=True)
    (tmp_path / "mine/spam/train.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"^Task mine/spam: .*train\.parquet is broken or not in its format"):
        check_present(TASK, tmp_path)


def test_hub_and_packages_are_not_asked() -> None:
    check_present(get_task("glue/rte"), None)
    check_present(get_task("domains/apple"), None)
