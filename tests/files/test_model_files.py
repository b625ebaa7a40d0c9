"""Files of folders that anybody may have made are plain, inside their folder, and not too large."""

import os
import shutil

import pytest

from src.errors import UserError
from src.exporting.exports import open_model_folder, write_hugging_face_folder
from src.files.json_file import MAX_VALUES, read_settings
from src.files.model_files import MAX_TEXT, check_file, check_files, read_file
from src.talk.model_folder import load_model_folder, save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def model(tokenizer, tmp_path):
    folder = tmp_path / "outside" / "model"
    save_model_folder(
        folder, random_model(tiny_config(vocab_size=tokenizer.vocab_size)), tokenizer, greedy(4)
    )
    return folder


def linked(model, place, blobs) -> None:
    """A folder of links to the files of ``model``, which move to ``blobs``."""
    place.mkdir(parents=True)
    blobs.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        shutil.move(path, blobs / f"{path.name}-0123abc")
        (place / path.name).symlink_to(os.path.relpath(blobs / f"{path.name}-0123abc", place))


def test_the_cache_of_the_hub_is_made_of_links(model, tmp_path):
    repository = tmp_path / "hub" / "models--owner--name"
    linked(model, repository / "snapshots" / "abc", repository / "blobs")
    assert load_model_folder(str(repository / "snapshots" / "abc"))
    source = open_model_folder(str(repository / "snapshots" / "abc"))
    write_hugging_face_folder(source, tmp_path / "out", overwrite=False)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["snapshots/abc", "models--x/abc", "models--x/snapshots/abc"])
def test_other_folders_of_links_are_refused(model, name, tmp_path):
    linked(model, tmp_path / "hub" / name, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="which is not in this folder"):
        load_model_folder(str(tmp_path / "hub" / name))


def test_a_link_to_the_folder_itself_is_a_persons_own(model, tmp_path):
    (tmp_path / "mine").symlink_to(model)
    assert load_model_folder(str(tmp_path / "mine"))
    (tmp_path / "run").symlink_to(model.parent)  # a run folder, whose model is in it
    assert load_model_folder(str(tmp_path / "run"))


def test_a_link_within_the_folder_is_good(model):
    (model / "config.json").rename(model / "config-1.json")
    (model / "config.json").symlink_to("config-1.json")
    assert load_model_folder(str(model))


def test_a_run_folder_whose_model_is_elsewhere_is_refused(model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model)
    with pytest.raises(UserError, match="not in this folder: name that one"):
        load_model_folder(str(tmp_path / "run"))


def test_what_is_no_file_is_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name, what in {"fifo": "a FIFO", "folder": "a folder", "zero": "a link to /dev"}.items():
        with pytest.raises(UserError, match=what):
            check_file(tmp_path / f"{name}.json")
        with pytest.raises(UserError, match=what):
            read_settings(tmp_path / f"{name}.json")
        with pytest.raises(UserError, match=what):
            check_files(tmp_path, (f"{name}.json",))
    check_files(tmp_path, ("other.json", "folder*"))  # a folder by chance is passed over


def test_a_file_has_a_bearable_size(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(MAX_TEXT + 1)
    with pytest.raises(UserError, match="32 MiB"):
        read_file(path)
    path.write_text('{"a": [' + "0," * MAX_VALUES + "0, 0]}")
    with pytest.raises(UserError, match="holds more than"):
        read_settings(path)
