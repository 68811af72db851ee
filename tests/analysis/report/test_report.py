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


def test_report_page_says_what_bold_and_underlined_mean(report: Path) -> None:
    page = report.read_text()
    assert "<u" in page
    assert "The best of a column is bold, the second underlined." in page


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


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_report_page_with_a_job_open_has_nothing_that_axe_finds(report: Path, browser: "Browser", width: int, scheme: str) -> None:
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python, the rules of accessibility")
    browser.open(report.as_uri(), width=width, scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert browser.violations(Path(package.__file__).with_name("axe.min.js")) == []
    browser.run("document.querySelector('#table td a').click()")
    browser.wait("return document.getElementById('runs').open")
    browser.run("document.querySelectorAll('#runs details').forEach(each => { each.open = true; })")
    browser.wait("return document.querySelector('#runs svg') !== null")
    assert browser.violations(Path(package.__file__).with_name("axe.min.js")) == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # The rules can fail: a picture without words is one of their first findings.
    browser.run("document.querySelector('#runs svg').removeAttribute('aria-label')")
    assert browser.violations(Path(package.__file__).with_name("axe.min.js")) == ["svg-img-alt"]


def test_report_cell_leads_by_the_keyboard_to_its_jobs_and_back(report: Path, browser: "Browser") -> None:
    browser.open(report.as_uri())
    row = "[...document.querySelectorAll('#table tbody tr')].find(each => each.cells[0].textContent === 'ScaLearn++')"
    browser.run(f"{row}.querySelector('a').focus()")
    assert browser.run("return document.activeElement.getAttribute('aria-label')").endswith("jobs of ScaLearn++, Apple")
    browser.press("\ue007")  # Enter
    browser.wait("return document.getElementById('runs').open")
    assert browser.run("return document.getElementById('runs-title').textContent") == "ScaLearn++ on Apple"
    heads = browser.run("return [...document.querySelectorAll('#runs summary')].map(each => each.textContent)")
    assert [head.split(", ")[0] for head in heads] == ["seed 0", "seed 1"]
    assert "failed" in heads[1]
    browser.run("document.querySelectorAll('.runs > details').forEach(each => { each.open = true; })")
    browser.wait("return document.querySelectorAll('#runs dl').length === 2")
    text = browser.run("return document.getElementById('runs').textContent")
    assert "the loss became nan at step 42" in text
    assert "optimisation.learning_rate" in text
    assert "accuracy by epoch" in text
    browser.run("[...document.querySelectorAll('#runs p a')].find(each => each.textContent.startsWith('Source adapter')).click()")
    browser.wait("return document.getElementById('runs-title').textContent.startsWith('Source adapter: Adapter on ')")
    browser.press("\ue00c")  # Escape
    browser.wait("return !document.getElementById('runs').open && location.hash === ''")
    assert browser.errors() == []


def test_report_filters_every_table_by_method_and_target(report: Path, browser: "Browser") -> None:
    browser.open(report.as_uri())
    choose = """const select = document.querySelector(`[data-filter=${arguments[0]}]`);
    select.value = [...select.options].find(each => each.textContent === arguments[1]).value;
    select.dispatchEvent(new Event('change'));"""
    shown = "return [...document.querySelectorAll(arguments[0])].filter(each => !each.hidden)"
    rows, heads = f"{shown}.map(each => each.cells[0].textContent)", shown + r".map(each => each.innerText.split(/\W/)[0])"
    browser.run(choose, "method", "ScaLearn")
    browser.run(choose, "target", "Coachella")
    assert browser.run(rows, "#table tbody tr") == ["Two-stage", "ScaLearn"]
    assert browser.run(heads, "#table thead th") == ["Method", "Coachella", "Average", "Rates", "Parameters", "Parameters"]
    assert browser.run(rows, "#jobs tbody tr") == ["scalearn"] * 4
    assert browser.run("return document.getElementById('filtered').textContent") == "The tables show ScaLearn and Coachella."
    browser.run("document.querySelector('#table thead button').click()")
    assert browser.run(rows, "#table tbody tr") == ["ScaLearn"]
    browser.run(choose, "method", "all methods")
    assert len(browser.run(rows, "#table tbody tr")) == 6


def test_report_bar_stays_in_view_and_names_the_section_that_is_read(report: Path, browser: "Browser") -> None:
    for width in (1280, 400):
        browser.open(report.as_uri(), width=width)
        browser.run("document.documentElement.style.scrollBehavior = 'auto'; document.getElementById('statistics').scrollIntoView()")
        browser.wait("return document.querySelector('.bar [aria-current]')?.textContent === 'Statistics'")
        top, bottom = browser.run("const box = document.querySelector('.bar').getBoundingClientRect(); return [box.top, box.bottom]")
        assert top == 0
        assert bottom < 100
        assert browser.run("return document.querySelector('#statistics h2').getBoundingClientRect().top") >= bottom


def test_report_colours_follow_the_switch_before_the_system(report: Path, browser: "Browser") -> None:
    browser.open(report.as_uri(), scheme="dark")
    paper = "return getComputedStyle(document.body).backgroundColor"
    dark = browser.run(paper)
    browser.run("document.getElementById('theme').click()")
    assert browser.run("return document.getElementById('theme').innerText") == "Colours: light"
    assert browser.run(paper) == "rgb(255, 255, 255)" != dark
    browser.wait("return [...document.images].every(each => each.currentSrc === each.src)")
    browser.run("document.getElementById('theme').click()")
    assert browser.run(paper) == dark
    browser.run("document.getElementById('theme').click()")
    assert browser.run("return document.getElementById('theme').innerText") == "Colours: system"


def test_report_of_a_thousand_jobs_shows_each_in_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    rates = tuple(1e-4 * (index + 1) for index in range(83))
    spec = StoreSpec(methods={"adapterfusion": rates, "scalearn_pp": rates, "scalearn_uniform_pp": rates}, omegas=False)
    build_store(tmp_path / "store", spec)
    for marker in (tmp_path / "store").glob("**/job.json"):
        lines = [f"2026-11-30T01:42:57Z INFO scalearn.training.loop: {marker.parent.name}, step {index}" for index in range(100)]
        marker.with_name("log.txt").write_text("\n".join(lines))
    page = write_report(tmp_path / "store", "demo", tmp_path / "report").read_text()
    found = re.search(r'<script type="application/json" id="details">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    details = json.loads(found[1])
    assert len(details["jobs"]) == 999
    assert all(details["logs"][job["log"]].endswith("step 99") and "loss" in job["curves"] for job in details["jobs"])
    assert len(found[1]) < 2_500_000


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
