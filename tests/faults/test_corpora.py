"""Damage to the files of a corpus: the figures are those of the whole one, or one line says why."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.data.checksums import CHECKSUMS
from src.data.corpus import REPORT, Corpus, build_corpus, file_names, read_report
from src.data.sources import SPLITS, Source, open_source
from tests.faults.conftest import count

NUM_ROWS = 3000


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        json.dumps({"prompt": f"question {i}", "response": f"answer {i * i}"})
        for i in range(NUM_ROWS)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def source(data_config, rows) -> Source:
    config = data_config(source="file", path=str(rows), test_fraction=0.1, validation_fraction=0.1)
    return open_source(config)


def figures(folder: Path) -> dict[str, object]:
    """All that anybody reads of a corpus."""
    found: dict[str, object] = {"report": read_report(folder)}
    for split in SPLITS:
        for name, array in vars(Corpus.open(folder / split)).items():
            found[f"{split}/{name}"] = (array.dtype.str, array.shape, array.tobytes())
    return found


def flip_a_bit(path: Path, rng: random.Random, start: int = 0, end: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    place = rng.randrange(start, len(content) if end is None else min(end, len(content)))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def flip_a_bit_in_the_header(path: Path, rng: random.Random) -> None:
    flip_a_bit(path, rng, end=128)


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def fill_with_zeros(path: Path, rng: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def append(path: Path, rng: random.Random) -> None:
    with path.open("ab") as file:
        file.write(bytes(rng.randrange(1, 100)))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def put_a_folder_there(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def put_a_pipe_there(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def link_to_nothing(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def save_another_array(path: Path, rng: random.Random) -> None:
    dtype = rng.choice([np.int8, np.uint32, np.int64, np.float64, ">u2"])
    np.save(path.with_suffix(".npy"), np.arange(rng.randrange(200)).astype(dtype))
    if path.suffix != ".npy":
        os.replace(path.with_suffix(".npy"), path)


def take_it_from_another_split(path: Path, rng: random.Random) -> None:
    folder = path.parent
    other = {"train": "test", "test": "validation", "validation": "train"}.get(folder.name)
    if other is None:
        path.write_text(json.dumps({"read": 3}), encoding="utf-8")
    else:
        shutil.copy(folder.parent / other / path.name, path)


def write_other_json(path: Path, rng: random.Random) -> None:
    path.write_text(
        rng.choice(["[]", "{}", "null", "3", '{"key": 3, "files": []}', "{" * 9, "[" * 10**5])
    )


def write_bytes_that_are_no_text(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(300))


Damage = Callable[[Path, random.Random], None]
TO_A_FILE: list[Damage] = [
    *(flip_a_bit, flip_a_bit_in_the_header, cut, empty, fill_with_zeros, append, remove),
    *(put_a_folder_there, put_a_pipe_there, link_to_nothing, save_another_array),
    *(take_it_from_another_split, write_other_json, write_bytes_that_are_no_text),
]


@pytest.mark.parametrize("seed", range(count(100, 16)))
def test_a_damaged_file_is_built_again(source, tokenizer, tmp_path, caplog, seed):
    rng = random.Random(seed)
    folder = build_corpus(source, tokenizer, "responses", tmp_path)
    whole = figures(folder)
    name = rng.choice([*file_names(), CHECKSUMS, REPORT])
    before = (folder / name).read_bytes()
    damage = TO_A_FILE[seed % len(TO_A_FILE)]
    damage(folder / name, rng)
    harmless = (folder / name).is_file() and (folder / name).read_bytes() == before
    found = build_corpus(source, tokenizer, "responses", tmp_path)
    assert figures(found) == whole
    said = [record.getMessage() for record in caplog.records]
    if name != CHECKSUMS or damage is not flip_a_bit:  # a bit of its white space changes nothing
        assert harmless or len(said) == 1
    assert all(name in line and "building it again" in line for line in said), said
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_run_on_a_damaged_corpus_is_that_on_a_whole_one(train, tmp_path):
    def figures_of(folder: str) -> dict[str, float]:
        door = train(folder=folder)
        assert door.wait() == 0, door.err
        said = "building it again" in door.err
        assert said is (folder == "damaged")
        metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
        return {name: metrics[name] for name in metrics if "loss" in name or "token" in name}

    whole = figures_of("whole")
    (folder,) = (tmp_path / "corpora").iterdir()
    flip_a_bit(folder / "train" / "input_ids.npy", random.Random(0), start=200)
    timed = {name for name in whole if "second" in name}
    damaged = figures_of("damaged")
    assert {k: v for k, v in damaged.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
