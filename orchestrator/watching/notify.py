"""Tells a webhook of a run's first failure, its end, and the end of its budget. No job ever waits for it."""

import contextlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from orchestrator.artifacts.store import FAILED, Store
from orchestrator.definition.check import is_web_address
from orchestrator.definition.graph import DONE, Graph, State
from orchestrator.definition.schema import Notify
from orchestrator.storage.retrying import StoreUnavailable
from scalearn.errors import UserError
from scalearn.secrets import MASK, clause, without_secrets

VARIABLE = "SCALEARN_WEBHOOK"
LAST_SECONDS = 10.0
"""How long the end of a run waits for the webhook."""
LAST_SECONDS_INTERRUPTED = 0.5

_TIMEOUT = 5.0
_ATTEMPTS = 3
_PAUSE = 1.0


class Notifier:
    """Posts each message in a thread of its own. Use as a context manager: an error that ends the run is told too."""

    def __init__(self, notify: Notify, sweep: str, store: Store) -> None:
        """Prepare. Nothing is told before `begin`.

        Args:
            notify: The webhook and the form of the messages. Without a webhook, or with the masked one of a manifest, `SCALEARN_WEBHOOK`.
            sweep: The sweep's name.
            store: Where a failed job leaves the reason.

        Raises:
            UserError: The webhook is no web address.
        """
        named = notify.webhook if notify.webhook and MASK not in notify.webhook else os.environ.get(VARIABLE)
        if named and not is_web_address(named):
            raise UserError(f"{VARIABLE} must be a web address, which begins with http:// or https:// and names a host.")
        self._url, self._slack, self._sweep, self._store = named, notify.form == "slack", sweep, store
        self._graph: Graph | None = None
        self._threads: list[threading.Thread] = []
        self._failed = False
        self._problem: str | None = None

    def __enter__(self) -> "Notifier":
        """Do nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tell of an error that ends the run."""
        if isinstance(error, Exception):
            self.end("end", 2, f"It ended with an error: {clause(error)}.")

    def begin(self, graph: Graph) -> None:
        """Learn which jobs the run has."""
        self._graph = graph

    def listen(self, node: str, state: State) -> None:
        """Tell of the first job that fails. The searcher calls this as its listener."""
        if state == "failed" and not self._failed:
            self._failed = True
            self._start(self._tell_failure, node)

    def end(self, event: Literal["end", "budget"], code: int, remark: str = "", patience: float = LAST_SECONDS) -> str | None:
        """Tell of the end, and wait a moment for what is under way.

        Args:
            event: What the message calls it.
            code: The run's exit code.
            remark: A sentence on it.
            patience: The longest wait, in seconds.

        Returns:
            Why the webhook may not have been told everything. None: it was, or there is none, or the run had not begun.
        """
        if self._graph is None:
            return None
        counts = {state: count for state, count in self._graph.counts().items() if count}
        done = sum(counts.get(state, 0) for state in DONE)
        others = "".join(f", {count} {state}" for state, count in counts.items() if state not in DONE)
        text = f"Sweep {self._sweep}: {done} of {len(self._graph)} jobs are done{others}. {remark}".rstrip()
        self._start(self._post, {"event": event, "code": code, "jobs": counts, "text": text})
        until = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self._problem = "it did not answer in time"
        return self._problem and f"The webhook at {urlsplit(self._url or '').hostname} was not told everything: {self._problem}."

    def _start(self, tell: Any, *arguments: Any) -> None:
        if self._url:
            self._threads.append(threading.Thread(target=tell, args=arguments, name="notify", daemon=True))
            self._threads[-1].start()

    def _tell_failure(self, node: str) -> None:
        record: dict[str, Any] = {}
        with contextlib.suppress(OSError, StoreUnavailable):
            record = self._store.storage.impatient.read_json(self._store.directory(node) / FAILED) or {}
        error = str(record.get("error", "no cause is known"))
        text = f"Sweep {self._sweep}: the first job has failed, and the others go on. {node}: {error}"
        self._post({"event": "failure", "node": node, "error": error, "text": text})

    def _post(self, message: dict[str, Any]) -> None:
        message = {"sweep": self._sweep, "store": self._store.url, **message}
        message = {key: without_secrets(value) if isinstance(value, str) else value for key, value in message.items()}
        body = json.dumps({"text": _for_slack(message["text"])} if self._slack else message).encode()
        for attempt in range(_ATTEMPTS):
            time.sleep(_PAUSE if attempt else 0.0)
            problem, again = _try_once(self._url or "", body)
            if not again:
                break
        self._problem = problem or self._problem


def _try_once(url: str, body: bytes) -> tuple[str | None, bool]:
    """Post once. Return what went wrong, without the address, which is a secret, and whether it may go better next time."""
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", "User-Agent": "scalearn"})
        with urllib.request.build_opener(_Unredirected).open(request, timeout=_TIMEOUT):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code >= 500 or error.code == 429
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__, True


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would turn the message into a request without one."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Refuse."""


def _for_slack(text: str) -> str:
    """Return text in which nothing is markup or calls anyone."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
