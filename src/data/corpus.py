"""Tokenised examples on disk: built once, atomically, then memory-mapped.

A corpus is one folder, named by a hash of rows, tokenizer, template and ``supervise`` - not of the
block size, for packing takes milliseconds and is done at start::

    outputs/corpora/<key>/report.json             what became of the rows
    outputs/corpora/<key>/<split>/input_ids.npy   (tokens,) all examples end to end
                                  supervised.npy  (tokens,) bool: is this token taught?
                                  offsets.npy     (examples + 1,) where each example starts
                                  prompts.npy     (examples,) hash of each first prompt
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from filelock import FileLock

from src.data.conversation import Conversation
from src.data.sources import SPLITS, RowReport, Source, prompt_hash
from src.data.template import JINJA, Example, encode_conversations
from src.data.tokenizer import Tokenizer

FORMAT = 1  # part of the key: raise it when the files or the encoding change


@dataclass(frozen=True)
class Corpus:
    """One split's examples, memory-mapped."""

    input_ids: np.ndarray
    supervised: np.ndarray
    offsets: np.ndarray
    prompts: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Map the arrays of a split's folder; an empty array is read, as it cannot be mapped."""
        arrays = {}
        for name in cls.__dataclass_fields__:
            path = folder / f"{name}.npy"
            empty = path.stat().st_size <= 128
            arrays[name] = np.load(path, mmap_mode=None if empty else "r")
        return cls(**arrays)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example (examples,), its end token included."""
        return np.diff(self.offsets)

    def example(self, index: int) -> Example:
        """Return example ``index``."""
        window = slice(self.offsets[index], self.offsets[index + 1])
        return Example(self.input_ids[window], self.supervised[window])


class NpyWriter:
    """Appends to a ``.npy`` file whose length is not known beforehand."""

    def __init__(self, path: Path, dtype: np.dtype | type):
        self.dtype = np.dtype(dtype)
        self.length = 0
        self.file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads its header so that a growing first axis never changes the header's size.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length,),
        }
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, values: np.ndarray) -> None:
        """Write ``values`` (n,) after what is there."""
        self.length += len(values)
        self.file.write(np.ascontiguousarray(values, self.dtype).tobytes())

    def close(self) -> None:
        """Write the length and flush to the disk."""
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class SplitWriter:
    """Appends the examples of one split to its four files."""

    def __init__(self, folder: Path, vocab_size: int):
        folder.mkdir(parents=True)
        ids = np.uint16 if vocab_size <= 2**16 else np.uint32
        dtypes = {
            "input_ids": ids,
            "supervised": np.bool_,
            "offsets": np.int64,
            "prompts": np.uint64,
        }
        self.files = {name: NpyWriter(folder / f"{name}.npy", dtypes[name]) for name in dtypes}
        self.files["offsets"].append(np.zeros(1))

    def append(self, conversation: Conversation, example: Example) -> None:
        """Write one example."""
        self.files["input_ids"].append(example.input_ids)
        self.files["supervised"].append(example.supervised)
        self.files["offsets"].append(np.array([self.files["input_ids"].length]))
        self.files["prompts"].append(
            np.array([prompt_hash(conversation.turns[0][0])], dtype=np.uint64)
        )

    def close(self) -> None:
        """Finish the files."""
        for file in self.files.values():
            file.close()


def corpus_key(source: Source, tokenizer: Tokenizer, supervise: str) -> str:
    """A hash of everything that decides the tokens of a corpus."""
    facts = [FORMAT, source.fingerprint(), tokenizer.fingerprint(), JINJA, supervise]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def build_corpus(source: Source, tokenizer: Tokenizer, supervise: str, corpora: Path) -> Path:
    """Return the folder of the corpus, building it unless it is there.

    Rows are read once, encoded in batches and written as they come; memory does not grow with the
    number of rows. Several processes may ask at once: one builds, the others wait. A build that
    is interrupted leaves nothing behind that could be taken for a corpus.

    Raises:
        UserError: the source cannot be read or holds nothing to learn from.
    """
    folder = corpora / corpus_key(source, tokenizer, supervise)
    if folder.exists():
        return folder
    corpora.mkdir(parents=True, exist_ok=True)
    with FileLock(corpora / f"{folder.name}.lock"):
        if folder.exists():
            return folder
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=corpora))
        try:
            report = _write(source, tokenizer, supervise, building)
            (building / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
            os.replace(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def _write(source: Source, tokenizer: Tokenizer, supervise: str, folder: Path) -> RowReport:
    writers = {split: SplitWriter(folder / split, tokenizer.vocab_size) for split in SPLITS}
    report = RowReport()
    for batch in _batches(source.conversations(report), size=4096):
        examples = encode_conversations((c for _, c in batch), tokenizer, supervise)
        for (split, conversation), example in zip(batch, examples, strict=True):
            writers[split].append(conversation, example)
    for writer in writers.values():
        writer.close()
    return report


def _batches(
    pairs: Iterator[tuple[str, Conversation]], size: int
) -> Iterator[list[tuple[str, Conversation]]]:
    for _, group in groupby(enumerate(pairs), key=lambda numbered: numbered[0] // size):
        yield [pair for _, pair in group]


def read_report(folder: Path) -> RowReport:
    """Return what became of the rows of the corpus in ``folder``."""
    return RowReport.from_json(json.loads((folder / "report.json").read_text()))
