"""A hub of one model and one data set on this machine, with faults."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

COMMIT = "a" * 40
Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """One that takes as many connections at once as tests make."""

    daemon_threads = True
    request_queue_size = 128  # five, and the next would wait for seconds


class Hub:
    """The hub, as a context.

    Args:
        repositories: files by their names, of "models/owner/name" and "datasets/owner/name".
        fault: gets a request and may answer it: then it returns True.
    """

    def __init__(
        self,
        repositories: dict[str, dict[str, bytes]],
        fault: "Callable[[Request], bool] | None" = None,
    ):
        self.repositories = repositories
        self.fault = fault
        self.requests: list[str] = []
        self.server = Server(("127.0.0.1", 0), Request)
        self.server.hub = self  # type: ignore[attr-defined]
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


class Request(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    @property
    def is_of_a_file(self) -> bool:
        """Whether it asks for the bytes of a large file."""
        return self.command == "GET" and self.path.endswith((".safetensors", ".jsonl", "s.txt"))

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # who asked has gone
            super().handle()

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if self.hub.fault is None or not self.hub.fault(self):
            self.reply(*self.answer())

    do_HEAD = do_POST = do_GET

    def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        if status == 200 and start:
            status, content = 206, content[start:]
        self.start(status, headers, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def start(self, status: int, headers: dict[str, str], length: int) -> None:
        """Send all but the content."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def drip(self, content: bytes, seconds: float, size: int = 1) -> bool:
        """Send a piece of ``content`` every few ``seconds``."""
        for place in range(0, len(content), size):
            self.wfile.write(content[place : place + size])
            self.wfile.flush()
            time.sleep(seconds)
        return True

    def answer(self) -> Answer:
        """Return what a hub in good order answers."""
        path = self.path.split("?")[0]
        for repository, files in self.hub.repositories.items():
            kind, _, name = repository.partition("/")
            place = f"/api/{repository}"
            if path == place or path.startswith(f"{place}/revision"):
                siblings = [{"rfilename": file} for file in files]
                return _json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})
            if path.startswith(f"{place}/tree"):
                return _json([_entry(file, content) for file, content in files.items()])
            if path.startswith(f"{place}/paths-info"):
                wanted = parse_qs(self.body.decode())["paths"]
                return _json([_entry(file, files[file]) for file in wanted if file in files])
            place = f"/{name}/resolve/" if kind == "models" else f"/{repository}/resolve/"
            if path.startswith(place):
                file = path.removeprefix(place).split("/", 1)[1]
                if file in files:
                    return 200, _headers(file, files[file]), files[file]
                return _missing("EntryNotFound")
        return _missing("RepoNotFound")


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if name.endswith(".safetensors"):
        entry["lfs"] = {
            "oid": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 130,
        }
    return entry


def _headers(name: str, content: bytes) -> dict[str, str]:
    entry = _entry(name, content)
    return {
        "ETag": f'"{entry.get("lfs", entry)["oid"]}"',
        "X-Repo-Commit": COMMIT,
        "Accept-Ranges": "bytes",
    }


def _json(values: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    content = json.dumps(values).encode()
    return status, {"Content-Type": "application/json"} | (headers or {}), content


def _missing(code: str) -> Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT}
    return _json({"error": code}, 404, headers)
