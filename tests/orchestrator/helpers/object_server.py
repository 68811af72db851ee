"""`python -m tests.orchestrator.helpers.object_server [--nodes N]`: an S3-compatible server on loopback that can be cut off and come back.

Prints its port once it answers. A GET of `/_lose/TEXT` makes it lose one answer: the next PUT to a path with that text in it is carried
out and answered as an internal error.

SIGUSR1: stop to listen, keep what is stored. SIGUSR2: listen again. `--nodes` fills the bucket `many`
with the objects of so many finished jobs under `runs/`; the bucket `bucket` is empty.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKET, MANY = "bucket", "many"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class ObjectServer:
    """A server process."""

    process: "subprocess.Popen[str]"
    environment: dict[str, str]
    """What clients need to reach it."""

    def requests(self) -> int:
        """How many requests it has answered."""
        with urllib.request.urlopen(f"{self.environment['AWS_ENDPOINT_URL']}/_requests") as answer:
            return int(answer.read())

    def lose_answer(self, text: str) -> None:
        """Carry out the next write to a path with a text in it, and say that it failed."""
        with urllib.request.urlopen(f"{self.environment['AWS_ENDPOINT_URL']}/_lose/{text}"):
            pass

    def cut_off(self) -> None:
        """Refuse connections from now on."""
        self._switch(signal.SIGUSR1, "away")

    def come_back(self) -> None:
        """Answer again."""
        self._switch(signal.SIGUSR2, "back")

    def _switch(self, number: int, answer: str) -> None:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == answer


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[ObjectServer]:
    """Run a server while the block runs."""
    command = [sys.executable, "-m", "tests.orchestrator.helpers.object_server", *arguments]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield ObjectServer(process, {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
        finally:
            process.kill()


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=0)
    os.environ.update(CREDENTIALS)
    fill(parser.parse_args().nodes)
    signals = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    application, port, words = (
        _losing(_counting(DomainDispatcherApplication(create_backend_app))),
        0,
        {signal.SIGUSR1: "away", signal.SIGUSR2: "back"},
    )
    while True:
        server = make_server("127.0.0.1", port, application, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print(words[signal.SIGUSR2] if port else server.port, flush=True)
        port = server.port
        if signal.sigwait(signals) == signal.SIGTERM:
            return
        server.shutdown()
        server.server_close()
        print(words[signal.SIGUSR1], flush=True)
        if signal.sigwait(signals) == signal.SIGTERM:
            return


def _counting(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Count requests, and tell their number at a path of its own."""
    answered = itertools.count()

    def answer(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/_requests":
            start_response("200 OK", [])
            return [str(next(answered)).encode()]
        next(answered)
        return application(environ, start_response)

    return answer


def _losing(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Lose the answers that are asked for at a path of its own."""
    wanted: list[str] = []

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/_lose/"):
            wanted.append(path.removeprefix("/_lose/"))
            start_response("200 OK", [])
            return []
        lost = next((text for text in wanted if environ["REQUEST_METHOD"] == "PUT" and text in path), None)
        if lost is None:
            return application(environ, start_response)
        wanted.remove(lost)
        b"".join(application(environ, lambda *arguments: None))
        start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
        return [b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an internal error</Message></Error>"]

    return answer


def fill(nodes: int) -> None:
    """Make the bucket and the objects, in this process's memory: as many requests would take minutes."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    for bucket in (BUCKET, MANY):
        backend.create_bucket(bucket, "us-east-1")
    entry = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest(), "etag": f'"{hashlib.md5(b"{}").hexdigest()}"'}
    success = json.dumps({"schema": 1, "files": {"result.json": entry}}).encode()
    for number in range(nodes):
        node = many(number)
        for name, content in (("job.json", b"{}"), ("result.json", b"{}"), ("SUCCESS.json", success)):
            backend.put_object(MANY, f"runs/{node}/{name}", content)
        backend.put_object(MANY, f"runs/.index/succeeded/{node}", b"")


def many(number: int) -> str:
    """The node of one of the many finished jobs."""
    return f"glue/roberta-base/transfer/m{number % 8}/rte/lr6e-03-seed{number}-{number:010x}"


if __name__ == "__main__":
    main()
