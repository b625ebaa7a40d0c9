"""Whatever the hub does, a start goes on in 30 seconds: with the files, or with one line."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from src.data.tokenizer import Tokenizer
from tests.faults.conftest import FULL
from tests.faults.hub_server import Hub, Request

ROOT = Path(__file__).parents[2]
SECONDS = 30  # without movement
WAITED = SECONDS if FULL else 8  # the same, where each of them is waited for
MOVING = SECONDS if FULL else 5  # the same, where something moves ten times as often
SLACK = 100  # for the start of the process that downloads, on a busy machine; a hub may take 600
KINDS = ("model", "tokenizer", "rows")
LARGE = 3_000_000  # bytes of the files that are cut, stalled and dripped

CODE = """
import sys, time
import src.download
from src.errors import UserError
kind, src.download.SECONDS = sys.argv[1], float(sys.argv[2])
if kind == "rows":
    import datasets
    from src.data.config import DataConfig
    from src.data.hub_rows import hub_parts
    values = dict.fromkeys(DataConfig.__dataclass_fields__)
    config = object.__new__(DataConfig)
    config.__dict__ |= values | {"path": "owner/rows", "train_split": "train"}
    def load():
        return [row["prompt"] for _, row in hub_parts(config)[0][0].records()]
elif kind == "tokenizer":
    from src.data.tokenizer import load_tokenizer
    def load():
        return load_tokenizer("owner/name").fingerprint()
else:
    import hashlib
    from src.hub import local_folder
    def load():
        wanted = ["config.json", "*.safetensors"]
        folder = local_folder("owner/name", wanted, wanted, "model_path")
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
print("loaded", flush=True)
started = time.monotonic()
try:
    print(load())
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exitcode = 2
print(f"took {time.monotonic() - started}")
sys.exit(getattr(sys, "exitcode", 0))
"""


@dataclass
class End:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def seconds(self) -> float:
        """How long it loaded."""
        return float(re.search(r"took (\S+)", self.out)[1])

    @property
    def result(self) -> str:
        """What it loaded."""
        return self.out.splitlines()[1]


def start(kind: str, endpoint: str, home: Path, seconds: float = SECONDS) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "no_proxy": "*"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, kind, str(seconds)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def load(kind: str, endpoint: str, home: Path, seconds: float = SECONDS) -> End:
    process = start(kind, endpoint, home, seconds)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return End(process.returncode, out, err)


@pytest.fixture(scope="module")
def repositories(tokenizer: Tokenizer, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    model = {path.name: path.read_bytes() for path in folder.iterdir()}
    model |= {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": os.urandom(LARGE)}
    model["tokenizer.json"] += b" " * LARGE
    row = '{"prompt": "question %d", "response": "%s"}\n'
    lines = [row % (number, "answer " * 100) for number in range(LARGE // 700)]
    return {
        "models/owner/name": model,
        "datasets/owner/rows": {"train.jsonl": "".join(lines).encode()},
    }


# The faults. Each gets a request, and returns whether it has dealt with it.


def status(number: int, headers: dict[str, str] | None = None) -> Callable[[Request], bool]:
    def answer(request: Request) -> bool:
        request.reply(number, headers or {}, b'{"error": "no"}')
        return True

    return answer


def page(request: Request) -> bool:
    request.reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Log in</html>" * 99)
    return True


def silence(request: Request) -> bool:
    time.sleep(600)
    return True


def dripping_headers(request: Request) -> bool:
    return request.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 9999, seconds=0.5)


def dripping_content(request: Request) -> bool:
    request.start(200, {"Content-Type": "application/json"}, 9999)
    return request.drip(b"[" + b" " * 9998, seconds=0.5)


def of_files(fault: Callable[[Request], bool]) -> Callable[[Request], bool]:
    """Only where the bytes of a large file are asked for."""
    return lambda request: is_large(request) and fault(request)


def is_large(request: Request) -> bool:
    large = (".safetensors", "tokenizer.json", ".jsonl")
    return request.command == "GET" and "/resolve/" in request.path and request.path.endswith(large)


def half(request: Request, then: Callable[[], object]) -> bool:
    _, headers, content = request.answer()
    request.start(200, headers, len(content))
    request.wfile.write(content[: len(content) // 2])
    request.wfile.flush()
    then()
    request.close_connection = True
    return True


def stall(request: Request) -> bool:
    return half(request, lambda: time.sleep(600))


def cut(request: Request) -> bool:
    return half(request, lambda: None)


def too_short(request: Request) -> bool:
    """Half a file that is said to be the whole."""
    _, headers, content = request.answer()
    request.start(200, headers, len(content) // 2)
    request.wfile.write(content[: len(content) // 2])
    return True


def wrong_bytes(request: Request) -> bool:
    _, headers, content = request.answer()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    request.reply(200, headers, bytes(damaged))
    return True


def round_and_round(request: Request) -> bool:
    request.start(302, {"Location": request.path}, 0)
    return True


AN_HOUR = {"Retry-After": "3600"}
FAULTS: dict[str, Callable[[Request], bool] | None] = {
    "refused": None,
    "no name": None,
    "401": status(401),
    "403": status(403, {"X-Error-Code": "GatedRepo"}),
    "404": status(404, {"X-Error-Code": "RepoNotFound"}),
    "429": status(429, AN_HOUR),
    "500": status(500),
    "503": status(503, AN_HOUR),
    "html": page,
    "silence": silence,
    "dripping headers": dripping_headers,
    "dripping content": dripping_content,
    "stall": of_files(stall),
    "cut": of_files(cut),
    "too short": of_files(too_short),
    "wrong bytes": of_files(wrong_bytes),
    "429 for a file": of_files(status(429, AN_HOUR)),
    "html for a file": of_files(page),
    "redirects": round_and_round,
}
IN_CI = {("429", "rows"), ("dripping content", "model"), ("stall", "model"), ("html", "tokenizer")}
IN_CI |= {("no name", "tokenizer"), ("wrong bytes", "model"), ("cut", "model")}

ALL = [(fault, kind) for fault in FAULTS for kind in KINDS]
CASES = [case for case in ALL if FULL or case in IN_CI]
SUBJECTS = {
    "model": "model_path=owner/name",
    "tokenizer": "model.tokenizer=owner/name",
    "rows": "data.path=owner/rows",
}
SAYS = {
    "refused": "Connection refused",
    "no name": "cannot be reached",
    "silence": "cannot be reached",
    "dripping headers": "cannot be reached",
    "dripping content": "got ",
    "stall": "got 200 OK; then nothing more came for|timed out",
    "429": "got 429 Too Many Requests, wait 3600 seconds .it asks to wait longer",
    "503": "got 503 Service Unavailable, wait 3600 seconds .it asks to wait longer",
    "html": "an HTML page, perhaps of a login",
    "wrong bytes": "checksum is wrong",
}


WAITED_FOR = {"dripping content", "stall", "cut"}  # of those in CI: others end by an answer
OF_FILES = {"stall", "cut", "too short", "wrong bytes", "429 for a file", "html for a file"}


@pytest.fixture(scope="module")
def expected(repositories, tmp_path_factory) -> dict[str, End]:
    """What a hub in good order gives, and again from the cache, without a connection."""
    found = {}
    for kind in KINDS:
        home = tmp_path_factory.mktemp("home")
        with Hub(repositories) as hub:
            cold = load(kind, hub.endpoint, home)
            assert cold.code == 0, cold.err
            asked = len(hub.requests)
            assert asked > 2
            found[kind] = load(kind, hub.endpoint, home)
            assert len(hub.requests) == asked
        assert found[kind].result == cold.result
    return found


@pytest.fixture(scope="module")
def ends(repositories, tmp_path_factory) -> dict[tuple[str, str], tuple[End, str, Path]]:
    """How each case ended, several at a time: they mostly wait."""

    def run(case: tuple[str, str]) -> tuple[End, str, Path]:
        fault, kind = case
        home = tmp_path_factory.mktemp("home")
        with Hub(repositories, FAULTS[fault]) as hub:
            endpoint = hub.endpoint
            if fault == "no name":
                endpoint = "http://no-such-host.invalid"
            elif fault == "refused":
                with closing(socket.create_server(("127.0.0.1", 0))) as server:
                    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            seconds = WAITED if fault in WAITED_FOR else SECONDS
            return load(kind, endpoint, home, seconds), endpoint, home

    with ThreadPoolExecutor(8 if FULL else 3) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.parametrize(("fault", "kind"), CASES)
def test_a_cold_start_ends_with_one_line(ends, expected, repositories, fault, kind):
    end, endpoint, home = ends[fault, kind]
    assert end.code == 2, end.err
    (line,) = end.err.splitlines()
    assert end.seconds < SECONDS + SLACK
    assert line.startswith(f"error: {SUBJECTS[kind]} is not ")
    assert endpoint in line or fault == "wrong bytes"
    assert re.search(SAYS.get(fault, rf"got {fault[:3]}" if fault[0].isdigit() else "got "), line)
    assert "download it once where there is a network" in line
    print(line)
    assert not list(home.rglob("*.incomplete"))
    if fault in OF_FILES:  # nothing half is taken for whole
        with Hub(repositories) as hub:
            good = load(kind, hub.endpoint, home)
        assert good.code == 0, good.err
        assert good.result == expected[kind].result


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_cache_makes_no_connection(expected, kind):
    warm = expected[kind]
    assert (warm.code, warm.err) == (0, "")
    assert warm.seconds < SECONDS


def test_what_moves_may_take_as_long_as_it_takes(repositories, tmp_path):
    """Three times as long as may pass without movement."""

    def slowly(request: Request) -> bool:
        if not is_large(request):
            return False
        _, headers, content = request.answer()
        request.start(200, headers, len(content))
        return request.drip(content, 0.5, size=len(content) // (6 * MOVING))

    with Hub(repositories, slowly) as hub:
        end = load("model", hub.endpoint, tmp_path, MOVING)
    assert end.code == 0, end.err
    assert end.seconds > 2 * MOVING


def who_waits(process: subprocess.Popen, waiting: threading.Event) -> list[psutil.Process]:
    """Return what ``process`` has started, once it is ``waiting`` for a file."""
    assert waiting.wait(120), "it asks for no file"
    found = psutil.Process(process.pid).children(recursive=True)
    assert found, "it has started no process"
    return found


SIGNALS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM] if FULL else [signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("kind", ["model", "rows"] if FULL else ["model"])
def test_a_signal_ends_the_waiting_at_once(repositories, tmp_path, number, kind):
    waiting = threading.Event()

    def stalls(request: Request) -> bool:
        return half(request, lambda: waiting.set() or time.sleep(600))

    with Hub(repositories, of_files(stalls)) as hub:
        process = start(kind, hub.endpoint, tmp_path, seconds=600)
        others = who_waits(process, waiting)
        process.send_signal(number)
        process.communicate(timeout=25)  # who tries again would be at it for longer
        _, alive = psutil.wait_procs(others, timeout=25)
    assert not alive


@pytest.mark.parametrize("damage", ["empty", "cut", "gone"] if FULL else ["empty"])
def test_a_file_of_the_cache_that_is_not_whole_is_fetched_again(repositories, tmp_path, damage):
    """As power loss leaves it."""
    with Hub(repositories) as hub:
        cold = load("model", hub.endpoint, tmp_path)
        (path,) = tmp_path.rglob("*.safetensors")
        blob = path.resolve()
        if damage == "gone":
            blob.unlink()
        else:
            os.truncate(blob, 0 if damage == "empty" else LARGE // 2)
        again = load("model", hub.endpoint, tmp_path)
    assert (again.code, again.result) == (0, cold.result), again.err


def test_what_a_killed_download_left_does_not_hide_the_rows_of_the_cache(repositories, tmp_path):
    with Hub(repositories) as hub:
        cold = load("rows", hub.endpoint, tmp_path)
        (info,) = tmp_path.rglob("dataset_info.json")
        shutil.copytree(info.parent, info.parent.with_name("b" * 40 + ".incomplete"))
        (info.parent.with_name("b" * 40 + ".incomplete") / info.name).unlink()
        asked = len(hub.requests)
        warm = load("rows", hub.endpoint, tmp_path)
        assert (warm.code, warm.result) == (0, cold.result)
        assert len(hub.requests) == asked
    assert not list(tmp_path.rglob("*.incomplete"))
