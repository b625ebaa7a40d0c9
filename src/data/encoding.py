"""Conversations to examples on all cores, in order.

Cutting and looking up words holds Python's lock, so the other cores run processes. This process
reads the rows, and encodes a batch itself whenever the others have enough::

    rows ──> batches ──┬─ a process ───┬──> examples, in the order of the rows
                       ├─ a process ───┤
                       └─ this process ┘

The processes start after the first few batches, for few rows are encoded sooner than a process
starts. A process is a bare interpreter behind two pipes: it does not run the main module, and ends
when its input ends, even if this process was killed. No signal but that ends it: a scheduler sends
its own to all processes of a job, and the batch that this one waits for is still encoded.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from src import signals
from src.data.conversation import Conversation
from src.data.template import Examples, encode_examples
from src.data.tokenizer import Tokenizer
from src.data.words import WordEncoder
from src.errors import UserError
from src.free_cores import spare_cores

NUM_FIRST = 4  # batches that this process encodes before it starts others
NUM_WAITING = 2  # batches for each process: the current one and the next
MAX_PROCESSES = 15  # reading does not feed more
_START = "from src.data.encoding import serve; serve()"

Batch = list[Conversation]
Setup = tuple[Tokenizer, dict[str, bytes], str]  # the ids of the words so far; supervise


def encode_all(
    batches: Iterable[Batch], tokenizer: Tokenizer, supervise: str, num_processes: int
) -> Generator[Examples, None, None]:
    """Yield the examples of each batch, with the help of at most ``num_processes`` processes.

    Only a few batches are in memory at any time.
    """
    encoder = WordEncoder(tokenizer)
    if encoder.cut is None:
        num_processes = 0  # the library itself encodes on all cores
    most = NUM_WAITING * num_processes
    pending: deque[Future[Examples]] = deque()
    with ExitStack() as stack:
        pool = None
        for number, batch in enumerate(batches):
            if number == NUM_FIRST and num_processes:
                with _signals_blocked():  # what one raises would leave processes that nobody ends
                    pool = stack.enter_context(Pool(num_processes, encoder, supervise))
            if pool is not None and sum(not future.done() for future in pending) < most:
                pending.append(pool.submit(batch))
            else:
                future: Future[Examples] = Future()
                future.set_result(encode_examples(batch, encoder, supervise))
                pending.append(future)
            while pending and (pending[0].done() or len(pending) > 2 * most):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def num_helpers() -> int:
    """Return the number of processes that can encode beside this one."""
    return min(MAX_PROCESSES, spare_cores())


class Pool:
    """Processes that encode, and a thread for each that talks to it."""

    def __init__(self, num_processes: int, encoder: WordEncoder, supervise: str):
        setup = (encoder.tokenizer, dict(encoder.ids_of), supervise)
        self.processes = [_Process(setup) for _ in range(num_processes)]
        self.threads = ThreadPoolExecutor(num_processes)
        self.free: SimpleQueue[_Process] = SimpleQueue()
        for process in self.processes:
            self.free.put(process)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(cancel_futures=True)
        for process in self.processes:
            process.close()

    def submit(self, batch: Batch) -> Future[Examples]:
        """Return the future examples of ``batch``."""
        return self.threads.submit(self._encode, batch)

    def _encode(self, batch: Batch) -> Examples:
        process = self.free.get()
        try:
            return process.encode(batch)
        finally:
            self.free.put(process)


class _Process:
    def __init__(self, setup: Setup):
        self.setup: Setup | None = setup
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        with _signals_blocked():  # a process starts with the mask of its parent
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START],  # no other src of this folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,  # Ctrl-C is for this process, even while that one imports
            )

    def encode(self, batch: Batch) -> Examples:
        """Send a batch and wait for its examples."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if self.setup is not None:
                pickle.dump(self.setup, self.process.stdin)
                self.setup = None
            pickle.dump(batch, self.process.stdin)
            self.process.stdin.flush()
            return pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = self.process.wait()
            if code == -9:
                what = "a process that encodes rows was killed, perhaps for want of memory"
                raise UserError(f"{what}: start again") from error
            raise RuntimeError(f"a process that encodes rows ended with {code}") from error

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let no signal that asks to end reach this thread; it comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows sends none
        yield
        return
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, asking)  # raises what came just before, once set
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve() -> None:
    """Encode batches from standard input to standard output until the input ends."""
    signals.follow_parent()
    with open(sys.stdin.fileno(), "rb", closefd=False) as requests:
        if not requests.peek(1):  # no batch came
            return
        tokenizer, ids_of, supervise = pickle.load(requests)
        encoder = WordEncoder(tokenizer)
        encoder.ids_of.update(ids_of)
        while requests.peek(1):
            examples = encode_examples(pickle.load(requests), encoder, supervise)
            pickle.dump(examples, sys.stdout.buffer)
            sys.stdout.buffer.flush()
