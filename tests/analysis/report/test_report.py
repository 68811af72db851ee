import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import analysis
from analysis.report.report import write_report
from analysis.tables.render import to_latex
from tests.analysis.helpers.build_store import YAML, StoreSpec, build_store

if TYPE_CHECKING:
    from conftest import Browser


@pytest.fixture(scope="module")
def report(broken_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep in which jobs failed and others have not run yet."""
    return write_report(broken_store, "demo", tmp_path_factory.mktemp("report"))


def test_report_folder_holds_page_tables_and_plots(report: Path) -> None:
    names = {path.relative_to(report.parent).as_posix() for path in report.parent.glob("*/*")}
    for name in ("benchmark", "learning_rates", "differences", "comparisons", "ranks", "omegas", "jobs"):
        assert {f"tables/{name}.{ending}" for ending in ("md", "csv", "tex", "html")} <= names
    for name in ("efficiency", "critical_difference", "score_against_learning_rate", "omega_scalearn", "curves_loss", "gantt"):
        assert {f"plots/{name}.png", f"plots/{name}.svg"} <= names
    assert "tables/frame.csv" in names


def test_report_page_needs_nothing_beyond_itself(report: Path) -> None:
    page = report.read_text()
    assert re.findall(r'(?:src|srcset)="(?!data:)', page) == []
    assert re.findall(r"<link(?![^>]*data:)|@import|url\(", page) == []
    linked = {target for target in re.findall(r'href="([^"#]+)"', page) if not target.startswith("data:")}
    assert linked
    assert all((report.parent / target).is_file() for target in linked)


def test_report_page_names_failures_progress_and_the_exact_yaml(report: Path) -> None:
    page = report.read_text()
    assert page.count("the loss became nan at step 42") >= 3
    assert "The sweep is not finished" in page
    escaped = YAML.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
    assert escaped in page
    assert "machine-a" in page
    assert "torch 2.13.0" in page


def test_report_of_an_unchanged_sweep_is_left_alone(tmp_path: Path) -> None:
    build_store(tmp_path / "store", StoreSpec(methods={"scalearn": (6e-3,)}, history=False))
    page = write_report(tmp_path / "store", "demo", tmp_path / "report")
    before = page.stat().st_mtime_ns
    assert write_report(tmp_path / "store", "demo", tmp_path / "report") == page
    assert page.stat().st_mtime_ns == before
    marker = next((tmp_path / "store").glob("**/scalearn/**/SUCCESS.json"))
    marker.unlink()
    write_report(tmp_path / "store", "demo", tmp_path / "report")
    assert page.stat().st_mtime_ns > before
    assert "The sweep is not finished" in page.read_text()


def test_report_of_a_sweep_that_has_only_begun_is_written(tmp_path: Path) -> None:
    build_store(tmp_path / "store", StoreSpec(states={"transfer": "pending", "seed1": "running", "source/adapter/apple": "running"}))
    page = write_report(tmp_path / "store", "demo", tmp_path / "report").read_text()
    assert "No method has a score on every target yet" in page


def test_report_into_an_unwritable_place_is_one_sentence(complete_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(analysis.ResultsError, match=r"cannot be written to .*file"):
        write_report(complete_store, "demo", tmp_path / "file")


def test_report_escapes_what_jobs_wrote(tmp_path: Path) -> None:
    build_store(
        tmp_path / "store", StoreSpec(states={"scalearn_pp/apple/lr6e-03-seed1": "failed"}, yaml="</code><script>alert(1)</script>")
    )
    failed = next((tmp_path / "store").glob("**/FAILED.json"))
    failed.write_text(json.dumps(json.loads(failed.read_text()) | {"error": "<img src=x onerror=alert(1)>"}))
    page = write_report(tmp_path / "store", "demo", tmp_path / "report").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def check_page(browser: "Browser", page: Path, width: int, scheme: str) -> None:
    browser.open(page.as_uri(), width=width, scheme=scheme)
    # Pictures are data URLs; the browser may still be decoding them.
    sizes = browser.run("return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(sizes) >= 10
    assert all(size > 100 for size in sizes)
    assert browser.errors() == []
    chosen = browser.run("return [...document.images].map(i => i.currentSrc === i.src)")
    assert set(chosen) == {scheme == "light"}
    # Wide tables and pictures scroll in their own boxes, never the page.
    assert browser.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_page_in_a_browser_has_no_errors_and_loads_every_picture(report: Path, browser: "Browser", width: int, scheme: str) -> None:
    check_page(browser, report, width, scheme)


def test_report_boxes_fade_where_more_lies_to_the_right_and_numbers_stand_in_line(report: Path, browser: "Browser") -> None:
    browser.open(report.as_uri(), width=400)
    box = "document.querySelector('#table .scroll')"
    faded = f"return {box}.classList.contains('more')"
    browser.wait(faded)
    browser.run(f"{box}.scrollLeft = 10000")
    browser.wait(f"return !{box}.classList.contains('more')")
    browser.open(report.as_uri(), width=1280)
    ends = browser.run(
        """const range = document.createRange();
        return [...document.querySelectorAll('#table tbody tr:not(.group)')].map(row => {
          const score = row.cells[1].firstChild;
          range.selectNodeContents(score);
          return Math.round(range.getBoundingClientRect().right);
        });"""
    )
    # Scores with and without a deviation or a footnote end at the same place.
    assert len(set(ends)) == 1


@pytest.mark.slow
def test_report_and_tracking_of_the_quickstart_show_its_real_results(quickstart: Path, browser: "Browser") -> None:
    runs = quickstart / "runs"
    page = runs / "reports" / "quickstart" / "index.html"
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
        check_page(browser, page, width, scheme)
    browser.open(page.as_uri())
    averages = "return [...document.querySelectorAll('#table tbody tr:not(.group)')].map(r => Number(r.cells[4].dataset.sort))"
    browser.run("document.querySelectorAll('#table thead button')[4].click()")
    shown = browser.run(averages)
    assert len(shown) == 6
    assert shown == sorted(shown, reverse=True)
    # No table of this sweep is wider than the page.
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("return [...document.querySelectorAll('table')].every(t => t.scrollWidth <= t.parentElement.clientWidth + 1)")
    pd.testing.assert_frame_equal(analysis.load(f"sqlite:///{runs / 'mlflow.db'}", "quickstart"), analysis.load(runs, "quickstart"))


def test_report_tables_sort_by_column_and_go_back(report: Path, browser: "Browser") -> None:
    browser.open(report.as_uri())
    read = "return [...document.querySelectorAll('#table tbody tr:not(.group)')].map(r => r.cells[arguments[0]].textContent.trim())"
    press = "document.querySelectorAll('#table thead button')[arguments[0]].click()"
    original = browser.run(read, 0)
    browser.run(press, 2)

    def leading(texts: list[str]) -> list[float]:
        return [float(found[0]) for text in texts if (found := re.match(r"[\d.]+", text))]

    falling = browser.run(read, 2)
    assert falling[-1].startswith("–")
    assert leading(falling) == sorted(leading(falling), reverse=True)
    browser.run(press, 2)
    rising = browser.run(read, 2)
    assert rising[-1].startswith("–")
    assert leading(rising) == sorted(leading(rising))
    assert browser.run("return document.querySelectorAll('#table thead th')[2].getAttribute('aria-sort')") == "ascending"
    browser.run(press, 2)
    assert browser.run(read, 0) == original
    browser.run(press, 0)
    assert browser.run(read, 0) == sorted(original, key=str.lower)
    assert browser.errors() == []


def test_report_latex_compiles(report: Path, tmp_path: Path) -> None:
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("needs Debian's packages texlive-latex-base and texlive-latex-recommended")
    tables = sorted((report.parent / "tables").glob("*.tex"))
    head = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    # Jobs fill more than a page, so each table stands on its own.
    body = "\n\\clearpage\n".join(path.read_text() for path in tables)
    (tmp_path / "all.tex").write_text(head + body + "\\end{document}\n")
    run = subprocess.run([program, "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def test_latex_holds_only_characters_that_pdflatex_knows(broken_store: Path) -> None:
    text = to_latex(analysis.benchmark_table(analysis.load(broken_store, "demo")))
    assert text.isascii()
