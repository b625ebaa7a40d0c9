"""Free memory is what a process may still take, not what the machine has."""

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from src.errors import UserError
from src.free_memory import (
    NO_LIMIT,
    check_room,
    free_memory,
    group_room,
    has_hard_limit,
    memory_for,
    out_of_memory,
    written,
)
from src.training.machine import device_memory

GIB = 2**30


def write(folder: Path, **files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        prefix = "cgroup" if name == "procs" else "memory"
        (folder / f"{prefix}.{name}").write_text(f"{content}\n")


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """With 64 GiB free, no swap and no ulimit, whatever else runs on the one below."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=0))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)


@pytest.fixture
def tree(tmp_path):
    """A kernel's folders: of processes, and of control groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "statm").write_text("100 50 25 1 0 60 0\n")
    (tmp_path / "cgroup").mkdir()

    def of(membership: str):
        (tmp_path / "proc" / "self" / "cgroup").write_text(membership)
        return tmp_path / "proc", tmp_path / "cgroup"

    return of


def test_without_groups_all_that_the_machine_has_is_free(tree):
    assert group_room(*tree("")) == NO_LIMIT
    assert free_memory(1, *tree("")) == 64 * GIB
    assert free_memory(4, *tree("")) == 16 * GIB
    assert not has_hard_limit(*tree(""))


def test_version_2_in_a_container(tree):
    """Its own group is the root of what it sees."""
    proc, groups = tree("0::/\n")
    statistics = f"anon 5\ninactive_file {GIB // 4}\nactive_file 7"
    write(groups, max=2 * GIB, high="max", current=GIB, stat=statistics)
    assert group_room(proc, groups) == GIB + GIB // 4
    assert free_memory(1, proc, groups) == GIB + GIB // 4
    assert free_memory(2, proc, groups) == (GIB + GIB // 4) // 2
    assert has_hard_limit(proc, groups)


def test_the_limit_that_slows_counts_as_well(tree):
    proc, groups = tree("0::/\n")
    write(groups, max=2 * GIB, high=GIB, current=GIB // 2, stat="")
    assert group_room(proc, groups) == GIB // 2


def test_the_least_of_all_groups_above_counts(tree):
    proc, groups = tree("0::/slurm/job_1/step_0\n")
    write(groups / "slurm", max=8 * GIB, current=6 * GIB, stat="")
    write(groups / "slurm" / "job_1", max=3 * GIB, current=2 * GIB, stat="")
    write(groups / "slurm" / "job_1" / "step_0", max="max", current=GIB, stat="")
    assert group_room(proc, groups) == GIB
    write(groups / "slurm", max=8 * GIB, current=8 * GIB - 5, stat="")
    assert group_room(proc, groups) == 5


@pytest.mark.parametrize("membership", ["0::/\n", "0::/../..\n", "0::/docker/0123abc\n"])
def test_a_path_of_the_host_is_not_found_and_the_mount_is_the_group(tree, membership):
    proc, groups = tree(membership)
    write(groups, max=GIB, current=0, stat="")
    assert group_room(proc, groups) == GIB


@pytest.mark.parametrize("path", ["/", "/docker/0123abc"])
def test_version_1(tree, path):
    proc, groups = tree(f"3:cpu,cpuacct:/x\n4:memory:{path}\n0::/\n")
    folder = groups / "memory"
    statistics = f"total_inactive_file {GIB // 2}\nhierarchical_memory_limit {2**63 - 4096}"
    write(folder, limit_in_bytes=4 * GIB, usage_in_bytes=GIB, stat=statistics)
    assert group_room(proc, groups) == 3 * GIB + GIB // 2
    write(folder, limit_in_bytes=2**63 - 4096, usage_in_bytes=GIB, stat=statistics)
    assert group_room(proc, groups) == NO_LIMIT


def test_version_1_with_a_limit_that_only_an_unseen_parent_has(tree):
    proc, groups = tree("4:memory:/docker/0123abc\n")
    statistics = f"total_inactive_file 0\nhierarchical_memory_limit {GIB}"
    write(groups / "memory", limit_in_bytes=2**63 - 4096, usage_in_bytes=GIB // 4, stat=statistics)
    assert group_room(proc, groups) == GIB - GIB // 4


def test_more_used_than_allowed_leaves_nothing(tree):
    proc, groups = tree("0::/\n")
    write(groups, max=GIB, current=2 * GIB, stat="")
    assert group_room(proc, groups) == 0


def test_both_versions_beside_each_other(tree):
    """The hybrid layout of systemd."""
    proc, groups = tree("4:memory:/a\n0::/a\n")
    write(groups / "memory" / "a", limit_in_bytes=GIB, usage_in_bytes=0, stat="")
    write(groups / "unified" / "a", procs=1)
    assert group_room(proc, groups) == GIB


def test_ulimit_counts(tree, monkeypatch):
    proc, groups = tree("")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert free_memory(4, proc, groups) == GIB - 100 * resource.getpagesize()
    assert has_hard_limit(proc, groups)


def test_a_run_on_a_cpu_has_no_more(monkeypatch):
    monkeypatch.setattr("src.free_memory.group_room", lambda *_: 6 * 2**20)
    assert device_memory("cpu") == 6 * 2**20
    assert device_memory("cpu", 2) == 3 * 2**20


def test_what_does_not_fit_is_refused_by_arithmetic(monkeypatch):
    check_room(1000, "its weights", "take a smaller model")
    with pytest.raises(UserError, match=r"its weights: 1,024\.0 GiB are needed and .* are free"):
        check_room(2**40, "its weights", "take a smaller model")
    monkeypatch.setattr("src.free_memory.group_room", lambda *_: GIB)
    with pytest.raises(UserError, match=r"2\.0 GiB are needed and 1\.0 GiB are free: take"):
        check_room(2 * GIB, "its weights", "take a smaller model")


def test_torchs_error_becomes_one_line():
    with (
        pytest.raises(
            UserError, match=r"out of memory while it decoded: it asked for .* GiB, .*ask"
        ),
        memory_for("it decoded", "ask for less"),
    ):
        torch.empty(2**50)
    with (
        pytest.raises(RuntimeError, match="inconsistent"),
        memory_for("it decoded", "ask for less"),
    ):
        torch.ones(2) @ torch.ones(3)
    assert out_of_memory(ValueError("x")) is None


def test_a_small_size_is_no_zero():
    sizes = {3 * GIB: "3.00 GiB", 2**29: "0.50 GiB", 2**20: "1.00 MiB", 5: "0.00 KiB"}
    sizes |= {99 * 2**20: "99.00 MiB", 2**14: "16.00 KiB"}
    assert {size: written(size) for size in sizes} == sizes
    asked = out_of_memory(RuntimeError("DefaultCPUAllocator: you tried to allocate 65536 bytes"))
    assert asked.startswith("it asked for 64.00 KiB, ")


def test_pythons_error_becomes_one_line():
    code = (
        "import resource; from src.free_memory import memory_for\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "try:\n with memory_for('it read', 'read less'): bytearray(2**30)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("out of memory while it read: 0.")
    assert done.stdout.endswith("GiB are free: read less\n")
