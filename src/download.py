"""Downloads from the Hugging Face hub that never hang.

The libraries wait as long as a server says (an hour, where it counts requests), or for ever. So a
process of its own downloads, and says what it asks and what comes; this one watches it. When
nothing has moved for ``SECONDS``, it is ended, and one line says how far it came. What moves may
take as long as it takes: bytes of the hub, files that grow in the cache (another process may be
downloading them), work of the processor::

    this process ── what to download ──> the process that downloads ── requests ──> the hub
         └───<── asked, came, bytes, result ──┘            └──> the cache

It ends when its input ends, so also when this process is killed.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

SECONDS = 30.0  # without any movement
SECONDS_TO_START = 120.0  # until the libraries are imported, on a busy machine
PROBE_SECONDS = 10.0
POLL_SECONDS = 0.5
STEP = 1 << 14  # bytes in SECONDS that count as movement: less is a server that only drips
CPU_SECONDS = 10  # of work that count as movement
_START = "from src.downloader import serve; serve()"

Event = dict[str, Any]  # what the process that downloads says; see src/downloader.py


def is_switched_off() -> bool:
    """Whether a person switched the hub off (``HF_HUB_OFFLINE=1``)."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def endpoint() -> str:
    """Return the address of the hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def probe_hub() -> str | None:
    """Ask the hub for a sign of life; return what is wrong, or None if it answers.

    huggingface_hub retries a refused connection for up to 48 seconds; this asks once.
    """
    if is_switched_off():
        return "HF_HUB_OFFLINE is set"
    address = f"{endpoint()}/api/models/openai-community/gpt2"
    try:
        urllib.request.urlopen(address, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return None  # it answered, whatever it said
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{endpoint()} cannot be reached ({getattr(error, 'reason', None) or error})"
    return None


def download_model(name: str, patterns: Sequence[str]) -> str | None:
    """Download the files of a model that match ``patterns`` into the cache.

    Returns:
        None, or what is wrong: what was asked of which host, and what came.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    return _download({"model": name, "patterns": list(patterns)}, [folder])


def download_rows(name: str, configuration: str | None) -> str | None:
    """Download a data set into the cache; return None or what is wrong, as ``download_model``."""
    from huggingface_hub import constants

    files = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    return _download({"rows": name, "configuration": configuration}, [files, rows_folder(name)])


def rows_folder(name: str) -> Path:
    """Return the folder of the cache in which ``datasets`` keeps the tables of a data set."""
    import datasets
    import datasets.config

    owner, slash, name = name.rpartition("/")
    snake_case = datasets.naming.camelcase_to_snakecase(name)
    return Path(datasets.config.HF_DATASETS_CACHE, f"{owner}{'___' * bool(slash)}{snake_case}")


def _download(job: dict[str, Any], folders: list[Path]) -> str | None:
    if is_switched_off():
        return "HF_HUB_OFFLINE is set"
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    environment = {
        "PYTHONPATH": path,
        "HF_HUB_DISABLE_XET": "1",  # its bytes cannot be counted, nor compared with their checksum
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_VERBOSITY": "error",  # one line says what went wrong
        "DATASETS_VERBOSITY": "error",
        **({} if sys.stderr.isatty() else {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}),
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START],  # no other src of this folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        start_new_session=True,  # Ctrl-C is for this process, which ends the other
        text=True,
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # its end is reported below
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        return _watch(process, folders)
    finally:
        process.kill()
        process.wait()
        _remove_parts(folders[0])
        with suppress(BrokenPipeError):
            process.stdin.close()


def _remove_parts(folder: Path) -> None:
    """Remove the parts of files that ended downloads left: huggingface_hub 2 resumes none.

    They may be as large as the files, and each download has new names for its parts.
    """
    from filelock import FileLock, Timeout

    for part in folder.glob("blobs/*.incomplete"):
        name = part.name.partition(".")[0]
        lock = folder.parent / ".locks" / folder.name / f"{name}.lock"
        with suppress(Timeout, OSError), FileLock(lock, blocking=False):  # or it is at work
            part.unlink()


class Movement:
    """Whether a download moves; ``seconds`` counts since it last did.

    What comes a second time, because a connection broke, is no movement; nor is the work of asking
    for it again.
    """

    def __init__(self, process: subprocess.Popen, folders: list[Path]):
        import psutil

        self.usage = psutil.Process(process.pid)
        self.folders = folders
        self.most = [0, 0, 0]  # bytes of the hub, bytes in the cache, work since the last request
        self.work_before = 0.0
        self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds without movement."""
        return time.monotonic() - self.last

    def start(self) -> None:
        """Count from now on."""
        self.last = time.monotonic()

    def note_request(self) -> None:
        """Count the processor's work from now on."""
        self.work_before, self.most[2] = self._work(), 0

    def look(self, num_bytes: int) -> None:
        """See what has moved; ``num_bytes`` of the hub so far."""
        work = int(self._work() - self.work_before) // CPU_SECONDS
        now = [num_bytes // STEP, _size(self.folders) // STEP, work]
        if any(new > most for new, most in zip(now, self.most, strict=True)):
            self.last = time.monotonic()
        self.most = [max(pair) for pair in zip(now, self.most, strict=True)]

    def _work(self) -> float:
        import psutil

        try:
            return sum(self.usage.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            return self.work_before


def _watch(process: subprocess.Popen, folders: list[Path]) -> str | None:
    """Return what ``_download`` returns, once the process says so or nothing moves."""
    events: SimpleQueue[Event] = SimpleQueue()
    threading.Thread(target=_listen, args=(process, events), daemon=True).start()
    movement = Movement(process, folders)
    asked, came, num_bytes, limit = "", "nothing", 0, SECONDS_TO_START
    looked = 0.0
    while movement.seconds <= limit:
        with suppress(Empty):
            event = events.get(timeout=POLL_SECONDS)
            if "result" in event:
                return event["result"]
            if "asked" in event:
                asked, came = event["asked"], "nothing"
                movement.note_request()
            came = event.get("came", came)
            num_bytes = event.get("bytes", num_bytes)
            if event.get("ready"):
                limit = SECONDS
                movement.start()
        if time.monotonic() > looked + POLL_SECONDS:
            movement.look(num_bytes)
            looked = time.monotonic()
    if not asked:
        return f"{endpoint()} cannot be reached (nothing came for {limit:.0f} seconds)"
    return f"asked {asked}, got {came}; then nothing more came for {limit:.0f} seconds"


def _listen(process: subprocess.Popen, events: "SimpleQueue[Event]") -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            events.put(json.loads(line))
    events.put({"result": f"the process that downloads ended with {process.wait()}"})


def _size(folders: list[Path]) -> int:
    """Return the bytes of all files in ``folders``."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):  # it is gone by now
                    total += os.lstat(os.path.join(place, name)).st_size
    return total
