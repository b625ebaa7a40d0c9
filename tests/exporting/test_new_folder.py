import os
import shutil

import pytest

from src.errors import UserError
from src.exporting.new_folder import new_folder


def write(folder, overwrite=False, **files):
    with new_folder(folder, overwrite) as building:
        for name, text in files.items():
            (building / name).write_text(text)


def read(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_folder_appears_with_its_files_and_nothing_beside_it(tmp_path):
    write(tmp_path / "a" / "b", x="1", y="2")
    assert read(tmp_path / "a" / "b") == {"x": "1", "y": "2"}
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_failure_leaves_nothing_and_the_old_folder_as_it_was(tmp_path):
    write(tmp_path / "out", x="old")

    def fail():
        with new_folder(tmp_path / "out", overwrite=True) as building:
            (building / "x").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read(tmp_path / "out") == {"x": "old"}
    assert os.listdir(tmp_path) == ["out"]


def test_only_overwrite_replaces_what_is_there(tmp_path):
    write(tmp_path / "out", x="old")
    with pytest.raises(UserError, match="add overwrite=true"):
        write(tmp_path / "out", x="new")
    assert read(tmp_path / "out") == {"x": "old"}
    write(tmp_path / "out", overwrite=True, x="new", y="more")
    assert read(tmp_path / "out") == {"x": "new", "y": "more"}
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_filled_unasked(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", x="1")
    assert read(tmp_path / "out") == {"x": "1"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_overwrite_never_takes_a_stranger_with_it(tmp_path, kind):
    out = tmp_path / "out"
    write(out, x="old")
    if kind == "file":
        (out / "thesis.tex").write_text("years of work")
    else:
        (out / "thesis.tex").mkdir()
    with pytest.raises(UserError, match=r"holds thesis\.tex, which this export does not write"):
        write(out, overwrite=True, x="new")
    assert (out / "x").read_text() == "old"
    assert (out / "thesis.tex").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_of_the_name_of_a_file_of_ours_is_a_stranger_too(tmp_path):
    (tmp_path / "out" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="holds x"):
        write(tmp_path / "out", overwrite=True, x="new")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("text")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is a file"):
            write(tmp_path / "out", overwrite, x="1")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        write(tmp_path / "out" / "below", x="1")
    assert (tmp_path / "out").read_text() == "text"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write(tmp_path / "real", x="old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", overwrite=True, x="new")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real") == {"x": "new"}


def test_a_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match="cannot be written: No space left") as error,
        new_folder(tmp_path / "out", overwrite=False),
    ):
        raise OSError(28, "No space left on device", "model.gguf")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path, monkeypatch):
    write(tmp_path / "out", x="old")
    rename, calls = os.rename, []

    def fail_at_the_second(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise OSError(5, "Input/output error", str(paths[0]))
        rename(*paths)

    monkeypatch.setattr(os, "rename", fail_at_the_second)
    with pytest.raises(UserError, match="cannot be written: Input/output error"):
        write(tmp_path / "out", overwrite=True, x="new")
    assert read(tmp_path / "out") == {"x": "old"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_is_being_built_by_another_is_not_deleted(tmp_path):
    another = f".out.{os.getppid()}.tmp"
    (tmp_path / another).mkdir()
    write(tmp_path / "out", x="1")
    assert sorted(os.listdir(tmp_path)) == [another, "out"]
    with new_folder(tmp_path / "out", overwrite=True) as building:
        with pytest.raises(UserError, match="File exists"):
            write(tmp_path / "out", overwrite=True, x="2")
        (building / "x").write_text("3")
    assert read(tmp_path / "out") == {"x": "3"}


def test_an_error_without_a_file_is_still_told(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot be written: a and b are the same file$"),
        new_folder(tmp_path / "out", overwrite=False),
    ):
        raise shutil.SameFileError("a and b are the same file")
