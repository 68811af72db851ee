from pathlib import Path

import nbformat
import pytest

from tests.analysis.helpers.build_store import StoreSpec, build_store

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")

NOTEBOOKS = sorted((Path(__file__).parents[3] / "analysis" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def two_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores")
    build_store(root / "one")
    build_store(root / "two", StoreSpec(sweep="second", settings={"scalearn": {"omega_dropout": 0.0}}))
    return root


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, two_stores: Path) -> None:
    values = {"STORE": str(two_stores / "one"), "SWEEP": "demo", "SECOND_STORE": str(two_stores / "two"), "SECOND_SWEEP": "second"}
    for name, value in values.items():
        monkeypatch.setenv(f"SCALEARN_{name}", value)


def run(path: Path, directory: Path) -> str:
    """Execute a notebook; returns all that it printed and showed as text."""
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(directory)}}).execute()
    shown = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            shown.append(str(output.get("text", "")) + str(output.get("data", {})))
    return "\n".join(shown)


def test_notebooks_are_kept_without_outputs_and_start_from_a_place() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_benchmark_tables", "02_omega_analysis", "03_compare_sweeps", "04_open_questions"]
    for path in NOTEBOOKS:
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
        assert "SCALEARN_STORE" in code[0].source


@pytest.mark.slow
@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("01_benchmark_tables", "ScaLearnUniform++"),
        ("02_omega_analysis", "rank correlation"),
        ("03_compare_sweeps", "omega_dropout"),
        ("04_open_questions", "expected by chance"),
    ],
)
def test_notebook_runs_on_a_store(name: str, said: str, tmp_path: Path) -> None:
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    assert said in run(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_on_the_quickstarts_results(path: Path, quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEARN_STORE", str(quickstart / "runs"))
    monkeypatch.setenv("SCALEARN_SWEEP", "quickstart")
    assert "ScaLearn" in run(path, tmp_path)
