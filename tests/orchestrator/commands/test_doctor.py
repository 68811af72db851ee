"""`scalearn doctor` tells what it can, hides secrets, and names what is broken without ending for it."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

import orchestrator
from orchestrator.cli import main


def described(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["doctor", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: text for name, _, text in (line.partition(" ") for line in lines)}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


def test_doctor_tells_of_every_part_where_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/one.json").write_text("{}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.server_port}")
    told = described(capsys, "--store", str(tmp_path))
    server.shutdown()
    server.server_close()
    assert set(told) == {"scalearn", "packages", "machine", "devices", "store", "cluster", "hub", "variables"}
    assert "Python 3." in told["scalearn"]
    assert "torch " in told["packages"]
    assert "memory free" in told["machine"]
    assert told["devices"].strip().startswith("torch ")
    assert f"{tmp_path}: 1 sweep, " in told["store"]
    assert "takes connections" in told["cluster"]
    assert "answers 401; cache " in told["hub"]


def test_doctor_masks_secrets_and_tells_what_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # free once it is closed
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_TOKEN", "hf_do_not_show_this")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:not_this_either@db/runs")
    told = described(capsys, "--store", "nosuch://bucket")
    assert f"http://127.0.0.1:{port} does not answer: [Errno 111] Connection refused" in told["cluster"]
    assert "cannot be told: The store nosuch://bucket is of no kind that is known" in told["store"]
    assert "not asked, since HF_HUB_OFFLINE is set" in told["hub"]
    assert "HF_TOKEN=***" in told["variables"]
    assert not [text for text in told.values() if "do_not_show" in text or "not_this_either" in text]


def test_doctor_is_named_by_the_form_for_bugs():
    form = Path(orchestrator.__file__).parents[1] / ".github/ISSUE_TEMPLATE/bug.yml"
    assert "`scalearn doctor`" in form.read_text()
