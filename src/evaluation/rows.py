"""The rows that models are held against: a split of the data, or a file of prompts."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.data.columns import check_roles, name_columns
from src.data.config import DataConfig
from src.data.content import UnusableRow
from src.data.conversation import Conversation
from src.data.files.part import SPLITS, Broken
from src.data.files.places import Place
from src.data.files.reader import open_parts
from src.data.layouts import row_messages, with_beginning
from src.data.messages import read_turns
from src.data.report import RowReport
from src.data.shapes import ADVICE
from src.data.sources import open_source
from src.errors import UserError
from src.evaluation import held_out
from src.talk.messages import Message
from src.wording.nearest import path_question

PLACEHOLDER = "?"  # stands for the answer of a row that has a question alone


@dataclass(frozen=True)
class EvaluationRow:
    """One row.

    Attributes:
        messages: what is asked: system text, earlier turns, a question.
        reference: the answer of the row; None: it has none.
        conversation: what is scored token by token; None: nothing.
        labels: under which its exact match counts, too.
    """

    messages: list[Message]
    reference: str | None
    conversation: Conversation | None
    labels: list[str]

    @classmethod
    def of(cls, conversation: Conversation) -> "EvaluationRow":
        """Return the row of a conversation whose last reply is asked for."""
        return cls(
            held_out.question(conversation),
            held_out.reference(conversation),
            conversation,
            held_out.labels(conversation),
        )


def rows_of_split(config: DataConfig, split: str) -> tuple[list[EvaluationRow], RowReport]:
    """Return the rows of a split, and what became of all rows of the source.

    Single-turn rows stay as they are: nothing is joined.

    Raises:
        UserError: the source cannot be read, or the split has no usable row.
    """
    report = RowReport()
    source = open_source(replace(config, join_turns=0.0))
    rows = [
        EvaluationRow.of(conversation)
        for name, conversation in source.conversations(report)
        if name == split
    ]
    if not rows:
        there = ", ".join(f"{report.used[name]:,} in {name}" for name in SPLITS)
        raise UserError(
            f"split={split}: the data has no rows there ({there}): choose another split=, raise "
            f"data.{split}_fraction, or ask the rows of a file with prompts=FILE"
        )
    return rows, report


def rows_of_prompts(name: str, config: DataConfig | None = None) -> list[EvaluationRow]:
    """Return the rows of a file of prompts, with their answers where they have them.

    A ``.txt`` file has a prompt a line; other files hold rows in any layout that training reads,
    whose last answer may be missing; JSON may also be a list of texts.

    Of ``config``, columns, encoding and max_rows count.

    Raises:
        UserError: the file cannot be read, or a row has no question: names the line.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"prompts={name}: there is no such file{path_question(name)}")
    if path.is_dir():
        raise UserError(f"prompts={name} is a folder: name a file")
    columns, encoding, most = (
        (None, None, None) if config is None else (config.columns, config.encoding, config.max_rows)
    )
    rows = list(_read(path, check_roles(columns or {}, f"prompts={name}"), encoding))[:most]
    if not rows:
        raise UserError(f"prompts={name}: no prompts in it")
    return rows


def _read(path: Path, columns: Mapping[str, str], encoding: str | None) -> Iterator[EvaluationRow]:
    texts = _texts(path, encoding)
    if texts is not None:
        for text in texts:
            yield EvaluationRow([Message("user", text)], None, None, ["turn_1"])
        return
    absent = set(columns.values())
    for part in open_parts(Place(path, None), encoding):
        for number, row in part.records():
            absent -= set(row) if isinstance(row, dict) else set()
            place = f"prompts={path}, {part.unit} {number}"
            if isinstance(row, Broken):
                raise UserError(f"{place}: {row.what}: mend or remove it")
            try:
                yield read_prompt(row, columns)
            except UnusableRow as problem:
                reason = problem.reason.replace("_", " ")
                advice = f"; {ADVICE[problem.reason]}" if problem.reason in ADVICE else ""
                raise UserError(f"{place}: {reason}: {problem.found}{advice}") from problem
    if absent:
        raise UserError(f"prompts={path}: no row has data.columns' {', '.join(sorted(absent))}")


def _texts(path: Path, encoding: str | None) -> list[str] | None:
    """Return the prompts of a file of plain texts; None: it holds rows."""
    kind = path.suffix.lower()
    if kind not in (".txt", ".json"):
        return None
    try:
        text = path.read_bytes().decode(encoding or "utf-8-sig")
    except OSError as error:
        raise UserError(f"prompts={path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        if kind == ".json":
            return None
        what = f"not {encoding or 'UTF-8'} text (byte {error.start})"
        raise UserError(f"prompts={path}: {what}; data.encoding names another") from error
    if kind == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None  # the reader of rows says what is wrong
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return [value.strip() for value in values if value.strip()]
    return None


def read_prompt(row: Any, columns: Mapping[str, str]) -> EvaluationRow:
    """Return the row's question, after its earlier turns, and its answer if it has one.

    ``columns`` are those that a person named, by checked roles.

    Raises:
        UnusableRow: it holds no question, or what no model of ours reads.
    """
    unused: list[str] = []
    plan, values = name_columns(row, columns), row
    answered = plan.response is not None and row[plan.response] not in (None, "", [])
    if plan.prompt is not None and not plan.lists and not answered:
        name = plan.response or "response"
        values = {**row, name: PLACEHOLDER}
        plan = name_columns(values, columns)
    else:
        answered = True
    used, messages = row_messages(values, plan, unused)
    messages = with_beginning(values, plan, messages, used, unused)
    reading = read_turns(messages, unused)
    family = row.get(plan.family) if plan.family is not None else None
    family = family if isinstance(family, str) else ""
    turns = reading.turns
    if reading.question:
        open_end = (reading.question, PLACEHOLDER)
        turns, answered = (*turns, open_end), False
    if not turns:
        raise UnusableRow("no_question", f"columns {', '.join(map(str, row))}")
    taught = () if all(reading.taught) else reading.taught
    conversation = Conversation(turns, reading.system, reading.opening, taught, family)
    result = EvaluationRow.of(conversation)
    return result if answered else replace(result, reference=None, conversation=None)
