"""A web server on loopback that records what is posted to it, and answers as a test says."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/services/T0/B0/pathsecret"


@dataclass
class Webhook:
    """What came, and what is answered."""

    url: str = ""
    status: int = 200
    posts: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    answers: threading.Event = field(default_factory=threading.Event)
    """While this is clear, requests are read and not answered."""


@contextlib.contextmanager
def listening() -> Iterator[Webhook]:
    """Serve until the context ends."""
    hook = Webhook()
    hook.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.asked.append(f"POST {self.path}")
            hook.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            hook.answers.wait(60)
            self.send_response(hook.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            hook.asked.append(f"GET {self.path}")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    try:
        yield hook
    finally:
        hook.answers.set()
        server.shutdown()
        server.server_close()
