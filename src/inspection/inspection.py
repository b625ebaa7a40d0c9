"""What the model will learn: the lengths of examples, and blocks token by token."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count, pairwise
from typing import Any

import numpy as np

from src.data.blocks import Blocks
from src.data.template import PROMPT, RESPONSE
from src.data.tokenizer import REPLACEMENT, Tokenizer

END = "■"  # the sign of an end token
VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥"}


def length_table(lengths: np.ndarray) -> dict[str, float]:
    """Return count, mean, std, min, quartiles and max of ``lengths`` (N,), in tokens.

    The names and definitions are those of pandas' ``describe``: the standard deviation divides by
    N - 1 (nan for a single example), quartiles are interpolated. Raises ValueError for N = 0.
    """
    if not len(lengths):
        raise ValueError("no examples: there are no lengths to describe")
    quartiles = np.percentile(lengths, [25, 50, 75]).tolist()
    return {
        "count": len(lengths),
        "mean": float(lengths.mean()),
        "std": float(lengths.std(ddof=1)) if len(lengths) > 1 else math.nan,
        "min": int(lengths.min()),
        **dict(zip(("25%", "50%", "75%"), quartiles, strict=True)),
        "max": int(lengths.max()),
    }


@dataclass(frozen=True)
class LengthBin:
    """The number of examples of at least ``low`` and less than ``high`` tokens; None: no limit."""

    low: int
    high: int | None
    count: int

    def __str__(self) -> str:
        if self.high is None:
            return f"{self.low:,} and more"
        return f"{self.low:,}" if self.high == self.low + 1 else f"{self.low:,} - {self.high - 1:,}"


def length_histogram(lengths: np.ndarray, max_bins: int = 15) -> list[LengthBin]:
    """Return at most ``max_bins`` bins of one round width that count all of ``lengths`` (N,).

    The last bin has no upper limit and holds the longest hundredth: one giant does not push all
    others into one bin. Raises ValueError for N = 0.
    """
    if not len(lengths):
        raise ValueError("no examples: there are no lengths to count")
    shortest, long = int(lengths.min()), int(np.percentile(lengths, 99))
    for width in _round_numbers():
        start = shortest // width * width
        num_bins = (long - start) // width + 1
        if num_bins <= max_bins:
            break
    bins = np.minimum((lengths - start) // width, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins).tolist()
    lows = [start + width * number for number in range(num_bins)]
    highs = [*lows[1:], None]
    return [LengthBin(*values) for values in zip(lows, highs, counts, strict=True)]


def _round_numbers() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    return (digit * 10**power for power in count() for digit in (1, 2, 5))


@dataclass(frozen=True)
class Piece:
    """One token as visible text, or the few that only together make whole characters.

    ``is_prompt``: it is no response's, but scored in training at a weight.
    """

    text: str
    taught: bool
    num_tokens: int = 1
    is_prompt: bool = False


@dataclass(frozen=True)
class BlockView:
    """One block as the model reads it: the pieces of each document, then padding.

    ``ranks``: of each document that is a reply, and the number of its prompt in the block; empty
    where documents are conversations.
    """

    documents: list[list[Piece]]
    num_tokens: int
    num_taught: int
    num_padding: int
    num_prompt: int  # tokens of prompts that are scored
    ranks: list[tuple[int, int]] = field(default_factory=list)


def view_block(blocks: Blocks, block: int, tokenizer: Tokenizer) -> BlockView:
    """Return block number ``block``, read from the batch that training would use."""
    batch: dict[str, Any] = {**blocks.batch(np.array([block]), denominator=0)}
    ids = batch["input_ids"][0].numpy()
    kinds = np.zeros(len(ids), dtype=np.uint8)
    due = "reply_index" if "reply_index" in batch else "supervised_index"
    kinds[batch[due].numpy() + 1] = RESPONSE
    if "prompt_index" in batch:
        kinds[batch["prompt_index"].numpy() + 1] = PROMPT
    num_tokens = batch["num_tokens"]
    lengths = blocks.lengths[blocks.documents(block)].tolist()
    return BlockView(
        documents=[
            list(pieces(ids[start:end], kinds[start:end], tokenizer))
            for start, end in pairwise(accumulate(lengths, initial=0))
        ],
        num_tokens=num_tokens,
        num_taught=int((kinds == RESPONSE).sum()),
        num_padding=len(ids) - num_tokens,
        num_prompt=int((kinds == PROMPT).sum()),
        ranks=list(zip(batch["group"].tolist(), batch["ranks"].tolist(), strict=True))
        if "ranks" in batch
        else [],
    )


def pieces(ids: np.ndarray, kinds: np.ndarray, tokenizer: Tokenizer) -> Iterator[Piece]:
    """Yield the tokens ``ids`` (L,) as text; ``kinds`` (L,) as in ``Examples.supervised``.

    A piece has several tokens only where one alone ends in half a character. Half a character at a
    document's end becomes U+FFFD.
    """
    pending: list[int] = []
    for position, token in enumerate(ids.tolist()):
        if token == tokenizer.end_id:
            yield _piece(END, kinds[position])
            continue
        pending.append(token)
        text = tokenizer.decode(pending)
        following = slice(position + 1, position + 2)
        joins_next = (
            text.endswith(REPLACEMENT)
            and (kinds[following] == kinds[position]).any()
            and (ids[following] != tokenizer.end_id).all()
        )
        if not joins_next:
            yield _piece(visible(text), kinds[position], len(pending))
            pending.clear()


def _piece(text: str, kind: int, num_tokens: int = 1) -> Piece:
    return Piece(text, bool(kind == RESPONSE), num_tokens, bool(kind == PROMPT))


def visible(text: str) -> str:
    """Return ``text`` with visible signs for spaces, newlines and control characters."""
    return "".join(VISIBLE.get(character) or _printable(character) for character in text)


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()
