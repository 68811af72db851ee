"""Every example runs as it is, in an empty directory."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import analysis

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_HERE = {"external_adapters.py", "lora_sources.py", "custom_method.py", "serve.py", "own_csv.sh", "which_sources.yaml", "README.md"}
SEVERAL = """
import os, runpy, sys
for script in sys.argv[1:]:
    directory = os.path.join({place!r}, os.path.basename(script))
    os.mkdir(directory)
    os.chdir(directory)
    print("==", os.path.basename(script))
    runpy.run_path(script, run_name="__main__")
"""
pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    paths = [str(EXAMPLES.parent), str(EXAMPLES)]  # python puts a script's own directory there
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def printed(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run_here_and_told_of():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == RUN_HERE
    page = (EXAMPLES / "README.md").read_text()
    assert not [name for name in RUN_HERE - {"README.md"} if f"]({name})" not in page]


def test_scripts_of_the_library_print_what_was_learned(tmp_path: Path):
    names = ("external_adapters.py", "lora_sources.py", "custom_method.py")
    output = printed([sys.executable, "-c", SEVERAL.format(place=str(tmp_path)), *(str(EXAMPLES / name) for name in names)], tmp_path)
    external, lora, custom = (part.partition("\n")[2] for part in output.split("== ")[1:])
    assert [line.partition(": ")[0] for line in external.splitlines()] == ["apple", "reviews"]
    assert "'accuracy': " in lora
    assert json.loads((tmp_path / "lora_sources.py/exported/adapter_config.json").read_text())["r"] == 8
    assert 0.3 < float(custom.removeprefix("scale: ")) < 0.7
    assert custom.strip() != "scale: 0.500", "it was trained"


def test_own_csv_becomes_a_table(tmp_path: Path):
    output = printed(["bash", str(EXAMPLES / "own_csv.sh")], tmp_path)
    assert "books: 120 rows; columns text, verdict" in output
    assert "ScaLearnUniform++" in output
    assert (tmp_path / "runs/reports/reviews/index.html").exists()


def test_sweep_over_sources_has_a_row_per_list(tmp_path: Path):
    printed(["scalearn", "run", str(EXAMPLES / "which_sources.yaml")], tmp_path)
    frame = analysis.load(tmp_path / "runs", sweep="which_sources")
    lists = set(frame[frame.method == "scalearn_uniform_pp"].sources)
    assert sorted(len(names.split(",")) for names in lists) == [1, 1, 2, 2, 2, 3]


def test_served_adapter_answers_with_labels(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # free once it is closed
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        answer = ask(server, port, ["My new phone is wonderful.", "The battery died again."])
    finally:
        server.terminate()
        rest = server.communicate(timeout=60)[0]
    assert len(answer) == 2, rest
    assert set(answer) <= {"negative", "neutral", "positive"}, rest


def ask(server: "subprocess.Popen[str]", port: int, texts: list[str]) -> list[str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps(texts).encode(), {"Content-Type": "application/json"})
    for _ in range(600):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                found: list[str] = json.loads(response.read())
                return found
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or server.poll() is not None:
                raise
            time.sleep(0.5)
    return []
