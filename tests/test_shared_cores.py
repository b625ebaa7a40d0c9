"""Beside other programs: threads leave them their cores, and compute the same bits."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from src import adaptation, free_cores, shared_cores
from src import openmp as openmp_module
from src.adaptation import follow_load
from src.free_cores import Load, Look, allowed_cores
from src.openmp import openmp
from src.shared_cores import (
    Follower,
    auto_threads,
    can_move,
    choose_threads,
    threads_in_torch,
)

TWO = pytest.mark.skipif(
    len(allowed_cores()) < 2 or not can_move(), reason="needs two cores, Linux and GNU's OpenMP"
)
WHOLE = allowed_cores()
ALLOWED = sorted(WHOLE)[:2]  # threads on one core fewer would need uneven rounds on more
SECONDS = 60  # that a thread may wait for its turn, on a busy machine


@pytest.fixture(autouse=True)
def _on_two_cores():
    """So that a machine of many behaves as one of two."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    shared_cores.move_threads(WHOLE, frozenset(ALLOWED))
    yield
    shared_cores.move_threads(frozenset(ALLOWED), WHOLE)


def load(room: float, own: float = 0.0, **by_core: float) -> Load:
    return Load(own, {int(core[1:]): used for core, used in by_core.items()}, room)


@pytest.mark.parametrize(
    ("most", "free", "threads"),
    [
        (2, 2, 2),
        (2, 1, 2),  # two in turns on one core: what it computes does not depend on the load
        (4, 3, 3),  # four would need two rounds on three
        (4, 2, 4),
        (4, 1, 4),
        (16, 15, 15),
        (16, 8, 16),
        (16, 5, 15),
        (6, 4, 4),
        (2, 8, 2),
        (1, 1, 1),
    ],
)
def test_threads_are_the_most_that_the_free_cores_serve_in_even_rounds(most, free, threads):
    assert choose_threads(most, free, can_move=True) == threads


@pytest.mark.parametrize(("most", "free", "threads"), [(2, 1, 1), (4, 3, 3), (4, 8, 4)])
def test_where_threads_cannot_be_moved_there_are_as_many_as_cores_are_free(most, free, threads):
    assert choose_threads(most, free, can_move=False) == threads


@pytest.mark.parametrize(
    ("cores", "processes", "workers", "threads"),
    [
        (8, 1, 0, 6),
        (4, 1, 0, 4),
        (8, 1, 3, 5),
        (2, 1, 4, 1),
        (8, 2, 0, 4),
        (8, 2, 2, 2),
        (8, 16, 0, 1),
    ],
)
def test_threads_workers_and_processes_never_exceed_the_cores(
    monkeypatch, cores, processes, workers, threads
):
    for module in (free_cores, shared_cores):
        monkeypatch.setattr(module, "num_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)  # as OMP_NUM_THREADS asks
    assert auto_threads(processes, workers) == threads


def tasks() -> set[frozenset[int]]:
    """Return the sets of cores that this process's threads are on."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            found.add(frozenset(os.sched_getaffinity(int(task))))
    return found


def new_tasks(before: set[str]) -> set[str]:
    return set(os.listdir("/proc/self/task")) - before


@pytest.fixture
def two_threads():
    """Two threads of torch, which the other tests have not."""
    with threads_in_torch(2):
        torch.randn(512, 512) @ torch.randn(512, 512)
        yield


@TWO
@pytest.mark.usefixtures("two_threads")
def test_threads_leave_a_busy_core_and_come_back(monkeypatch):
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    whole, said = frozenset(ALLOWED), []
    number = len(ALLOWED)
    with Follower(number, load(number), say=said.append) as follower:
        assert tasks() == {whole}
        # Two looks to believe that the others have left: they may only pause.
        for others, lost in ((1.0, 1), (1.0, 1), (0.0, 1), (0.0, 0)):
            last = follower._last
            by_core = {core: used + 1.0 for core, used in last.by_core.items()}
            follower.see(Look(last.moment + 1, last.own + number - others, by_core, {}))
            assert {len(cores) for cores in tasks()} == {number - lost}
            assert allowed_cores() == whole
    assert tasks() == {whole}
    assert len(said) == 1
    assert f"keep 1 of {len(ALLOWED)} cores busy" in said[0]


@TWO
@pytest.mark.usefixtures("two_threads")
def test_the_cores_that_others_use_least_are_chosen():
    follower = Follower(2, load(2.0))
    follower.allowed, follower.free = frozenset({0, 1, 2}), 1
    follower.used = frozenset({0})
    quiet = Load(own=0.5, by_core={0: 1.0, 1: 0.9, 2: 0.0}, room=1.0)
    for _ in range(50):  # chance decides when
        if (cores := follower._cores(quiet)) != {0}:
            break
    assert cores == {2}


def learn() -> torch.Tensor:
    """Return weights after some steps whose sums depend on the number of threads."""
    torch.manual_seed(1)
    weight = torch.randn(64, 64, requires_grad=True)
    inputs = torch.randn(2048, 64)
    for _ in range(5):
        outputs = torch.nn.functional.layer_norm(inputs @ weight, (64,))
        (grad,) = torch.autograd.grad((outputs.exp() * inputs).sum() / 2048, weight)
        with torch.no_grad():
            weight -= 0.1 * grad
    return weight.detach()


@TWO
@pytest.mark.usefixtures("two_threads")
def test_the_same_bits_come_out_on_fewer_cores(monkeypatch):
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    expected = learn()
    with Follower(2, load(1.0)) as follower:
        assert len(follower.used) == 1
        found = learn()
    assert torch.equal(found, expected)
    assert torch.equal(learn(), expected)


@TWO
@pytest.mark.usefixtures("two_threads")
def test_what_waits_ends_with_the_context(monkeypatch):
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    before = set(os.listdir("/proc/self/task"))
    with Follower(2, load(1.0)):
        assert new_tasks(before)
    end = time.monotonic() + SECONDS
    while new_tasks(before) and time.monotonic() < end:
        time.sleep(0.01)
    assert not new_tasks(before)
    assert not [t for t in threading.enumerate() if t.name == "cores"]


@TWO
def test_it_is_torchs_openmp_whose_threads_wait_otherwise():
    """sentencepiece, which datasets and transformers import, brings one of its own."""
    pytest.importorskip("sentencepiece")
    found = ctypes.cast(openmp().GOMP_parallel, ctypes.c_void_p).value
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= found < last:
            assert "/torch/" in line
            return
    pytest.fail("it is in no library")


@TWO
def test_a_child_does_not_stay_where_its_parent_was(monkeypatch):
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    with threads_in_torch(2):
        with Follower(2, load(1.0)):
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            assert len(os.sched_getaffinity(child.pid)) == 1
        children = Path("/proc/self/task") / str(os.getpid()) / "children"
        if children.exists():
            assert os.sched_getaffinity(child.pid) == set(ALLOWED)
    child.communicate(b"\n")


def test_one_thread_follows_nothing():
    with Follower(1, load(1.0)):
        assert tasks() == {frozenset(ALLOWED)}
        assert not [t for t in threading.enumerate() if t.name == "cores"]


@pytest.mark.parametrize("can_move", [False, True])
def test_decoding_takes_as_many_threads_as_cores_are_free(monkeypatch, can_move):
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    monkeypatch.setattr(shared_cores, "can_move", lambda: can_move)
    monkeypatch.setattr(shared_cores, "allowed_cores", lambda: frozenset(range(2)))
    assert Follower(2, load(1.0), adapts=True).threads == 1
    with threads_in_torch(2), Follower(2, load(2.0), adapts=True) as follower:
        follow_load()
        assert torch.get_num_threads() == 2
        follower.free = 1
        follow_load()
        assert torch.get_num_threads() == 1
        follower.free = 2
        follow_load()
        assert torch.get_num_threads() == 2


def test_a_fixed_number_of_threads_stays(monkeypatch):
    """Replies between two steps of training change nothing of it."""
    monkeypatch.setattr(shared_cores, "PERIOD", 1000.0)
    monkeypatch.setattr(shared_cores, "can_move", lambda: False)
    with threads_in_torch(2), Follower(2, load(1.0)):
        follow_load()
        assert torch.get_num_threads() == 2


@TWO
@pytest.mark.usefixtures("two_threads")
def test_it_sees_a_busy_program_by_itself():
    """With real processes: as many as there are cores, for others may be at work here, too."""
    spin = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", spin]) for _ in ALLOWED]
    try:
        with Follower(len(ALLOWED), load(len(ALLOWED))) as follower:
            end = time.monotonic() + SECONDS
            while len(follower.used) == len(ALLOWED) and time.monotonic() < end:
                time.sleep(0.1)
            assert len(follower.used) < len(ALLOWED)
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("threads", "cores", "free", "taken"), [(16, 16, 15, 16), (16, 16, 8, 8)])
def test_threads_stay_on_all_cores_where_fewer_would_need_uneven_rounds(
    monkeypatch, threads, cores, free, taken
):
    monkeypatch.setattr(shared_cores, "can_move", lambda: True)
    monkeypatch.setattr(shared_cores, "allowed_cores", lambda: frozenset(range(cores)))
    waits = []
    monkeypatch.setattr(shared_cores, "ShortWaits", lambda number: waits.append(number) or Mock())
    monkeypatch.setattr(shared_cores, "move_threads", lambda before, cores: None)
    follower = Follower(threads, load(float(free)))
    follower._follow(load(float(free)))
    assert len(follower.used) == taken
    assert waits == [1]  # they sleep soon in any case


def test_a_wide_machine_is_not_filled_with_threads_that_sleep(monkeypatch):
    monkeypatch.setattr(shared_cores, "can_move", lambda: True)
    monkeypatch.setattr(shared_cores, "allowed_cores", lambda: frozenset(range(64)))
    assert not Follower(64, load(32.0), adapts=True).can_move
    assert Follower(64, load(32.0)).can_move  # all but one are there in any case


def test_a_failure_of_the_short_waits_does_not_hang(monkeypatch):
    monkeypatch.setattr(openmp_module, "openmp", lambda: None)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    started = threading.Thread(target=lambda: openmp_module.ShortWaits(1).end(), daemon=True)
    started.start()
    started.join(timeout=SECONDS)
    assert not started.is_alive()


def refuse(*_):
    raise PermissionError("no")


def test_the_watch_goes_on_where_the_kernel_does_not_say(monkeypatch):
    monkeypatch.setattr(shared_cores, "PERIOD", 0.001)
    complaints, calls = [], []
    monkeypatch.setattr(threading, "excepthook", complaints.append)

    def look_badly() -> Look:
        calls.append(1)
        return refuse()

    with Follower(2, load(2.0)) as follower:
        monkeypatch.setattr(shared_cores, "look", look_badly)
        end = time.monotonic() + SECONDS
        while len(calls) < 3 and time.monotonic() < end:
            time.sleep(0.005)
        assert follower._thread.is_alive()
    assert len(calls) >= 3
    assert not complaints


def test_what_fails_at_the_start_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(shared_cores, "look", refuse)
    with pytest.raises(PermissionError), Follower(2, load(1.0)):
        pass
    assert not adaptation.followers
    assert free_cores._mask is None


def test_a_context_within_another_gives_its_mask_back(monkeypatch):
    monkeypatch.setattr(shared_cores, "can_move", lambda: False)
    with Follower(1, load(1.0)):
        with Follower(1, load(1.0)):
            pass
        assert free_cores._mask == frozenset(ALLOWED)
    assert free_cores._mask is None


def test_threads_that_a_person_binds_stay(monkeypatch):
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert not can_move()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks")
def test_a_child_that_ends_does_not_keep_the_others_where_they_are(monkeypatch, tmp_path):
    task = tmp_path / str(threading.get_native_id())
    task.mkdir()
    (task / "children").write_text(f"{2**22 + 5} {os.getppid()}")  # there is no such process
    monkeypatch.setattr(shared_cores, "TASKS", tmp_path)
    moved = []
    monkeypatch.setattr(shared_cores, "_move", lambda thread, *cores: moved.append(thread))
    shared_cores.move_threads(frozenset(os.sched_getaffinity(os.getppid())), frozenset({0}))
    assert os.getppid() in moved
