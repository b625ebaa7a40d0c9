"""Where Linux says what a container or a job may use: its control groups (cgroups)."""

from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def group_folders(
    controller: str, proc: Path = PROC, cgroups: Path = CGROUPS
) -> Iterator[tuple[int, Path]]:
    """Yield version (1 or 2) and folder of this process's group, and of the groups that hold it.

    In a container the path may be the host's, which is not there: then the mount is its group.

    Args:
        controller: of version 1, such as ``memory``; version 2 has one folder for all.
        proc: the kernel's folder of processes.
        cgroups: where the control groups are mounted.
    """
    for version, mount, path in _groups(controller, proc, cgroups):
        names = [name for name in path.split("/") if name not in ("", ".", "..")]
        for depth in range(len(names) + 1):
            folder = mount.joinpath(*names[:depth])
            if folder.is_dir():
                yield version, folder


def _groups(controller: str, proc: Path, cgroups: Path) -> Iterator[tuple[int, Path, str]]:
    """Yield version, where groups are mounted, and the path of this process's group there."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield 2, cgroups, path
            yield 2, cgroups / "unified", path
        elif controller in controllers.split(","):
            yield 1, cgroups / controllers, path
            if controllers != controller:
                yield 1, cgroups / controller, path


def number_in(path: Path) -> int | None:
    """Return the number in a file; None: there is no file, or no limit."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def statistics_in(path: Path) -> dict[str, int]:
    """Return the numbers of a file of names and numbers; empty: there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = [line.split() for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
