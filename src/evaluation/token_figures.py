"""Figures of scored tokens: each the sum of a column over rows, over the sum of another.

Shape letters: N rows, S scored tokens.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from src.evaluation.encoded import Encoded
from src.evaluation.figures import Columns, ratio
from src.evaluation.token_scores import TokenScores

POSITIONS = ((1, 4), (5, 16), (17, 64), (65, 256), (257, None))  # of a token in its response
MOST_TURNS = 5  # turns from here on share one figure
ARTICLE_BATCH = 32  # rows, as on the article's A100, whose accuracy is a mean over batches


@dataclass(frozen=True)
class Places:
    """Where each scored token stands; each array is (S,).

    Attributes:
        in_response: its number in its response, from 1; less for tokens of the template.
        turn: the number of the response in the conversation, from 1.
        is_end: whether it is a response's end token.
    """

    in_response: np.ndarray
    turn: np.ndarray
    is_end: np.ndarray


def find_places(scores: TokenScores, encoded: Encoded) -> Places:
    """Return where the tokens of ``scores`` stand in the rows of ``encoded``."""
    corpus = encoded.corpus
    supervised = np.asarray(corpus.supervised)
    before = np.concatenate([[False], supervised[:-1]])
    before[corpus.offsets[:-1][corpus.lengths > 0]] = False
    starts = np.flatnonzero(supervised & ~before)  # of each scored response
    token = corpus.offsets[scores.row] + scores.position
    start = starts[np.searchsorted(starts, token, side="right") - 1]
    ends = np.concatenate([[0], np.cumsum(corpus.input_ids == encoded.tokenizer.end_id)])
    openings = np.array([bool(c.opening) for c in encoded.conversations], dtype=np.int64)
    num_before = ends[token] - ends[corpus.offsets[scores.row]]  # responses that have ended
    return Places(
        in_response=token - start + 1 - encoded.header,
        turn=num_before + 1 - openings[scores.row],
        is_end=np.asarray(corpus.input_ids)[token] == encoded.tokenizer.end_id,
    )


def token_columns(scores: TokenScores, encoded: Encoded, max_length: int) -> dict[str, Columns]:
    """Return the columns of every figure of scored tokens, by its name."""
    num_rows = len(encoded.conversations)

    def counted(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        row = scores.row if mask is None else scores.row[mask]
        values = values if mask is None else values[mask]
        return np.bincount(row, weights=values, minlength=num_rows)

    places = find_places(scores, encoded)
    ones = np.ones(len(scores.row))
    nats, correct, count = counted(scores.nats), counted(scores.correct), counted(ones)
    scored_bytes = np.where(count > 0, encoded.num_bytes(max_length), 0)
    found = {
        "loss": ratio(nats, count),
        "perplexity": replace(ratio(nats, count), form="exp"),
        "bits_per_byte": ratio(nats / math.log(2), scored_bytes),
        "accuracy": ratio(correct, count, is_share=True),
    }
    for name, mask in (
        ("first_token_accuracy", places.in_response == 1),
        ("end_token_accuracy", places.is_end),
    ):
        found[name] = ratio(counted(scores.correct, mask), counted(ones, mask), is_share=True)
    for name, mask in _groups(places).items():
        if mask.any():
            found[f"loss/{name}"] = ratio(counted(scores.nats, mask), counted(ones, mask))
    return found


def _groups(places: Places) -> dict[str, np.ndarray]:
    groups = {}
    for low, high in POSITIONS:
        name = f"position_{low}-{high}" if high else f"position_{low}+"
        below = places.in_response <= (high or places.in_response.max(initial=0))
        groups[name] = (places.in_response >= low) & below
    for turn in range(1, MOST_TURNS):
        groups[f"turn_{turn}"] = places.turn == turn
    groups[f"turn_{MOST_TURNS}+"] = places.turn >= MOST_TURNS
    return groups


def article_columns(scores: TokenScores, num_rows: int) -> Columns:
    """Return the columns of the accuracy as the article averages it.

    It scores the template's constant ``### Response:`` too, and its figure is the mean over
    batches of each batch's share of right tokens. The batches are those of ``ARTICLE_BATCH`` rows
    in their order. The mean is written as a sum over rows over a sum over rows: each row's counts
    are divided by those of its batch.
    """
    correct = np.bincount(scores.row, weights=scores.correct, minlength=num_rows)
    count = np.bincount(scores.row, minlength=num_rows).astype(float)
    batch = np.arange(num_rows) // ARTICLE_BATCH
    in_batch = np.bincount(batch, weights=count)[batch]
    share = np.divide(1.0, in_batch, out=np.zeros(num_rows), where=in_batch > 0)
    return ratio(correct * share, count * share, is_share=True)
