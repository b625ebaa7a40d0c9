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

Other kinds of rows have further files: see ``ComparisonCorpus``.
The checksums are compared before anything is read; a damaged corpus is built again.
"""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from src.data.build_lock import build_lock
from src.data.checksums import find_damage, write_checksums
from src.data.conversation import Conversation
from src.data.encoding import encode_all, num_helpers
from src.data.joining import Joining, is_single_turn
from src.data.npy_writer import NpyWriter
from src.data.report import PromptOverlap, RowReport, prompt_hash
from src.data.source import Read, Source
from src.data.sources import SPLITS
from src.data.template import JINJA, RESPONSE, TAUGHT, Examples
from src.data.tokenizer import Tokenizer
from src.data.words import ids_dtype
from src.errors import UserError
from src.files import atomic

FORMAT = 3  # part of the key: raise it when the files or the encoding change
BATCH_SIZE = 1024  # rows that are encoded and written at a time

Columns = Mapping[str, np.ndarray]  # (examples,) each
DTypes = Mapping[str, np.dtype | type]
REPORT = "report.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus(Examples):
    """One split's examples, memory-mapped.

    The prompts (examples,) are hashes of first prompts, ``sources`` (examples,) numbers.
    """

    kind: ClassVar[str] = "conversations"
    columns: ClassVar[DTypes] = {"prompts": np.uint64, "sources": np.uint16}  # of the files

    prompts: np.ndarray
    sources: np.ndarray

    @property
    def units(self) -> np.ndarray:
        """Where each unit starts (units + 1,), and the number of examples: each is a unit."""
        return np.arange(len(self) + 1)

    @classmethod
    def values(cls, rows: Sequence[Any]) -> Columns:
        """Return further values of the documents of ``rows`` (documents,) each."""
        return {}

    @classmethod
    def finish(cls, examples: Examples, values: Columns) -> Examples:
        """Return the encoded ``examples`` as they are written."""
        return examples

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the arrays of a split's folder; read empty ones, which cannot be mapped."""
        arrays = {}
        for name in array_names(cls):
            path = folder / f"{name}.npy"
            empty = path.stat().st_size <= 128
            arrays[name] = np.load(path, mmap_mode=None if empty else "r")
        return cls(**arrays)


def array_names(kind: type[Corpus]) -> list[str]:
    """Return the names of the arrays of a split, one file each."""
    return [field.name for field in fields(kind)]


def file_names(kind: type[Corpus] = Corpus) -> list[str]:
    """Return the names of all files of a corpus that have a checksum."""
    arrays = [f"{split}/{name}.npy" for split in SPLITS for name in array_names(kind)]
    return [REPORT, *arrays]


class SplitWriter:
    """Appends the examples of one split to its files, one of them for each of ``columns``.

    ``kinds`` is the type of ``supervised``: bool leaves out which tokens are those of prompts.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        kinds: np.dtype | type = np.bool_,
        columns: DTypes = Corpus.columns,
    ):
        folder.mkdir(parents=True)
        dtypes: dict[str, np.dtype | type] = {
            "input_ids": ids_dtype(vocab_size),
            "supervised": kinds,
            "offsets": np.int64,
            **columns,
        }
        self.columns = list(columns)
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
        for name in self.columns:
            self.files[name].append(columns[name])

    def close(self) -> None:
        """Finish the files."""
        for file in self.files.values():
            file.close()


def corpus_key(
    source: Source,
    tokenizer: Tokenizer,
    supervise: str,
    joining: Joining | None = None,
    kind: type[Corpus] = Corpus,
) -> str:
    """Return a hash of everything that decides the tokens of a corpus."""
    facts = [FORMAT, source.fingerprint(), tokenizer.fingerprint(), JINJA, supervise]
    if joining:
        facts += [joining.share, joining.max_length]
    if kind is not Corpus:
        facts.append(kind.kind)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def build_corpus(
    source: Source,
    tokenizer: Tokenizer,
    supervise: str,
    corpora: Path,
    joining: Joining | None = None,
    kind: type[Corpus] = Corpus,
) -> Path:
    """Return the folder of the corpus; build it unless it is there and whole. None joins no rows.

    ``kind`` says what else than ids is kept of the rows, which are those that ``source`` reads.

    Rows are read, encoded on all cores and written batch by batch; memory does not grow with their
    number. If several processes ask for it, one builds and the others wait. An interrupted build
    leaves nothing that looks like a corpus. A damaged corpus is built again, which the log says;
    processes that have the damaged one open keep it.

    Raises:
        UserError: the source cannot be read, has no usable row, or changed while it was read; or
            ``corpora`` is no folder that can be written to.
    """
    folder = corpora / corpus_key(source, tokenizer, supervise, joining, kind)
    names = file_names(kind)
    atomic.sweep(corpora)
    if find_damage(folder, names, folder.name) is None:
        return folder
    try:
        corpora.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"data.corpus_dir={corpora} is a file: name a folder") from error
    if not os.access(corpora, os.W_OK):
        raise UserError(f"data.corpus_dir={corpora} may not be written to: name another folder")
    with build_lock(folder):
        damage = find_damage(folder, names, folder.name)
        if damage is None:
            return folder
        if os.path.lexists(folder):
            log.warning("warning: corpus %s: %s; building it again", folder, damage)
            if not folder.is_dir():
                folder.unlink()
        with atomic.folder(folder) as temporary:
            report = _write(source, tokenizer, supervise, temporary, joining, kind)
            source.check_unchanged()
            atomic.write_json(temporary / REPORT, report.to_json())
            write_checksums(temporary, names, folder.name)
    return folder


def _write(
    source: Source,
    tokenizer: Tokenizer,
    supervise: str,
    folder: Path,
    joining: Joining | None,
    kind: type[Corpus],
) -> RowReport:
    kinds = {"train": TAUGHT[supervise].dtype}  # the others are scored for responses alone
    writers = {
        split: SplitWriter(
            folder / split, tokenizer.vocab_size, kinds.get(split, np.bool_), kind.columns
        )
        for split in SPLITS
    }
    report, overlap = RowReport(), PromptOverlap()
    origins: deque[tuple[np.ndarray, np.ndarray, Columns]] = deque()  # of each batch of rows

    def batches() -> Iterator[list[Conversation]]:
        for batch in _batches(source, report):
            numbers, splits, rows = zip(*batch, strict=True)
            documents = [row.documents() for row in rows]
            joinable = [
                joining is not None and split == "train" and is_single_turn(row)
                for split, row in zip(splits, rows, strict=True)
            ]
            prompts = [row.first_prompt for row in rows]
            overlap.add(splits, prompts)
            sizes = list(map(len, documents))
            values = {"prompts": [prompt_hash(prompt) for prompt in prompts], "sources": numbers}
            columns = {
                name: np.repeat(np.array(values[name], dtype), sizes)
                for name, dtype in Corpus.columns.items()
            }
            columns |= kind.values(rows)
            origins.append((np.repeat(splits, sizes), np.repeat(joinable, sizes), columns))
            yield [document for row in documents for document in row]

    with closing(encode_all(batches(), tokenizer, supervise, num_helpers())) as encoded:
        for examples in encoded:
            splits, joinable, columns = origins.popleft()
            examples = kind.finish(examples, columns)
            numbers = columns["sources"]
            # NumPy, comparing two of its strings, drops what the handler of a signal raises.
            for split, number in sorted(set(zip(splits.tolist(), numbers.tolist(), strict=True))):
                mask = (splits == split) & (numbers == number)
                part, rows = examples.take(mask), np.flatnonzero(mask)
                if joining:
                    part, firsts = joining(part, columns["prompts"][rows], joinable[rows])
                    rows = rows[firsts]
                writers[split].append(part, {name: of[rows] for name, of in columns.items()})
    for writer in writers.values():
        writer.close()
    report.shared_prompts = overlap.counts()
    return report


def _batches(source: Source, report: RowReport) -> Iterator[list[tuple[int, str, Read]]]:
    """Yield the rows of all sources, some at a time: number of the source, split, row."""
    found = (
        (number, split, row)
        for number, single in enumerate(source.sources)
        for split, row in single.read(report)
    )
    while batch := list(islice(found, BATCH_SIZE)):
        yield batch


def read_report(folder: Path) -> RowReport:
    """Return the report of the corpus in ``folder``."""
    return RowReport.from_json(json.loads((folder / REPORT).read_text(encoding="utf-8")))
