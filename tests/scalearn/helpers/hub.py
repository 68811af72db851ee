"""A model hub on loopback that answers as the real one does, as far as uploads and downloads of a repository need it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories of `anna` may be written; all others are refused. The commit that `lose` counts down to is never answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.collections: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.commits = 0
        self.lose = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about connections that a test cuts."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        if self.path == "/api/validate-yaml":
            return self.send({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "anna":
                return self.send({"error": "You don't have the rights to create a model under this namespace"}, 403)
            known = name in hub.repositories
            hub.repositories.setdefault(name, {})
            if asked.get("private") and not known:
                hub.private.add(name)
            return self.send({"url": f"{hub.address}/{name}"}, 409 if known else 200)
        if parts[:2] == ["api", "collections"]:
            return self.collect(parts[2:], json.loads(body))
        if parts[0] == "api" and parts[4] == "preupload":
            modes = [(each["path"], each["path"].endswith((".safetensors", ".bin"))) for each in json.loads(body)["files"]]
            return self.send(
                {"files": [{"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} for path, large in modes]}
            )
        if parts[-1] == "batch":
            wanted = json.loads(body)["objects"]
            upload = [each | {"actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}}} for each in wanted]
            return self.send({"transfer": "basic", "objects": upload})
        if parts[0] == "api" and parts[4] == "commit":
            return self.commit(f"{parts[2]}/{parts[3]}", [json.loads(line) for line in body.splitlines()])
        self.send({"error": f"no such call: {self.path}"}, 404)

    def collect(self, place: list[str], asked: dict[str, Any]) -> None:
        if not place:
            slug = f"{asked['namespace']}/{asked['title']}-1"
            known = slug in self.server.collections
            shown = {"title": asked["title"], "private": asked["private"], "lastUpdated": "2026-01-01T00:00:00.000Z"}
            unused = {"owner": {}, "position": 0, "theme": "", "upvotes": 0}
            self.server.collections.setdefault(slug, {"slug": slug, "items": [], **shown, **unused})
            return self.send({"slug": slug} if known else self.server.collections[slug], 409 if known else 200)
        collection, item = self.server.collections["/".join(place[:2])], asked["item"]
        known = item["id"] in [each["id"] for each in collection["items"]]
        if not known:
            collection["items"].append({"_id": item["id"], "position": 0, **item})
        self.send({"error": "already there"} if known else collection, 409 if known else 200)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        if hub.lose:
            hub.lose -= 1
            self.connection.close()
            self.close_connection = True
            return None
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                hub.repositories[name][value["path"]] = hub.blobs[value["oid"]]
        hub.commits += 1
        self.send({"success": True, "commitOid": self.revision(name), "commitUrl": f"{hub.address}/{name}/commit/{self.revision(name)}"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.blobs[self.path.rpartition("/")[2]] = content
        self.send({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "collections"]:
            return self.send(hub.collections["/".join(parts[2:4])])
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = hub.repositories.get(name)
        if files is None:
            return self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if parts[0] == "api":
            siblings = [{"rfilename": path} for path in files]
            return self.send(
                {"id": name, "modelId": name, "private": name in hub.private, "sha": self.revision(name), "siblings": siblings, "tags": []}
            )
        content = files.get("/".join(parts[4:]))
        if content is None:
            return self.send({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(content).hexdigest()
        self.send(content, 200, {"ETag": f'"{digest}"', "X-Repo-Commit": self.revision(name)})

    def revision(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.server.repositories[name].items())).encode()).hexdigest()

    def send(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
