"""The process that downloads from the hub; ``src.download`` starts and watches it.

It reads one line of JSON, what to download, and says one line for each event: ``ready``, ``asked``,
``came``, ``bytes``, and in the end ``result``: null, or what is wrong.
"""

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.download import SECONDS, STEP, probe_hub
from src.errors import whole_message
from src.hub import cut_files

# What the libraries say of every error.
CHAFF = re.compile(
    r" For more information check: \S+| \(Request ID: [^)]*\)"
    r"| An error happened while trying to locate the files? on the Hub.*"
)


class Refused(Exception):
    """The hub asks to wait for longer than a person would."""

    def __init__(self, said: str, response: Any):
        super().__init__(said)
        self.response = response


class Damaged(Exception):
    """A file is not what the hub says it is."""


class Incomplete(Exception):
    """What is in the cache may be a part of a model."""


class Requests:
    """Says what is asked and what comes, and remembers the last of both."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints
        self.lock = threading.Lock()
        self.asked = self.came = ""
        self.bytes_of: dict[str, int] = {}  # the most that has come at once of each answer

    def say(self, **event: Any) -> None:
        """Write an event; nobody may be left to read it."""
        with self.lock, suppress(BrokenPipeError):
            print(json.dumps(event), file=self.answers, flush=True)

    def count(self, what: str, place: int) -> None:
        """Say how many bytes have come so far, where ``what`` has now come to ``place``."""
        with self.lock:
            self.bytes_of[what] = max(place, self.bytes_of.get(what, 0))
            total = sum(self.bytes_of.values())
        self.say(bytes=total)

    def watch(self) -> None:
        """Let huggingface_hub, and all that stands on it, use a client that says what it does."""
        import httpx2
        import huggingface_hub.constants
        from huggingface_hub.utils._http import hf_request_event_hook

        requests = self

        class Counted(httpx2.SyncByteStream):
            def __init__(self, stream: httpx2.SyncByteStream, what: str, start: int):
                self.stream, self.what, self.start = stream, what, start

            def __iter__(self) -> Iterator[bytes]:
                said = place = self.start
                for piece in self.stream:
                    place += len(piece)
                    if place >= said + STEP:
                        requests.count(self.what, place)
                        said = place
                    yield piece
                requests.count(self.what, place)

            def close(self) -> None:
                self.stream.close()

        def on_request(request: httpx2.Request) -> None:
            requests.asked = _name(request)
            requests.came = ""
            requests.say(asked=requests.asked)

        def on_response(response: httpx2.Response) -> None:
            requests.came = _describe(response)
            requests.say(came=requests.came)
            if response.status_code >= 400 and _seconds_to_wait(response) > SECONDS:
                raise Refused("it asks to wait longer than anybody would", response)
            url = response.url  # the query of a file may be a signature, new each time
            what = str(url) if "/api/" in url.path else url.path
            start = re.match(r"bytes (\d+)", response.headers.get("content-range", ""))
            stream: Any = response.stream
            response.stream = Counted(stream, what, int(start[1]) if start else 0)

        # Small pieces: who waits for this process sees a file grow, on slow lines too.
        huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 16
        huggingface_hub.set_client_factory(
            lambda: httpx2.Client(
                event_hooks={
                    "request": [hf_request_event_hook, on_request],
                    "response": [on_response],
                },
                follow_redirects=True,
                timeout=None,  # of huggingface_hub, which gives each request its own
            )
        )

    def explain(self, error: Exception) -> str:
        """Return in one line what was asked, what came and what the libraries say.

        Files come side by side: the last that was asked may be another than the one that failed.
        """
        said = CHAFF.sub("", whole_message(error)).strip()
        asked, came = self.asked, self.came
        each: BaseException | None = error
        while each is not None:
            if (response := getattr(each, "response", None)) is not None:
                asked, came = _name(response.request), _describe(response)
                break
            each = each.__cause__
        return f"asked {asked}, got {came or 'nothing'} ({said})" if asked else said


def _name(request: Any) -> str:
    place = request.url.copy_with(query=None, userinfo=b"")  # they may hold secrets
    return f"{request.method} {place}"


def _describe(response: Any) -> str:
    what = f"{response.status_code} {response.reason_phrase}".strip()
    if (seconds := _seconds_to_wait(response)) > 0:
        what += f", wait {seconds:.0f} seconds"
    if response.headers.get("content-type", "").startswith("text/html"):
        what += ", an HTML page, perhaps of a login"
    return what


def _seconds_to_wait(response: Any) -> float:
    """Return how long the hub asks to wait (RFC 9110; draft-ietf-httpapi-ratelimit-headers)."""
    if match := re.fullmatch(r"\d+", response.headers.get("retry-after", "")):
        return float(match[0])
    match = re.search(r"\bt=(\d+)", response.headers.get("ratelimit", ""))
    return float(match[1]) if match and response.status_code == 429 else 0.0


def serve() -> None:
    """Download what a line of standard input names."""
    requests = Requests()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    fetch = _fetch_model if "model" in job else _fetch_rows
    try:
        requests.watch()
        if "rows" in job:
            import datasets  # noqa: F401  # before the time counts: it takes seconds
        requests.say(ready=True)
        problem = probe_hub()
        if problem is None:
            fetch(job, requests)
    except Exception as error:  # whatever it is, the other process makes one line of it
        problem = requests.explain(error)
    requests.say(result=problem)
    os._exit(0)  # no thread of a library holds it up


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def _fetch_model(job: dict[str, Any], requests: Requests) -> None:
    from huggingface_hub import snapshot_download

    name, patterns = job["model"], job["patterns"]
    for snapshot in _snapshots(name):
        for path in cut_files(snapshot):  # huggingface_hub takes whatever is there for whole
            _remove(path)
    folder = Path(snapshot_download(name, allow_patterns=patterns))
    if not (folder.parents[1] / "trees" / f"{folder.name}.json").exists():
        raise Incomplete("the hub does not list its files; those in the cache may not be all")
    _compare([path for pattern in patterns for path in folder.glob(pattern)], requests)


def _snapshots(name: str) -> list[Path]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    return sorted(folder.glob("snapshots/*"))


def _remove(path: Path) -> None:
    """Remove a file of a snapshot and what it is a link to."""
    blob = path.resolve()
    path.unlink()
    blob.unlink(missing_ok=True)


def _fetch_rows(job: dict[str, Any], requests: Requests) -> None:
    """Download the files of a data set and make its tables of them."""
    import datasets

    download = datasets.DownloadManager.download

    def download_and_compare(manager: Any, addresses: Any) -> Any:
        paths = download(manager, addresses)
        _compare([Path(path) for path in _flat(paths)], requests)
        return paths

    datasets.DownloadManager.download = download_and_compare
    options = {"name": job["configuration"]} if job["configuration"] else {}
    datasets.load_dataset_builder(job["rows"], **options).download_and_prepare()


def _flat(paths: Any) -> Iterator[str]:
    if isinstance(paths, (list, tuple, dict)):
        for each in paths.values() if isinstance(paths, dict) else paths:
            yield from _flat(each)
    else:
        yield str(paths)


def _compare(paths: list[Path], requests: Requests) -> None:
    """Check files of the cache against the checksums that are their names; remove a damaged one.

    Raises:
        Damaged: names it.
    """
    for path in paths:
        blob = path.resolve()
        if not blob.is_file() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        if len(blob.name) == 64:
            digest = hashlib.sha256()
        else:  # as git names it
            digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
        with blob.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
                requests.count(str(blob), file.tell())
        if digest.hexdigest() != blob.name:
            _remove(path)
            raise Damaged(f"{path.name} came damaged: its checksum is wrong")
