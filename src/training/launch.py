"""Several processes train as one: they start, do the same work, and end together.

Rank 0 composes the config, prepares the corpus and names the run folder. Then it sends the other
ranks the command line that joins the run. They wait for it: one folder, one corpus, one error.

    torchrun, srun   start every process; each finds its place in the environment
    python -m ...    is rank 0, and starts the other ranks when the run is prepared
"""

import atexit
import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from src import signals
from src.errors import UserError
from src.training.place import LOCALHOST, PARENT, Place, find_place
from src.wording.command_line import interpreter_arguments

if TYPE_CHECKING:
    from torch.distributed import TCPStore

CONNECT_TIMEOUT = timedelta(minutes=10)  # for the slowest process to be started
POLL_SECONDS = 0.2
SECONDS_TO_HEAR = 60.0  # rank 0 waits so long until all ranks know that there is no run
SECONDS_TO_END = 5.0  # after one process fails, until the others end

log = logging.getLogger(__name__)


def meet() -> list[str] | None:
    """Connect the processes; return the command line of this rank, or None for rank 0.

    The other ranks wait until rank 0 has prepared the run. If it never does, they exit.
    """
    place = find_place()
    if place.world_size == 1:
        return None
    store = _open_store(place)
    if place.rank == 0:
        atexit.register(_dismiss, store, place.world_size - 1)
        return None
    if PARENT in os.environ:
        _end_with_parent()
    try:
        while not store.check([_key()]):
            time.sleep(POLL_SECONDS)
        arguments = json.loads(store.get(_key()))
        store.add(_key("heard"), 1)
    except RuntimeError:  # the store ended with rank 0
        arguments = None
    if arguments is None:
        sys.exit()
    return arguments


@lru_cache
def _open_store(place: Place) -> "TCPStore":
    """Return the key-value store that rank 0, or torchrun's agent, serves to all."""
    serves = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return _lasting_store(place.address, place.port, serves)
    except RuntimeError as error:
        if not serves:
            raise UserError(
                f"rank {place.rank} found nobody at {place.address}:{place.port}: has rank 0 "
                f"ended, or is MASTER_ADDR or MASTER_PORT another?"
            ) from error
        raise UserError(
            f"cannot listen on port {place.port}: {str(error).splitlines()[0]}; choose another "
            f"with MASTER_PORT=..."
        ) from error


def _lasting_store(address: str, port: int, serves: bool) -> "TCPStore":
    """Return a store that lives until the process ends.

    Its destructor joins the thread that serves, at times for ever.
    """
    from torch.distributed import TCPStore

    store = TCPStore(
        address,
        port,
        is_master=serves,
        timeout=CONNECT_TIMEOUT,
        wait_for_workers=False,
        multi_tenant=True,  # torch.distributed will serve its own keys at the same port
    )
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    return store


def _key(name: str = "arguments") -> str:
    """Name what is in the store; torchrun's outlives a restart of the processes."""
    return f"gpt2-chat/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def _say(store: "TCPStore", arguments: Sequence[str] | None) -> None:
    with contextlib.suppress(RuntimeError):  # nobody is left to hear it
        store.set(_key(), json.dumps(arguments and list(arguments)))


def _dismiss(store: "TCPStore", num_others: int) -> None:
    """Tell the ranks that wait that there is no run; return when all of them know.

    Without the wait a slow rank would find no store and try for ``CONNECT_TIMEOUT``.
    """
    _say(store, None)
    end = time.monotonic() + SECONDS_TO_HEAR
    with contextlib.suppress(RuntimeError):
        while store.add(_key("heard"), 0) < num_others and time.monotonic() < end:
            time.sleep(POLL_SECONDS)


def _end_with_parent() -> None:
    """End this process when its parent ends, or at once if it has ended already."""
    signals.end_with_parent()
    if os.getppid() != int(os.environ[PARENT]):
        sys.exit()


class Processes:
    """The processes of one run, as a context around it in each of them.

    At its beginning the context writes this process's place into the environment. ``start`` starts
    the other ranks. At its end all have ended: if rank 0 succeeds, it waits for them; if it fails
    or is stopped, it kills them; if one of them fails, rank 0 ends with the same exit code.

    Args:
        num_devices: processes on this machine.
    """

    def __init__(self, num_devices: int):
        self.num_devices = num_devices
        self.children: list[subprocess.Popen] = []
        self.ending = threading.Event()
        self.reported = False
        self.reporting = threading.Lock()  # rank 0's own thread sees the failure, and the watcher
        self.store: TCPStore | None = None

    def __enter__(self) -> "Processes":
        self.before = dict(os.environ)
        self.place = find_place()
        if self.place.world_size > 1:
            self.store = _open_store(self.place)
        elif self.num_devices > 1:
            self.store = _lasting_store(LOCALHOST, 0, serves=True)
            size = self.num_devices
            self.place = Place(world_size=size, local_size=size, port=self.store.port)
        if self.place.world_size > 1:
            os.environ.update(self.place.variables())
        if self.place.rank:
            logging.captureWarnings(True)
            logging.disable(logging.WARNING)  # rank 0 says it all
        return self

    def start(self, arguments: Sequence[str]) -> None:
        """Tell the others how to join; start them if nothing else has.

        Args:
            arguments: the command line that composes this very run, in its folder.
        """
        if self.store is None or self.place.rank:  # alone, or not the rank that starts others
            return
        _say(self.store, arguments)
        if self.place.launcher is not None:
            return
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        for rank in range(1, self.place.world_size):
            place = Place(rank, self.place.world_size, rank, self.num_devices, port=self.place.port)
            self.children.append(
                subprocess.Popen(
                    [sys.executable, "-P", *interpreter_arguments("train")],
                    env=os.environ
                    | place.variables()
                    | {PARENT: str(os.getpid()), "PYTHONPATH": path},
                    start_new_session=True,  # Ctrl-C is for rank 0, which tells the others
                )
            )
        threading.Thread(target=self._watch, daemon=True).start()

    def kill(self) -> None:
        """End the processes that were started here, at once."""
        self.ending.set()
        for child in self.children:
            child.kill()
            child.wait()
        self.children.clear()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        code = None
        if isinstance(error, Exception) and not isinstance(error, UserError):
            code = self._failure(SECONDS_TO_END)  # this one may only have lost the connection
        if error is None:
            for child in self.children:
                child.wait()
            code = self._failure(0)
        self.kill()
        if self.place.world_size > 1:
            self._leave()
        if code is not None:
            raise SystemExit(code) from error

    def _leave(self) -> None:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(self.before)
        self.store = None

    def _failure(self, seconds: float) -> int | None:
        """Return the exit code of a child that failed, waiting for it at most so long."""
        end = time.monotonic() + seconds
        while True:
            for rank, child in enumerate(self.children, 1):
                if code := child.poll():
                    if code < 0:
                        self._report(rank, signal.Signals(-code).name)
                    return code if code > 0 else 128 - code
            if time.monotonic() >= end or not self.children:
                return None
            time.sleep(POLL_SECONDS)

    def _report(self, rank: int, name: str) -> None:
        """Say once which signal ended a process that was not ended here."""
        with self.reporting:
            if self.reported or self.ending.is_set():
                return
            self.reported = True
        log.error("error: the process of rank %d was ended by %s", rank, name)

    def _watch(self) -> None:
        """End all if a child has failed while rank 0 waits for it in vain."""
        while not self.ending.wait(POLL_SECONDS):
            code = self._failure(0)
            if code is not None and not self.ending.wait(2 * SECONDS_TO_END):
                self.kill()
                os._exit(code)
