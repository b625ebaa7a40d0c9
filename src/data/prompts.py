"""Prompts alone: what a policy answers while it learns from its own replies.

Any row serves: a prompt without a response, or a conversation, a comparison, whose last reply is
left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from src.data.columns import name_columns
from src.data.comparison import Context
from src.data.comparison_columns import comparison_columns
from src.data.content import UnusableRow
from src.data.conversation import Conversation, RowReader
from src.data.layouts import Row
from src.data.order import in_passes
from src.data.report import RowReport
from src.data.source import Source
from src.errors import UserError

REPLY = "\0reply"  # our name for a column; no file has it
EMPTY = "\0"  # stands for the reply
NO_ROOM = "no_room_for_replies"


class PromptReader(RowReader):
    """Turns rows of one source into what a model answers: a ``Conversation`` without its reply."""

    kind = "prompts"

    def __init__(
        self,
        column_names: list[str],
        columns: Mapping[str, str] | None,
        where: str,
        in_use: tuple[str, ...] = (),
    ):
        super().__init__(column_names, columns, where, in_use)
        own = {role: name for role, name in self.mapping.items() if role != "response"}
        self.asking = RowReader([], own | {"response": REPLY}, where, in_use)
        self.asking.num_odd = None
        self.plans = self.asking.plans

    def __call__(self, row: Row | list[Any]) -> Conversation:
        """Return the conversation; the response of its last turn is empty."""
        if isinstance(row, list):
            row = {"messages": row}
        self.absent -= row.keys()
        answer = name_columns(row, self.mapping).response
        conversation = self.asking({REPLY: EMPTY, **row})
        replies = {REPLY, answer, *comparison_columns(row, {}).values()}
        names = {f"column {name}" for name in replies}
        self.unused = tuple(name for name in self.asking.unused if name not in names)
        (prompt, _), before = conversation.turns[-1], conversation.turns[:-1]
        return conversation._replace(turns=(*before, (prompt, "")), taught=())


@dataclass(frozen=True)
class Prompts:
    """Prompts of one split, each once.

    Attributes:
        contexts: what they say.
        families: the label of each row, or "".
        input_ids: of each, after which the reply comes.
        report: what became of the rows.
    """

    contexts: list[Context]
    families: list[str]
    input_ids: list[np.ndarray]
    report: RowReport

    @classmethod
    def of(
        cls,
        source: Source,
        split: str,
        encode: Callable[[Context], Sequence[int]],
        max_length: int,
        key: str = "max_new_tokens",
    ) -> "Prompts":
        """Read and encode the prompts of a split; those of over ``max_length`` tokens are dropped.

        Args:
            source: of the rows.
            split: train, validation or test.
            encode: returns the token ids that a reply follows; raises UnusableRow for a context
                that the model does not take, which is dropped.
            max_length: tokens, at most.
            key: the setting that leaves more room when it is lower.

        Raises:
            UserError: the rows cannot be read, or no prompt is left.
        """
        report = RowReport()
        rows = source.read_by(PromptReader).read(report)
        found: dict[Context, str] = {}
        for context, family in _contexts(row for name, row in rows if name == split):
            found.setdefault(context, family)
        contexts, families, ids, refused = [], [], [], []
        for context, family in found.items():
            place = f"prompt {context.prompt[:40]!r}"
            try:
                encoded = encode(context)
            except UnusableRow as problem:
                report.drop(problem.reason, place, problem.found)
                refused.append(problem.reason)
                continue
            if len(encoded) > max_length:
                report.drop(NO_ROOM, place, f"{len(encoded):,} tokens")
                continue
            contexts.append(context)
            families.append(family)
            ids.append(np.array(encoded, dtype=np.int64))
        if not contexts and refused:
            first = report.first_dropped[refused[0]]
            raise UserError(
                f"no prompt of {split} can be used: {len(refused):,} {refused[0]}, first {first}"
            )
        if not contexts:
            raise UserError(
                f"no prompt of {split} has {max_length} tokens at most "
                f"({report.dropped[NO_ROOM]:,} are longer): lower {key}"
            )
        return cls(contexts, families, ids, report)

    def __len__(self) -> int:
        return len(self.contexts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each prompt (prompts,)."""
        return np.array([len(ids) for ids in self.input_ids])

    def order(self, seed: int, iteration: int, count: int) -> np.ndarray:
        """Return the numbers (count,) of the prompts of an iteration.

        A pure function: in each pass over the prompts every one comes once, in another order.
        """
        return in_passes(len(self), seed, iteration * count, count)


def _contexts(rows: Iterable[Any]) -> Iterable[tuple[Context, str]]:
    for row in rows:
        turns = row.turns
        yield Context(turns[:-1], turns[-1][0], row.system, row.opening), row.family


def answers(source: Source) -> dict[Context, str]:
    """Return the rows' own last replies, by what they reply to; rows may have none.

    Raises:
        UserError: the rows cannot be read.
    """
    found = source.read_by(RowReader).read(RowReport(), may_lack=True)
    rows: list[Any] = [row for _, row in found]
    contexts = _contexts(rows)
    return {context: row.turns[-1][1] for row, (context, _) in zip(rows, contexts, strict=True)}


def context_row(context: Context) -> dict[str, Any]:
    """Return the columns of a row that say a context, as every reader of rows reads them."""
    turns, prompt, system, opening = context
    if not turns and not opening and not system:
        return {"prompt": prompt}
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "assistant", "content": opening}] if opening else []
    for question, reply in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply})
    return {"messages": [*messages, {"role": "user", "content": prompt}]}


def context_of_row(row: Mapping[str, Any]) -> Context:
    """Return the context that ``context_row`` wrote."""
    columns = {name: row[name] for name in ("prompt", "messages") if name in row}
    conversation = PromptReader([], None, "row")(columns)
    return next(iter(_contexts([conversation])))[0]
