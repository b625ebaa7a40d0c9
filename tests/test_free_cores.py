"""Cores are what a process may use, and free are those that no other program keeps busy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import free_cores
from src.free_cores import (
    Load,
    Look,
    allowed_cores,
    binds_threads,
    keep_mask,
    load_now,
    num_cores,
    spare_cores,
)


def write(folder: Path, **files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"cpu.{name}").write_text(f"{content}\n")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A kernel's folders on a machine of eight cores: of processes, and of control groups."""
    monkeypatch.setattr(free_cores, "allowed_cores", lambda: frozenset(range(8)))
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()

    def of(membership: str = "0::/\n"):
        (tmp_path / "proc" / "self" / "cgroup").write_text(membership)
        return tmp_path / "proc", tmp_path / "cgroup"

    return of


def count(where, **environment) -> int:
    return num_cores(*where, environment)


def test_without_limits_all_cores_are_there(tree):
    assert count(tree()) == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks")
def test_an_affinity_mask_is_a_limit():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert (num_cores(), spare_cores()) == (1, 0)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 1),  # threads never exceed it
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("300000", 8),  # no period
    ],
)
def test_a_quota_of_version_2_counts_as_cores(tree, quota, cores):
    proc, groups = tree()
    write(groups, max=quota)
    assert count((proc, groups)) == cores


def test_the_group_that_holds_this_ones_limits_it_too(tree):
    proc, groups = tree("0::/job/step\n")
    write(groups / "job", max="300000 100000")
    write(groups / "job" / "step", max="max 100000")
    assert count((proc, groups)) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1(tree, mount):
    proc, groups = tree(f"4:memory:/x\n3:{mount}:/docker/0123abc\n0::/\n")
    write(groups / mount, cfs_quota_us=400000, cfs_period_us=100000)
    assert count((proc, groups)) == 4
    write(groups / mount, cfs_quota_us=-1)
    assert count((proc, groups)) == 8


def test_slurm_gives_a_task_its_cores(tree):
    assert count(tree(), SLURM_CPUS_PER_TASK="4") == 4
    assert count(tree(), SLURM_CPUS_PER_TASK="40") == 8


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(free_cores, "num_cores", lambda: 8)
    assert [spare_cores(n) for n in (1, 2, 4, 8, 16)] == [7, 3, 1, 0, 0]


def looked(moment: float, own: float, *by_core: float, group: float | None = None) -> Look:
    groups = {} if group is None else {Path("group"): (2.0, group)}
    return Look(moment, own, dict(enumerate(by_core)), groups)


FOUR = frozenset(range(4))


@pytest.mark.parametrize(
    ("own", "by_core", "free"),
    [
        (0, (0, 0, 0, 0), 4),
        (8, (2, 2, 2, 2), 4),  # it is this process that keeps them busy
        (0, (2, 0, 0, 0), 3),
        (3, (2, 2, 0, 0), 3),  # one of two on a core: half of it
        (0, (0.5, 0, 0, 0), 4),  # a quarter of a core disturbs nobody
        (0, (2, 2, 2, 2), 1),
    ],
)
def test_a_core_that_others_keep_busy_is_not_free(own, by_core, free):
    load = Load.between(
        looked(10, 5, 7, 7, 7, 7), looked(12, 5 + own, *(7 + x for x in by_core)), FOUR
    )
    assert load.num_free() == free


def test_only_the_cores_of_the_mask_count():
    load = Load.between(looked(0, 0, 0, 0, 0, 0), looked(1, 0, 1, 1, 0, 0), frozenset({2, 3}))
    assert load.num_free() == 2


def test_another_process_of_the_container_uses_its_quota():
    load = Load.between(
        looked(0, 0, 0, 0, 0, 0, group=3), looked(1, 0.5, 0.5, 1, 0, 0, group=4.5), FOUR
    )
    assert load.room == pytest.approx(1.0)


def test_the_kernels_counts_are_read(tree, monkeypatch):
    proc, groups = tree()
    tick = 1 / os.sysconf("SC_CLK_TCK")
    (proc / "stat").write_text(
        "cpu  50 0 0 0 0 0 0 0 0 0\ncpu0 10 20 30 900 50 7 7 99 0 0\ncpu3 1 0 1 9 9 9 9 9 0 0\n"
        "intr 5\n"
    )
    write(groups, max="200000 100000", stat="usage_usec 1500000\nnr_periods 4")
    seen = free_cores.look(proc, groups)
    assert seen.by_core == {0: 60 * tick, 3: 2 * tick}
    assert seen.by_group == {groups: (2.0, 1.5)}


def test_the_use_of_a_group_of_version_1_stands_in_its_other_mount(tree):
    proc, groups = tree("4:cpuacct:/\n3:cpu:/\n")
    (proc / "stat").write_text("cpu0 0 0 0 0\n")
    write(groups / "cpu", cfs_quota_us=200000, cfs_period_us=100000)
    (groups / "cpuacct").mkdir()
    (groups / "cpuacct" / "cpuacct.usage").write_text("2500000000\n")
    assert free_cores.look(proc, groups).by_group == {groups / "cpu": (2.0, 2.5)}


def test_the_load_now_is_of_this_machine():
    load = load_now(0.1)
    assert 0 <= load.own < 100
    assert 1 <= load.num_free() <= len(allowed_cores())


def test_a_mask_is_remembered_while_threads_are_moved(tmp_path):
    keep_mask(frozenset({5, 6, 7}))
    try:
        assert count((tmp_path, tmp_path)) == 3  # no quota of this machine's
    finally:
        keep_mask(None)


@pytest.mark.parametrize(
    ("environment", "binds"),
    [
        ({}, False),
        ({"OMP_PROC_BIND": "true"}, True),
        ({"OMP_PROC_BIND": "close"}, True),
        ({"OMP_PROC_BIND": "FALSE", "OMP_PLACES": "cores"}, False),
        ({"GOMP_CPU_AFFINITY": "0-3"}, True),
        ({"OMP_PLACES": "cores"}, True),
    ],
)
def test_a_person_may_have_openmp_bind_threads(environment, binds):
    assert binds_threads(environment) == binds


@pytest.mark.skipif(len(allowed_cores()) < 2, reason="needs two cores")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks")
def test_cores_are_counted_before_openmp_binds_the_main_thread():
    program = (
        "from src.command import cli; cli._prepare_process('src.chat'); import os, torch; "
        "from src.free_cores import allowed_cores; "
        "print(len(allowed_cores()), len(os.sched_getaffinity(0)))"
    )
    environment = {**os.environ, "OMP_PROC_BIND": "true"}
    environment.pop("OMP_NUM_THREADS", None)
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    cores, bound = map(int, found.stdout.split())
    assert cores == len(allowed_cores()) > bound


def test_where_the_kernel_does_not_say_all_cores_are_free(tree):
    proc, groups = tree()
    (proc / "stat").mkdir()  # it cannot be read
    before, after = (free_cores.look(proc, groups) for _ in range(2))
    assert before.by_core == {}
    assert Load.between(before, after, FOUR).num_free() == 4
