"""A disk that refuses: one line that says where, why, what was needed and what is free."""

import errno
import os

import pytest

from src.errors import UserError
from src.files import atomic, disk


def full(name=None):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def refused(error: Exception, path, size=None) -> disk.Unwritten:
    with pytest.raises(disk.Unwritten) as caught, disk.writing(path, size):
        raise error
    return caught.value


class SafetensorError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EIO, "broken"), errno.EIO),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (PermissionError(errno.EACCES, "no"), errno.EACCES),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (Exception("Input/output error (os error 5)"), errno.EIO),
        (OSError("1000000 requested and 0 written"), errno.ENOSPC),  # numpy
        (RuntimeError("unable to write </torch_1>: No space left on device (28)"), errno.ENOSPC),
    ],
)
def test_what_the_disk_refuses_is_recognised_in_the_words_of_any_library(tmp_path, error, number):
    unwritten = refused(error, tmp_path / "x")
    assert unwritten.errno == number
    assert disk.refusal(unwritten).startswith(f"{tmp_path / 'x'}: {os.strerror(number)}")


def raised(last: Exception, first: OSError, *, by_it: bool) -> Exception:
    """Return ``last``, raised while ``first`` was dealt with, or because of it."""

    def fail():
        try:
            raise first
        except OSError as error:
            if by_it:
                raise last from error
            raise last  # noqa: B904 - as it happens

    with pytest.raises(type(last)) as caught:
        fail()
    return caught.value


def test_a_file_of_a_folder_that_is_not_in_its_place_yet_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 20_500)
    with pytest.raises(disk.Unwritten) as caught, atomic.folder(tmp_path / "model") as building:
        raise refused(OSError(28, "No space left on device"), building / "config.json", 140)
    room = "No space left on device (20.5 kB free)"
    assert disk.refusal(caught.value) == f"{tmp_path / 'model'}: {room}"
    with pytest.raises(disk.Unwritten) as caught, disk.writing(tmp_path / "model", 30_000):
        raise refused(OSError(28, "No space left on device"), tmp_path / "model", 40_000)
    assert "it needs 40.0 kB, 20.5 kB free" in disk.refusal(caught.value)


def test_an_error_that_was_raised_for_a_full_disk_is_one(tmp_path):
    error = raised(RuntimeError("datasets could not generate it"), full(), by_it=True)
    assert refused(error, tmp_path / "x").errno == errno.ENOSPC
    # torch, while it closes the file
    error = raised(RuntimeError("unexpected pos 704 vs 598"), full(), by_it=False)
    assert disk.refusal(error) == "No space left on device"


def test_a_bug_in_dealing_with_a_refused_file_is_a_bug():
    error = raised(KeyError("bug"), PermissionError(errno.EACCES, "no", "x"), by_it=False)
    assert disk.refusal(error) is None


@pytest.mark.parametrize(
    "error", [KeyError("a"), RuntimeError("shapes"), FileNotFoundError(2, "none"), UserError("no")]
)
def test_other_errors_are_others(tmp_path, error):
    with pytest.raises(type(error)), disk.writing(tmp_path / "x"):
        raise error
    assert disk.refusal(error) is None


def test_a_file_that_is_only_read_meanwhile_is_named_itself(tmp_path):
    theirs = PermissionError(errno.EACCES, "Permission denied", "/rows.jsonl")
    with pytest.raises(PermissionError) as caught, disk.writing(tmp_path / "x"):
        raise theirs
    assert caught.value is theirs
    part = str(tmp_path / ".x.7.tmp" / "input_ids.npy")
    assert refused(full(part), tmp_path / "x").filename == str(tmp_path / "x")


def test_it_says_what_is_needed_and_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 2_500_000)
    unwritten = refused(full(), tmp_path / "x", 3_000_000_000)
    unwritten.add_note("go on with: it")
    assert disk.refusal(unwritten) == (
        f"{tmp_path / 'x'}: No space left on device (it needs 3.0 GB, 2.5 MB free); go on with: it"
    )


def test_nothing_is_begun_for_which_there_is_no_room(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 999_999)
    with pytest.raises(disk.Unwritten), atomic.file(tmp_path / "x", size=10**6):
        raise AssertionError("it was begun")
    with atomic.file(tmp_path / "x", size=999) as part:
        part.write_text("new")  # of little things the disk itself is asked
    monkeypatch.setattr(disk, "free_bytes", lambda folder: None)
    with atomic.file(tmp_path / "x", size=10**6) as part:
        part.write_text("newer")


def test_free_bytes_are_asked_of_the_folder_that_is_there(tmp_path, monkeypatch):
    status, asked = os.statvfs(tmp_path), []  # as it is now: others write there, too

    def statvfs(folder):
        asked.append(folder)
        return status

    monkeypatch.setattr(os, "statvfs", statvfs)
    free = disk.free_bytes(tmp_path / "not" / "yet")
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    assert (free, asked) == (blocks * status.f_frsize, [tmp_path])
    assert free > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (10**6, "1.0 MB"),
        (3 * 10**9, "3.0 GB"),
    ],
)
def test_sizes(size, text):
    assert disk.size_text(size) == text
