"""Other processes change how fast, not what; and none of them stays."""

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import count

import numpy as np
import psutil
import pytest

from src.data import encoding
from src.data.conversation import Conversation
from src.data.encoding import encode_all
from src.data.template import encode_examples
from src.data.words import WordEncoder
from src.errors import UserError


def batch(number: int) -> list[Conversation]:
    return [Conversation(((f"question {number} {i}", f"answer {i}"),)) for i in range(20)]


@pytest.fixture(autouse=True)
def started(monkeypatch) -> list[subprocess.Popen]:
    """The processes that were started; other processes' work begins at the second batch."""
    processes = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(encoding.subprocess, "Popen", Popen)
    monkeypatch.setattr(encoding, "NUM_FIRST", 1)
    return processes


def test_examples_come_in_order_from_any_number_of_processes(tokenizer, started):
    batches = [batch(number) for number in range(60)]
    encoder = WordEncoder(tokenizer)
    expected = [encode_examples(each, encoder, "article") for each in batches]
    for num_processes in (0, 2):
        found = []
        for examples in encode_all(iter(batches), tokenizer, "article", num_processes):
            found.append(examples)
            time.sleep(0.02 * bool(num_processes))  # so that the others get to do some
        for a, b in zip(found, expected, strict=True):
            assert a.input_ids.tolist() == b.input_ids.tolist()
            assert a.supervised.tolist() == b.supervised.tolist()
            assert a.offsets.tolist() == b.offsets.tolist()
    assert [process.returncode for process in started] == [0, 0]


def test_few_rows_start_no_process(tokenizer, started):
    assert len(list(encode_all([batch(0)], tokenizer, "article", 2))) == 1
    assert not started


def test_reading_goes_no_further_ahead_than_a_few_batches(tokenizer):
    read = []
    batches = (read.append(number) or batch(number) for number in count())
    encoded = encode_all(batches, tokenizer, "article", 2)
    for taken in range(1, 100):
        next(encoded)
        assert len(read) - taken <= 8
    encoded.close()


def test_a_break_while_reading_ends_the_processes(tokenizer, started):
    def broken():
        yield from (batch(number) for number in range(9))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(encode_all(broken(), tokenizer, "article", 2))
    assert [process.returncode for process in started] == [0, 0]


def test_a_process_that_dies_is_named(tokenizer, started):
    def killing():
        for number in range(2000):
            if number == 3:
                started[0].kill()
            time.sleep(0.01)
            yield batch(number)

    with pytest.raises(UserError, match="a process that encodes rows was killed, perhaps for want"):
        list(encode_all(killing(), tokenizer, "article", 1))


def test_signals_to_all_processes_of_a_job_do_not_end_the_encoding(tokenizer, started):
    """As srun and a terminal send them; from the first moment on."""

    def signalled():
        for number in range(200):
            for process in started:
                for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"):
                    process.send_signal(getattr(signal, name))
            time.sleep(0.01)
            yield batch(number)

    assert len(list(encode_all(signalled(), tokenizer, "article", 1))) == 200
    assert [process.returncode for process in started] == [0]


def test_a_signal_while_a_process_starts_leaves_none(tokenizer, started, monkeypatch):
    class Stop(BaseException):
        pass

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    def stop(*_):
        raise Stop

    monkeypatch.setattr(encoding.subprocess, "Popen", Popen)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stop):
            list(encode_all([batch(number) for number in range(9)], tokenizer, "article", 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [process.returncode for process in started] == [0, 0]


def test_a_signal_just_before_they_are_blocked_leaves_none_blocked(tokenizer, monkeypatch):
    class Stop(BaseException):
        pass

    set_mask = signal.pthread_sigmask

    def interrupted(how, numbers):  # Python's own runs handlers after it has set the mask
        before = set_mask(how, numbers)
        if numbers and how == signal.SIG_BLOCK:
            raise Stop
        return before

    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    before = set_mask(signal.SIG_BLOCK, ())
    with pytest.raises(Stop):
        list(encode_all([batch(number) for number in range(9)], tokenizer, "article", 2))
    assert set_mask(signal.SIG_SETMASK, before) == before


def test_a_process_starts_with_the_words_that_are_known(tokenizer):
    encoder = WordEncoder(tokenizer)
    odd = [5, 4, 3, 5, 4, 3]
    encoder.ids_of[" word"] = np.array(odd, encoder.dtype).tobytes()
    with encoding.Pool(1, encoder, "responses") as pool:
        examples = pool.submit([Conversation((("a", "word"),))]).result()
    assert examples.input_ids[examples.supervised].tolist() == [*odd, tokenizer.end_id]


def test_another_src_in_the_folder_is_in_nobodys_way(tokenizer, started, tmp_path, monkeypatch):
    """Many projects have one, and an installed program runs in their folders."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("raise RuntimeError('not this one')", "utf-8")
    monkeypatch.chdir(tmp_path)
    batches = [batch(number) for number in range(8)]
    assert len(list(encode_all(batches, tokenizer, "article", 1))) == 8
    assert started


def test_processes_end_when_ours_is_killed(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from src.data import encoding\n"
        "from src.data.conversation import Conversation\n"
        "from src.data.tokenizer import train_tokenizer\n"
        "from src.data.words import WordEncoder\n"
        "encoder = WordEncoder(train_tokenizer(['a b c'] * 9, 300))\n"
        "pool = encoding.Pool(1, encoder, 'article')\n"
        "pool.submit([Conversation((('a', 'b'),))]).result()\n"
        "print(pool.processes[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with suppress(psutil.NoSuchProcess):  # it may have ended, and be forgotten, at any point here
        child = psutil.Process(int(done.stdout))
        end = time.monotonic() + 60
        while child.status() != psutil.STATUS_ZOMBIE:  # of who does not wait for what it inherits
            assert time.monotonic() < end, "it is still there"
            time.sleep(0.05)
    assert not done.stderr
