"""A checkpoint is read only if it is whole, and a damaged one takes no whole one's place."""

import errno
import hashlib
import os
import zipfile

import pytest
import torch

from src.errors import UserError
from src.files import disk
from src.training import checkpoint_file
from src.training.checkpoint_file import TRAILER, AtomicCheckpointIO, find_damage, write
from src.training.checkpoints import find_checkpoint, resolve_checkpoint, saved_step
from src.training.zip_archive import is_consistent


def state(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    weights = {f"model.{i}": torch.randn(20, 30, generator=generator) for i in range(4)}
    return {"state_dict": weights, "global_step": step, "large": torch.zeros(30_000)}


def flip(path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path):
    """A run folder with two checkpoints, of steps 1 and 2."""
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2):
        write(state(step), tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path


def steps(run) -> dict[str, int]:
    return {path.name: saved_step(path) for path in (run / "checkpoints").iterdir()}


def test_the_checksum_stands_behind_the_archive_as_its_comment_says(run):
    path = run / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    archive, trailer = content[:-TRAILER], content[-TRAILER:]
    assert trailer == f"sha256 {hashlib.sha256(archive).hexdigest()}\n".encode()
    assert zipfile.ZipFile(path).testzip() is None
    for mmap in (False, True):
        loaded = torch.load(path, mmap=mmap, weights_only=True)
        assert torch.equal(loaded["state_dict"]["model.3"], state(2)["state_dict"]["model.3"])


def test_two_generations_are_kept(run):
    assert steps(run) == {"last.ckpt": 2, "previous.ckpt": 1}


def test_a_damaged_checkpoint_never_takes_the_place_of_a_whole_one(run, caplog):
    path = run / "checkpoints" / "last.ckpt"
    flip(path, 4000)
    assert find_checkpoint(run) == path.with_name("previous.ckpt")
    write(state(3), path)
    assert "it is replaced, and previous.ckpt stays" in caplog.text
    assert steps(run) == {"last.ckpt": 3, "previous.ckpt": 1}
    write(state(4), path)
    assert steps(run) == {"last.ckpt": 4, "previous.ckpt": 3}


def test_a_file_that_was_changed_while_a_run_goes_on_is_looked_at_again(run):
    path = run / "checkpoints" / "last.ckpt"
    for step in (3, 4):
        flip(path, 4000)  # within the same tick of the kernel's clock as the save, perhaps
        write(state(step), path)
        assert steps(run) == {"last.ckpt": step, "previous.ckpt": 1}


def test_what_this_process_has_written_is_not_read_again(run, monkeypatch):
    def read_again(path):
        raise AssertionError(path)

    monkeypatch.setattr(checkpoint_file, "_find_damage", read_again)
    write(state(3), run / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("bit", [0, 4000, -8, -300, -TRAILER * 8, -TRAILER * 8 - 170])
def test_one_bit_anywhere_is_noticed(run, bit, caplog):
    path = run / "checkpoints" / "last.ckpt"
    flip(path, bit % (path.stat().st_size * 8))
    assert find_checkpoint(run) == path.with_name("previous.ckpt")
    assert f"{path} is damaged" in caplog.text
    with pytest.raises(UserError, match="is damaged, or no checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)
    with pytest.raises(UserError, match=r"whole: checkpoint=.*previous\.ckpt"):
        resolve_checkpoint(str(path))


@pytest.mark.parametrize("num_bytes", [0, 1, 100, -1, -TRAILER + 1, -TRAILER - 1])
def test_a_cut_anywhere_is_noticed(run, num_bytes):
    path = run / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[:num_bytes])
    assert find_checkpoint(run) == path.with_name("previous.ckpt")
    path.write_bytes(content + b"\n")  # or too long
    assert find_checkpoint(run) == path.with_name("previous.ckpt")


def test_all_damaged_is_one_line(run):
    flip(run / "checkpoints" / "last.ckpt", 4000)
    (run / "checkpoints" / "previous.ckpt").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"no whole checkpoint \(last.ckpt is .*; previous"
    ) as error:
        find_checkpoint(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_no_checkpoint(run, make):
    path = run / "checkpoints" / "last.ckpt"
    path.unlink()
    make(path)
    assert find_checkpoint(run) == path.with_name("previous.ckpt")


def test_a_disk_that_cannot_read_it_any_more_is_a_damage(run, monkeypatch):
    def broken(path):
        if path.name == "last.ckpt":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return None

    monkeypatch.setattr(checkpoint_file, "_find_damage", broken)
    checkpoint_file._whole.clear()
    assert find_checkpoint(run) == run / "checkpoints" / "previous.ckpt"

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint_file, "_find_damage", forbidden)
    with pytest.raises(PermissionError):  # a person can mend that, and loses nothing
        find_checkpoint(run)


def without_checksum(path) -> None:
    torch.save(state(7), path)


def test_a_checkpoint_of_an_earlier_version_is_read_and_the_doubt_said(run, caplog):
    path = run / "checkpoints" / "last.ckpt"
    without_checksum(path)
    assert find_checkpoint(run) == path
    assert "has no checksum, as an earlier version wrote it" in caplog.text
    assert saved_step(path) == 7


def test_of_a_checkpoint_without_checksum_no_bit_of_the_directory_changes_numbers(tmp_path):
    path = tmp_path / "last.ckpt"
    without_checksum(path)
    content = path.read_bytes()
    assert is_consistent(path)
    directory = content.index(b"PK\x01\x02") * 8
    expected = state(7)["state_dict"]
    for bit in range(directory, len(content) * 8, 11):
        path.write_bytes(content)
        flip(path, bit)
        if find_damage(path) is None:  # its date, perhaps
            read = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.equal(read[name], tensor) for name, tensor in expected.items()), bit


def test_a_full_disk_leaves_both_and_says_what_is_needed(run, monkeypatch):
    path = run / "checkpoints" / "last.ckpt"
    before = path.read_bytes()

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 50_000

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def fileno(self):
            return self.file.fileno()

    hashing = checkpoint_file.Hashing
    monkeypatch.setattr(checkpoint_file, "Hashing", lambda file, *rest: hashing(Full(file), *rest))
    with pytest.raises(disk.Unwritten) as error:
        write(state(3), path)
    assert disk.refusal(error.value).startswith(f"{path}: No space left on device (it needs 1")
    assert path.read_bytes() == before
    assert steps(run) == {"last.ckpt": 2, "previous.ckpt": 1}


def test_an_error_of_the_disk_in_the_background_is_not_lost(run, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint_file, "MANY", 1)
    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(disk.Unwritten, match="Input/output error"):
        write(state(3), run / "checkpoints" / "last.ckpt")
    assert steps(run) == {"last.ckpt": 2, "previous.ckpt": 1}


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "last.ckpt"
    write({"global_step": 1, "trap": Trap()}, path)
    for use in (saved_step, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match="is no checkpoint of a training run"):
            use(path)
    assert not (tmp_path / "sprung").exists()
