"""Tokenised examples on disk: built once, atomically, then memory-mapped.

A corpus is one folder. Its name is a hash of rows, tokenizer, template and ``supervise``, not of
the block size (unless rows are joined up to it): each run packs again, in milliseconds::

    outputs/corpora/<key>/checksums.json          of all other files
    outputs/corpora/<key>/report.json             what became of the rows
    outputs/corpora/<key>/<split>/input_ids.npy   (tokens,) all examples end to end
                                  supervised.npy  (tokens,) bool: is this token taught? In train,
                                                  where prompts are scored, uint8: see Examples
                                  offsets.npy     (examples + 1,) where each example starts
                                  prompts.npy     (examples,) hash of each first prompt
                                  sources.npy     (examples,) number of the source of each

The checksums are compared before anything is read; a damaged corpus is built again.
"""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from src.data.build_lock import build_lock
from src.data.checksums import find_damage, write_checksums
from src.data.conversation import Conversation
from src.data.encoding import encode_all, num_helpers
from src.data.joining import Joining, is_single_turn
from src.data.report import PromptOverlap, RowReport, prompt_hash
from src.data.sources import SPLITS, Source
from src.data.template import JINJA, RESPONSE, TAUGHT, Examples
from src.data.tokenizer import Tokenizer
from src.data.words import ids_dtype
from src.errors import UserError
from src.files import atomic

FORMAT = 3  # part of the key: raise it when the files or the encoding change
BATCH_SIZE = 1024  # rows that are encoded and written at a time

Columns = Mapping[str, np.ndarray]  # (examples,) each
COLUMNS = {"prompts": np.uint64, "sources": np.uint16}
REPORT = "report.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus(Examples):
    """One split's examples, memory-mapped.

    The prompts (examples,) are hashes of first prompts, ``sources`` (examples,) numbers.
    """

    prompts: np.ndarray
    sources: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Map the arrays of a split's folder; read empty ones, which cannot be mapped."""
        arrays = {}
        for name in cls.__dataclass_fields__:
            path = folder / f"{name}.npy"
            empty = path.stat().st_size <= 128
            arrays[name] = np.load(path, mmap_mode=None if empty else "r")
        return cls(**arrays)


def file_names() -> list[str]:
    """Return the names of all files of a corpus that have a checksum."""
    arrays = [f"{split}/{name}.npy" for split in SPLITS for name in Corpus.__dataclass_fields__]
    return [REPORT, *arrays]


class NpyWriter:
    """Appends to a ``.npy`` file."""

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
        """Append ``values`` (n,)."""
        self.length += len(values)
        self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def close(self) -> None:
        """Write the length."""
        self.file.seek(0)
        self._write_header()
        self.file.close()


class SplitWriter:
    """Appends the examples of one split to its five files.

    ``kinds`` is the type of ``supervised``: bool leaves out which tokens are those of prompts.
    """

    def __init__(self, folder: Path, vocab_size: int, kinds: np.dtype | type = np.bool_):
        folder.mkdir(parents=True)
        dtypes: dict[str, np.dtype | type] = {
            "input_ids": ids_dtype(vocab_size),
            "supervised": kinds,
            "offsets": np.int64,
            **COLUMNS,
        }
        self.files = {name: NpyWriter(folder / f"{name}.npy", dtypes[name]) for name in dtypes}
        self.files["offsets"].append(np.zeros(1))

    def append(self, examples: Examples, columns: Columns) -> None:
        """Append ``examples`` and their ``columns``, each (examples,)."""
        self.files["offsets"].append(examples.offsets[1:] + self.files["input_ids"].length)
        self.files["input_ids"].append(examples.input_ids)
        supervised, kinds = examples.supervised, self.files["supervised"].dtype
        self.files["supervised"].append(
            supervised if supervised.dtype == kinds else supervised == RESPONSE
        )
        for name in COLUMNS:
            self.files[name].append(columns[name])

    def close(self) -> None:
        """Finish the files."""
        for file in self.files.values():
            file.close()


def corpus_key(
    source: Source, tokenizer: Tokenizer, supervise: str, joining: Joining | None = None
) -> str:
    """Return a hash of everything that decides the tokens of a corpus."""
    facts = [FORMAT, source.fingerprint(), tokenizer.fingerprint(), JINJA, supervise]
    if joining:
        facts += [joining.share, joining.max_length]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def build_corpus(
    source: Source,
    tokenizer: Tokenizer,
    supervise: str,
    corpora: Path,
    joining: Joining | None = None,
) -> Path:
    """Return the folder of the corpus; build it unless it is there and whole. None joins no rows.

    Rows are read, encoded on all cores and written batch by batch; memory does not grow with their
    number. If several processes ask for it, one builds and the others wait. An interrupted build
    leaves nothing that looks like a corpus. A damaged corpus is built again, which the log says;
    processes that have the damaged one open keep it.

    Raises:
        UserError: the source cannot be read, has no usable row, or changed while it was read; or
            ``corpora`` is no folder that can be written to.
    """
    folder = corpora / corpus_key(source, tokenizer, supervise, joining)
    atomic.sweep(corpora)
    if find_damage(folder, file_names(), folder.name) is None:
        return folder
    try:
        corpora.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"data.corpus_dir={corpora} is a file: name a folder") from error
    if not os.access(corpora, os.W_OK):
        raise UserError(f"data.corpus_dir={corpora} may not be written to: name another folder")
    with build_lock(folder):
        damage = find_damage(folder, file_names(), folder.name)
        if damage is None:
            return folder
        if os.path.lexists(folder):
            log.warning("warning: corpus %s: %s; building it again", folder, damage)
            if not folder.is_dir():
                folder.unlink()
        with atomic.folder(folder) as temporary:
            report = _write(source, tokenizer, supervise, temporary, joining)
            source.check_unchanged()
            atomic.write_json(temporary / REPORT, report.to_json())
            write_checksums(temporary, file_names(), folder.name)
    return folder


def _write(
    source: Source,
    tokenizer: Tokenizer,
    supervise: str,
    folder: Path,
    joining: Joining | None,
) -> RowReport:
    kinds = {"train": TAUGHT[supervise].dtype}  # the others are scored for responses alone
    writers = {
        split: SplitWriter(folder / split, tokenizer.vocab_size, kinds.get(split, np.bool_))
        for split in SPLITS
    }
    report, overlap = RowReport(), PromptOverlap()
    origins: deque[tuple[np.ndarray, np.ndarray, Columns]] = deque()  # of each batch of rows

    def batches() -> Iterator[list[Conversation]]:
        found = (
            (number, split, conversation)
            for number, single in enumerate(source.sources)
            for split, conversation in single.conversations(report)
        )
        while batch := list(islice(found, BATCH_SIZE)):
            numbers, splits, conversations = zip(*batch, strict=True)
            joinable = [
                joining is not None and split == "train" and is_single_turn(conversation)
                for split, conversation in zip(splits, conversations, strict=True)
            ]
            prompts = [c.turns[0][0] for c in conversations]
            overlap.add(splits, prompts)
            values = {"prompts": [prompt_hash(prompt) for prompt in prompts], "sources": numbers}
            columns = {name: np.array(values[name], dtype) for name, dtype in COLUMNS.items()}
            origins.append((np.array(splits), np.array(joinable), columns))
            yield list(conversations)

    with closing(encode_all(batches(), tokenizer, supervise, num_helpers())) as encoded:
        for examples in encoded:
            splits, joinable, columns = origins.popleft()
            for split, number in sorted(set(zip(splits, columns["sources"], strict=True))):
                mask = (splits == split) & (columns["sources"] == number)
                part, rows = examples.take(mask), np.flatnonzero(mask)
                if joining:
                    part, firsts = joining(part, columns["prompts"][rows], joinable[rows])
                    rows = rows[firsts]
                writers[split].append(part, {name: of[rows] for name, of in columns.items()})
    for writer in writers.values():
        writer.close()
    report.shared_prompts = overlap.counts()
    return report


def read_report(folder: Path) -> RowReport:
    """Return the report of the corpus in ``folder``."""
    return RowReport.from_json(json.loads((folder / REPORT).read_text(encoding="utf-8")))
