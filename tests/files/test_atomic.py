"""Old or new, never half: whatever happens while a file or a folder is written."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from src.files import atomic

ROOT = Path(__file__).parents[2]
NO_PROCESS = 2**30  # more than any system gives
KILL = "import os, signal; from pathlib import Path; from src.files import atomic\n"


def tree(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def killed(code: str, folder: Path) -> int:
    """Run code that kills itself in ``folder``; return its process id."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILL + code], cwd=folder, env=environment)
    assert process.wait(60) == -9
    return process.pid


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_text_is_utf8_whatever_the_locale_and_bytes_are_bytes(tmp_path):
    code = "import pathlib, src.files.atomic; src.files.atomic.write_text(pathlib.Path('x'), {!a})"
    command = [sys.executable, "-c", code.format("é\n🙂")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "LC_ALL": "C"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "x").read_bytes() == "é\n🙂".encode()
    atomic.write_bytes(tmp_path / "x", b"\r\n\xff")
    assert (tmp_path / "x").read_bytes() == b"\r\n\xff"
    atomic.write_json(tmp_path / "x", {"a": 1})
    assert (tmp_path / "x").read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["x"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with atomic.file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # a rename within one file system
    assert tree(tmp_path) == {"x": "new"}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_middle_leaves_the_old_and_nothing_beside(tmp_path, error):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("old")

    def fail(place: Path) -> None:
        place.write_text("ha")
        raise error

    with pytest.raises(error), atomic.file(tmp_path / "file") as temporary:
        fail(temporary)
    with pytest.raises(error), atomic.folder(tmp_path / "folder") as building:
        fail(building / "x")
    assert tree(tmp_path) == {"file": "old", "folder/x": "old"}
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_kill_in_the_middle_leaves_the_old_and_the_next_process_removes_the_rest(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("old")
    code = (
        "with atomic.folder(Path('folder')) as building, atomic.file(Path('file')) as temporary:\n"
        "    (building / 'x').write_text('ha'); temporary.write_text('ha')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = killed(code, tmp_path)
    assert (tmp_path / "file").read_text() == "old"
    assert tree(tmp_path / "folder") == {"x": "old"}
    left = {f".file.{process}.tmp", f".folder.{process}.tmp"}
    assert set(os.listdir(tmp_path)) == {"file", "folder"} | left
    atomic.write_text(tmp_path / "file", "new")
    with atomic.folder(tmp_path / "folder") as building:
        (building / "y").write_text("new")
    assert tree(tmp_path) == {"file": "new", "folder/y": "new"}
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_of_which_a_kill_left_only_the_older_one_aside_comes_back(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("old")
    code = (
        "rename = os.rename\n"
        "def kill(old, new):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if str(new) == 'folder' else rename(old, new)\n"
        "os.rename = kill\n"
        "with atomic.folder(Path('folder')) as building: (building / 'x').write_text('new')"
    )
    process = killed(code, tmp_path)
    assert set(os.listdir(tmp_path)) == {f".folder.{process}.tmp", f".folder.{process}.old"}
    with pytest.raises(ZeroDivisionError), atomic.folder(tmp_path / "folder"):
        raise ZeroDivisionError
    assert tree(tmp_path) == {"folder/x": "old"}
    assert os.listdir(tmp_path) == ["folder"]


def test_what_dead_processes_left_in_a_folder_is_removed_whatever_was_to_become_of_it(tmp_path):
    stays = [f".x.{os.getppid()}.tmp", f".x.{NO_PROCESS}.txt", ".x.notes.tmp"]
    # In a container a new process has the id of the one that was killed.
    goes = [f".{name}.{NO_PROCESS}.tmp" for name in ("x", "y", "x.y")] + [f".x.{os.getpid()}.tmp"]
    for name in stays + goes:
        (tmp_path / name).write_text(name)
    (tmp_path / f".folder.{NO_PROCESS}.tmp" / "below").mkdir(parents=True)
    (tmp_path / f".aside.{NO_PROCESS}.old").mkdir()
    atomic.write_text(tmp_path / "x", "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*stays, "x", "aside"])


def test_in_a_person_s_folder_only_what_was_left_of_this_target_is_removed(tmp_path):
    for name in ("x", "y"):
        (tmp_path / f".{name}.{NO_PROCESS}.tmp").write_text(name)
    (tmp_path / f".bashrc.{NO_PROCESS}.old").write_text("a person's own")
    atomic.write_text(tmp_path / "x", "new", sweeps=False)
    left = [f".bashrc.{NO_PROCESS}.old", f".y.{NO_PROCESS}.tmp", "x"]
    assert sorted(os.listdir(tmp_path)) == left


def test_a_process_that_is_younger_than_a_part_has_only_got_the_number_of_its_writer(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as process:
        part = tmp_path / f".x.{process.pid}.tmp"
        part.write_text("")
        atomic.sweep(tmp_path)
        assert part.exists()
        os.utime(part, (0, part.stat().st_mtime - 3600))
        atomic.sweep(tmp_path)
        assert not part.exists()
        process.kill()


def test_a_process_that_has_ended_is_gone_though_nobody_has_asked_how(tmp_path):
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    (tmp_path / f".x.{process.pid}.tmp").write_text("")
    atomic.sweep(tmp_path)
    assert os.listdir(tmp_path) == []
    process.wait()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_another_container_writes_is_locked_and_stays(tmp_path, make):
    part = tmp_path / f".x.{NO_PROCESS}.tmp"  # an id that says nothing here
    make(part)
    descriptor = os.open(part, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    atomic.sweep(tmp_path)
    assert part.exists()
    os.close(descriptor)
    atomic.sweep(tmp_path)
    assert not part.exists()


@pytest.mark.parametrize("write", [atomic.file, atomic.folder])
def test_who_writes_holds_a_lock_on_it(tmp_path, write):
    with write(tmp_path / "x") as part:
        descriptor = os.open(part, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_on_a_disk_without_locks_what_another_machine_may_write_stays_for_a_day(
    tmp_path, monkeypatch
):
    def no_locks(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    part = tmp_path / f".y.{NO_PROCESS}.tmp"
    part.write_text("")
    atomic.write_text(tmp_path / "x", "new")
    assert part.exists()
    os.utime(part, (0, part.stat().st_mtime - 2 * atomic.DAY))
    atomic.write_text(tmp_path / "x", "newer")
    assert not part.exists()


def test_a_name_may_hold_what_a_pattern_means_something_by(tmp_path):
    (tmp_path / f".a[1]*.{NO_PROCESS}.tmp").write_text("left")
    (tmp_path / f".a1b.{NO_PROCESS}.tmp").write_text("another's")
    atomic.write_text(tmp_path / "a[1]*", "new", sweeps=False)
    assert sorted(os.listdir(tmp_path)) == [f".a1b.{NO_PROCESS}.tmp", "a[1]*"]


def test_a_target_that_is_being_written_is_not_written_twice_at_once(tmp_path):
    with atomic.file(tmp_path / "x") as temporary:
        temporary.write_text("first")
        with pytest.raises(FileExistsError):
            atomic.write_text(tmp_path / "x", "second")
    assert tree(tmp_path) == {"x": "first"}


def test_the_older_file_is_kept_under_another_name(tmp_path):
    for text in ("1", "2", "3"):
        with atomic.file(tmp_path / "last", tmp_path / "previous") as temporary:
            temporary.write_text(text)
    assert tree(tmp_path) == {"last": "3", "previous": "2"}


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_follow_the_umask(tmp_path, umask, mask, file, folder):
    umask(mask)
    with atomic.folder(tmp_path / "folder") as building:
        with atomic.file(building / "x") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o400))  # as safetensors might
        atomic.write_text(building / "y", "")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"folder": folder, "x": file, "y": file}


def test_content_is_on_the_disk_before_its_name_and_then_the_name(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        assert is_writable != stat.S_ISDIR(status.st_mode)  # as Windows wants it
        flushed.append((os.fstat(descriptor).st_ino, sorted(os.listdir(tmp_path))))

    monkeypatch.setattr(os, "fsync", fsync)
    here = tmp_path.stat().st_ino
    atomic.write_text(tmp_path / "x", "text")
    process = os.getpid()
    assert flushed == [
        ((tmp_path / "x").stat().st_ino, [f".x.{process}.tmp"]),
        (here, ["x"]),
    ]
    (tmp_path / "x").unlink()
    flushed.clear()
    with atomic.folder(tmp_path / "out") as building:
        (building / "below").mkdir()
        (building / "below" / "x").write_text("text")
    paths = (tmp_path / "out" / "below" / "x", tmp_path / "out" / "below", tmp_path / "out")
    before = [f".out.{process}.tmp"]
    assert sorted(flushed[:-1]) == sorted((path.stat().st_ino, before) for path in paths)
    assert flushed[-1] == (here, ["out"])


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, fails):
    (tmp_path / "last").write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full_disk)
    with (
        pytest.raises(OSError, match="No space left"),
        atomic.file(tmp_path / "last", tmp_path / "previous") as temporary,
    ):
        temporary.write_text("new")
    assert tree(tmp_path) == {"last": "old"}


def test_a_file_system_that_cannot_flush_a_folder_is_written_to_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    atomic.write_text(tmp_path / "x", "new")
    assert tree(tmp_path) == {"x": "new"}


def test_a_folder_takes_no_file_s_place(tmp_path):
    (tmp_path / "x").write_text("precious")
    with pytest.raises(NotADirectoryError), atomic.folder(tmp_path / "x"):
        pass
    assert tree(tmp_path) == {"x": "precious"}
