import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from src.data import corpus, encoding
from src.data.build_lock import build_lock
from src.data.checksums import find_damage, write_checksums
from src.data.corpus import (
    Corpus,
    NpyWriter,
    SplitWriter,
    build_corpus,
    corpus_key,
    file_names,
    read_report,
)
from src.data.packing import pack
from src.data.report import RowReport, prompt_hash
from src.data.sources import SPLITS, Part, Source, open_source
from src.data.template import encode_examples
from src.data.tokenizer import train_tokenizer
from src.data.words import WordEncoder
from src.errors import UserError
from tests.conftest import TEXTS, shared_data


class Rows:
    """Numbered rows that count how often they are read, and may break in the middle."""

    def __init__(self, count: int, breaks_at: int | None = None):
        self.count = count
        self.breaks_at = breaks_at
        self.readings = 0

    def __call__(self):
        self.readings += 1
        for i in range(self.count):
            if i == self.breaks_at:
                raise OSError("the disk is gone")
            yield i + 1, {"prompt": f"question {i}", "response": f"answer {i}" * (i % 3)}


@pytest.fixture
def source(data_config):
    """A source of one part; every third row has an empty response."""

    def make(rows: Rows, content="v1", **changes) -> Source:
        config = data_config(source="file", path="rows.jsonl", **changes)
        return Source(config, [Part("rows", "train", rows)], content)

    return make


@pytest.fixture
def corpora(tmp_path) -> Path:
    return tmp_path / "corpora"


def folders(corpora: Path) -> list[str]:
    return sorted(path.name for path in corpora.iterdir() if path.is_dir())


def test_a_corpus_holds_the_example_of_every_usable_row(source, tokenizer, corpora):
    """More rows than are encoded at a time."""
    rows = Rows(10_000)
    whole = source(rows, validation_fraction=0.1, test_fraction=0.1)
    folder = build_corpus(whole, tokenizer, "article", corpora)
    pairs = list(whole.conversations(RowReport()))
    report = read_report(folder)
    assert report.read == 10_000
    assert report.dropped == {"empty_response": 3334}
    for split in SPLITS:
        corpus = Corpus.open(folder / split)
        conversations = [conversation for name, conversation in pairs if name == split]
        assert len(corpus) == len(conversations) == report.used[split] > 600
        examples = encode_examples(conversations, WordEncoder(tokenizer), "article")
        assert corpus.offsets.tolist() == examples.offsets.tolist()
        assert np.array_equal(corpus.input_ids, examples.input_ids)
        assert np.array_equal(corpus.supervised, examples.supervised)
        first = [c.turns[0][0] for c in conversations]
        assert corpus.prompts.tolist() == [prompt_hash(prompt) for prompt in first]
        last = corpus.example(len(corpus) - 1)
        alone = encode_examples(conversations[-1:], WordEncoder(tokenizer), "article")
        assert last.input_ids.tolist() == alone.input_ids.tolist()
        assert last.supervised.tolist() == alone.supervised.tolist()


def test_a_corpus_is_mapped_not_read(source, tokenizer, corpora):
    corpus = Corpus.open(build_corpus(source(Rows(30)), tokenizer, "responses", corpora) / "train")
    assert all(isinstance(array, np.memmap) for array in vars(corpus).values())
    assert corpus.input_ids.dtype == np.uint16
    assert corpus.supervised.dtype == bool


def test_a_corpus_is_built_once_and_found_again(source, tokenizer, corpora):
    rows = Rows(30)
    first = build_corpus(source(rows), tokenizer, "responses", corpora)
    written = (first / "report.json").stat().st_mtime_ns
    second = build_corpus(source(rows), tokenizer, "responses", corpora)
    assert first == second
    assert rows.readings == 1
    assert (first / "report.json").stat().st_mtime_ns == written
    assert folders(corpora) == [first.name]
    build_corpus(source(rows), tokenizer, "article", corpora)
    assert rows.readings == 2
    assert len(folders(corpora)) == 2


def test_others_may_read_a_corpus_as_far_as_the_umask_lets_them(source, tokenizer, corpora):
    before = os.umask(0o022)
    try:
        folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    finally:
        os.umask(before)
    paths = [folder, *folder.rglob("*")]
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in paths}
    assert modes == {(True, 0o755), (False, 0o644)}


@pytest.mark.parametrize("breaks_at", [0, 20, 9000])
def test_an_interrupted_build_leaves_nothing_behind(source, tokenizer, corpora, breaks_at):
    with pytest.raises(OSError, match="the disk is gone"):
        build_corpus(source(Rows(10_000, breaks_at)), tokenizer, "responses", corpora)
    assert folders(corpora) == []
    folder = build_corpus(source(Rows(10_000)), tokenizer, "responses", corpora)
    assert read_report(folder).read == 10_000


def test_what_a_killed_build_left_is_not_taken_for_a_corpus(source, tokenizer, corpora):
    key = corpus_key(source(Rows(30)), tokenizer, "responses")
    for process in (2**30, os.getpid(), os.getppid()):  # one has no process, others are not theirs
        (corpora / f".{key}.{process}.tmp" / "train").mkdir(parents=True)
    (corpora / f"{key}.lock").touch()
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    assert read_report(folder).used == {"train": 20}
    assert folders(corpora) == [folder.name]


def test_what_a_killed_build_of_other_rows_left_is_removed(source, tokenizer, corpora):
    """And nothing else: the folder may be one that a person keeps other things in."""
    key = "0123456789abcdef"
    (corpora / f".{key}.{os.getpid()}.tmp" / "train").mkdir(parents=True)
    (corpora / f".{key}.77.old").mkdir()
    (corpora / f"{key}.lock").touch()
    kept = [corpora / name for name in ("uv.lock", ".name.tmp", f"{key}.txt", ".0123.77.tmp")]
    for path in kept:
        path.touch()
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    assert sorted(corpora.iterdir()) == sorted([*kept, folder])


def test_what_another_process_is_building_is_left_alone(source, tokenizer, corpora):
    key = "0123456789abcdef"
    part = corpora / f".{key}.77.tmp"
    corpora.mkdir()
    with build_lock(corpora / key):
        part.mkdir()
        folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
        assert sorted(corpora.iterdir()) == sorted([part, folder, corpora / f"{key}.lock"])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_corpus_is_built_again_and_said(source, tokenizer, corpora, caplog):
    rows = Rows(30)
    folder = build_corpus(source(rows), tokenizer, "responses", corpora)
    expected = Corpus.open(folder / "train").input_ids.tolist()
    flip_a_bit(folder / "train" / "input_ids.npy")
    assert build_corpus(source(rows), tokenizer, "responses", corpora) == folder
    assert rows.readings == 2
    assert Corpus.open(folder / "train").input_ids.tolist() == expected
    (line,) = caplog.messages
    assert f"corpus {folder}: train/input_ids.npy is damaged" in line
    assert "building it again" in line
    assert folders(corpora) == [folder.name]


def test_who_has_a_damaged_corpus_open_keeps_it(source, tokenizer, corpora):
    folder = build_corpus(source(Rows(3000)), tokenizer, "responses", corpora)
    opened = Corpus.open(folder / "train")
    expected = opened.input_ids.tolist()
    flip_a_bit(folder / "train" / "supervised.npy")
    build_corpus(source(Rows(3000)), tokenizer, "responses", corpora)
    assert opened.input_ids.tolist() == expected
    assert opened.supervised.tolist() != Corpus.open(folder / "train").supervised.tolist()


@pytest.mark.parametrize("damage", ["a file", "an empty folder", "another's", "half"])
def test_what_stands_in_the_place_of_a_corpus_is_replaced(source, tokenizer, corpora, damage):
    key = corpus_key(source(Rows(30)), tokenizer, "responses")
    other = build_corpus(source(Rows(60), content="v2"), tokenizer, "responses", corpora)
    if damage == "a file":
        (corpora / key).touch()
    elif damage == "an empty folder":
        (corpora / key).mkdir()
    else:
        shutil.copytree(other, corpora / key)
        if damage == "half":
            shutil.rmtree(corpora / key / "test")
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    assert find_damage(folder, file_names(), key) is None
    assert read_report(folder).read == 30
    assert folders(corpora) == sorted([key, other.name])


def test_a_damaged_corpus_without_its_rows_is_one_line(source, tokenizer, corpora, monkeypatch):
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    (folder / "report.json").unlink()
    broken = source(Rows(30))
    monkeypatch.setattr(broken, "hash_again", lambda: "another")
    with pytest.raises(UserError, match=r"^rows: it changed while it was read: start again"):
        build_corpus(broken, tokenizer, "responses", corpora)
    assert folder.is_dir()  # as it was: nothing better is there
    assert folders(corpora) == [folder.name]


def test_rows_that_change_while_they_are_read_make_no_corpus(data_config, tokenizer, corpora):
    """The file keeps its size and its time."""
    path = corpora.parent / "rows.jsonl"
    path.write_text('{"prompt": "Q", "response": "A"}\n' * 30)
    opened = open_source(data_config(source="file", path=str(path)))
    before = path.stat()
    path.write_text('{"prompt": "Q", "response": "B"}\n' * 30)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"rows\.jsonl: it changed while it was read"):
        build_corpus(opened, tokenizer, "responses", corpora)
    assert folders(corpora) == []


def test_a_file_where_the_corpora_should_be_is_one_line(source, tokenizer, corpora):
    corpora.touch()
    with pytest.raises(UserError, match=r"data\.corpus_dir=.*corpora is a file: name a folder"):
        build_corpus(source(Rows(30)), tokenizer, "responses", corpora)


def test_a_corpus_that_is_there_needs_no_folder_to_write_to(
    source, tokenizer, corpora, monkeypatch
):
    """As of another person, or a read-only image."""
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert build_corpus(source(Rows(30)), tokenizer, "responses", corpora) == folder
    with pytest.raises(UserError, match=r"data\.corpus_dir=.*corpora may not be written to"):
        build_corpus(source(Rows(30), content="v2"), tokenizer, "responses", corpora)


def test_to_compare_all_checksums_costs_a_start_little(tmp_path):
    """A corpus of a million rows: a GiB."""
    names = ["input_ids.npy", "supervised.npy"]
    for name in names:
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(1 << 25))
    write_checksums(tmp_path, names, "key")
    seconds = []
    for _ in range(5):  # of this thread's processor: beside other work, a clock says little
        started = time.thread_time()
        assert find_damage(tmp_path, names, "key") is None
        seconds.append(time.thread_time() - started)
    assert min(seconds) < 0.3  # 64 MiB; SHA-256 needs 0.07 s, XXH3 0.02


class Signal(BaseException):
    """What a handler of SIGTERM raises."""


@pytest.mark.parametrize("after", [0.0, 0.2, 0.5, 0.8])
def test_a_signal_while_rows_are_encoded_leaves_no_part_and_no_process(
    source, tokenizer, corpora, monkeypatch, after
):
    """Another process encodes from the first batch on; the signal comes anywhere."""
    monkeypatch.setattr(encoding, "NUM_FIRST", 0)
    monkeypatch.setattr(corpus, "num_helpers", lambda: 1)

    def ask_to_stop(*_):  # SIGALRM itself is never blocked
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    def stop(*_):
        raise Signal

    def build():
        signal.setitimer(signal.ITIMER_REAL, after or 1e-6)
        build_corpus(source(Rows(10**7)), tokenizer, "responses", corpora)

    children = psutil.Process().children()  # of other tests
    handlers = {signal.SIGALRM: ask_to_stop, signal.SIGTERM: stop}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(Signal):
            build()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert set(psutil.Process().children()) <= set(children)
    # A signal between the making of a lock and its use leaves an empty file, and no part.
    assert not corpora.exists() or {path.suffix for path in corpora.iterdir()} <= {".lock"}
    whole = build_corpus(source(Rows(30), content="v2"), tokenizer, "responses", corpora)
    assert list(corpora.iterdir()) == [whole]


def test_empty_splits_open(source, tokenizer, corpora):
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    for split in ("validation", "test"):
        corpus = Corpus.open(folder / split)
        assert len(corpus) == 0
        assert corpus.lengths.shape == (0,)
        assert corpus.input_ids.shape == corpus.supervised.shape == corpus.prompts.shape == (0,)


def test_the_key_follows_rows_tokenizer_and_what_is_taught_but_not_the_blocks(source, tokenizer):
    def key(tokenizer=tokenizer, supervise="responses", **changes) -> str:
        return corpus_key(source(Rows(3), **changes), tokenizer, supervise)

    first = key()
    assert key(block_size=1024) == key(packing=False) == key(num_workers=4) == first
    assert key(corpus_dir="elsewhere") == first
    other = train_tokenizer(TEXTS, vocab_size=300)
    changed = [
        key(content="v2"),
        key(tokenizer=other),
        key(supervise="article"),
        key(max_rows=2),
        key(columns={"prompt": "response", "response": "prompt"}),
        key(validation_fraction=0.1),
        key(test_fraction=0.1),
    ]
    assert len({first, *changed}) == 8


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.uint64, np.bool_])
@pytest.mark.parametrize("pieces", [(), (0,), (1,), (5, 0, 7), (99_999, 1), (100_001,)])
def test_a_file_written_in_pieces_is_what_numpy_saves(tmp_path, dtype, pieces):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, length).astype(dtype) for length in pieces]
    writer = NpyWriter(tmp_path / "ours.npy", dtype)
    for array in arrays:
        writer.append(array)
    writer.close()
    np.save(tmp_path / "theirs.npy", np.concatenate([np.zeros(0, dtype), *arrays]))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_ids_are_stored_in_as_few_bytes_as_hold_them(tmp_path, vocab_size, dtype):
    assert SplitWriter(tmp_path / "train", vocab_size).files["input_ids"].dtype == dtype


class SlowRows:
    """Rows that note each reading in a file, and take their time."""

    def __init__(self, log: Path):
        self.log = log

    def __call__(self):
        with self.log.open("a") as log:
            log.write("read\n")
        time.sleep(0.3)
        yield 1, {"prompt": "Q", "response": "A"}


def build_at_once(barrier, config, rows, corpora, result) -> None:
    """One of several processes."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    source = Source(config, [Part("rows", "train", rows)], "v1")
    barrier.wait()
    folder = build_corpus(source, tokenizer, "responses", corpora)
    result.put((str(folder), read_report(folder).read))


@pytest.mark.slow
def test_several_processes_at_once_build_one_corpus(data_config, corpora, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, result = context.Barrier(3), context.Queue()
    rows = SlowRows(tmp_path / "readings")
    config = data_config(source="file", path="rows.jsonl")
    arguments = (barrier, config, rows, corpora, result)
    processes = [context.Process(target=build_at_once, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    results = [result.get(timeout=300) for _ in processes]  # each imports all libraries first
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    assert rows.log.read_text() == "read\n"
    assert results == [(str(corpora / folders(corpora)[0]), 1)] * 3
    assert len(folders(corpora)) == 1


def test_the_report_is_plain_json_that_people_can_read(source, tokenizer, corpora):
    folder = build_corpus(source(Rows(30)), tokenizer, "responses", corpora)
    assert json.loads((folder / "report.json").read_text()) == {
        "read": 30,
        "used": {"train": 20},
        "dropped": {"empty_response": 10},
        "first_dropped": {"empty_response": 'rows, line 1: after "question 0"'},
        "unused": {},
        "first_unused": {},
        "shared_prompts": {},
    }


def test_all_rows_of_alpaca_are_accounted_for_and_fill_their_blocks(
    data_config, gpt2_tokenizer, corpora
):
    path = str(shared_data("alpaca.jsonl.gz"))
    config = data_config(source="file", path=path)
    folder = build_corpus(open_source(config), gpt2_tokenizer, "responses", corpora)
    report = read_report(folder)
    assert report.read == 52_002
    assert report.used == {"train": 51_974}
    assert report.dropped == {"empty_response": 28}
    corpus = Corpus.open(folder / "train")
    assert len(corpus) == 51_974
    lengths = np.minimum(corpus.lengths, 1024)  # one example is longer than a block
    assert (corpus.lengths > 1024).sum() == 1
    assert lengths.sum() / (pack(lengths, 1024).num_blocks * 1024) >= 0.999
    assert lengths.mean() == pytest.approx(83, abs=1)
    assert corpus.supervised.sum() / corpus.lengths.sum() == pytest.approx(0.69, abs=0.01)
