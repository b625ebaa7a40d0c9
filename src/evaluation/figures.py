"""What a figure is: columns over rows, and what their sums say.

Every figure is a function of sums over rows, never a mean of means: so it is the same however the
rows are cut into batches, and rows can be drawn again for its interval.

Shape letters: N rows, K columns of a figure, R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Columns:
    """One figure of one model, before it is summed.

    Attributes:
        values: (N, K) float64.
        form: how the sums (K,) become the figure: a name of ``FORMS``.
        is_share: whether each row's first column is from 0 to its second.
    """

    values: np.ndarray
    form: str = "ratio"
    is_share: bool = False

    @property
    def used(self) -> np.ndarray:
        """(N,) bool: the rows that count at all."""
        return (self.values[:, 1:] != 0).any(axis=1)

    def figure(self) -> float:
        """Return the figure over all rows; nan if no row counts or one is not finite."""
        return float(FORMS[self.form](self.values.sum(axis=0)[None])[0])

    def by_row(self) -> np.ndarray:
        """Return the figure of each row alone (N,); nan where it does not count."""
        return FORMS[self.form](self.values)


def ratio(top: np.ndarray, bottom: np.ndarray, is_share: bool = False) -> Columns:
    """Return the columns of the sum of ``top`` (N,) over the sum of ``bottom`` (N,)."""
    return Columns(np.stack([top, bottom], axis=1).astype(np.float64), is_share=is_share)


def spread(columns: Columns, numbers: Sequence[int], num_rows: int) -> Columns:
    """Return columns of the rows of these ``numbers`` as those of all: others count nothing."""
    values = np.zeros((num_rows, columns.values.shape[1]))
    values[np.array(numbers, dtype=np.int64)] = columns.values
    return replace(columns, values=values)


def _ratio(sums: np.ndarray) -> np.ndarray:
    top, bottom = sums[:, 0], sums[:, 1]
    return np.divide(top, bottom, out=np.full(len(sums), np.nan), where=bottom > 0)


def _logistic(sums: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-_ratio(sums)))


def _exp(sums: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite is what it is
        return np.exp(_ratio(sums))


def _chrf(sums: np.ndarray) -> np.ndarray:
    """Return chrF of sums (R, 18): counts of reply, reference and both, for each order.

    The formula is that of sacrebleu, which counts, for many sums at once: F-beta, beta 2, of mean
    precision and mean recall over the orders that both sides have (Popovic 2015).
    """
    reply, reference, both = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    counts = (reply > 0) & (reference > 0)
    orders = counts.sum(axis=1)
    nowhere = np.zeros_like(both)
    precision = np.divide(both, reply, out=nowhere.copy(), where=counts).sum(axis=1)
    recall = np.divide(both, reference, out=nowhere.copy(), where=counts).sum(axis=1)
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    below = 4 * precision + recall
    score = np.divide(500 * precision * recall, below, out=np.zeros(len(sums)), where=below > 0)
    return np.where(reference.sum(axis=1) > 0, score, np.nan)


FORMS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ratio": _ratio,
    "exp": _exp,
    "logistic": _logistic,
    "chrf": _chrf,
}


class Kind(NamedTuple):
    """How a figure is called, read and compared.

    Attributes:
        label: for a table.
        better: 1 if higher is better, -1 if lower is, 0 if neither.
        needs_same_tokens: whether models with different tokenizers cannot be compared by it.
        form: how it is written.
    """

    label: str
    better: int
    needs_same_tokens: bool
    form: str = "{:.4f}"


LARGE = 1e7  # from here on a figure is written in powers of ten
SHARE = "{:.2%}"
KINDS: Mapping[str, Kind] = {
    "loss": Kind("loss (nats a token)", -1, True),
    "perplexity": Kind("perplexity", -1, True, "{:,.2f}"),
    "bits_per_byte": Kind("bits per byte", -1, False),
    "accuracy": Kind("accuracy", 1, True, SHARE),
    "accuracy_article": Kind("accuracy, the article's way", 1, True, SHARE),
    "first_token_accuracy": Kind("first token right", 1, True, SHARE),
    "end_token_accuracy": Kind("end token right", 1, True, SHARE),
    "exact_match": Kind("exact match", 1, False, SHARE),
    "rouge_l": Kind("ROUGE-L", 1, False),
    "chrf": Kind("chrF", 1, False, "{:.2f}"),
    "ended": Kind("replies that end", 1, False, SHARE),
    "empty": Kind("empty replies", -1, False, SHARE),
    "reply_words": Kind("words a reply", 0, False, "{:.1f}"),
    "reply_tokens": Kind("tokens a reply", 0, True, "{:.1f}"),
    "repetition": Kind("repetition", -1, False, SHARE),
    "distinct_1": Kind("distinct words", 0, False, SHARE),
    "distinct_2": Kind("distinct pairs of words", 0, False, SHARE),
    # Of against=: drawn at temperature 1, or greedy.
    "win_rate": Kind("wins, drawn", 1, False, SHARE),
    "win_rate_greedy": Kind("wins, greedy", 1, False, SHARE),
    "win_rate_length_controlled": Kind("wins, length-controlled", 1, False, SHARE),
    "win_rate_like_length": Kind("wins, of like length", 1, False, SHARE),
    "gold": Kind("gold, drawn", 1, False, "{:.3f}"),
    "gold_greedy": Kind("gold, greedy", 1, False, "{:.3f}"),
    "perfect": Kind("perfect, drawn", 1, False, SHARE),
    "perfect_greedy": Kind("perfect, greedy", 1, False, SHARE),
    "right": Kind("right, drawn", 1, False, SHARE),
    "right_greedy": Kind("right, greedy", 1, False, SHARE),
    "kl": Kind("KL (nats a reply)", 0, False, "{:.2f}"),
    "proxy": Kind("reward model, drawn", 0, False, "{:.3f}"),
    "proxy_greedy": Kind("reward model, greedy", 0, False, "{:.3f}"),
    "win_rate_proxy": Kind("wins by the reward model", 0, False, SHARE),
}


def kind_of(name: str) -> Kind:
    """Return what is known of a figure; ``loss/turn_1`` is of the kind of ``loss``."""
    base, _, part = name.partition("/")
    kind = KINDS[base]
    return kind._replace(label=f"{kind.label}: {part.replace('_', ' ')}") if part else kind


def written(name: str, value: float) -> str:
    """Return a figure as a person reads it."""
    if np.isnan(value):
        return "-"
    if np.isinf(value) or abs(value) >= LARGE:
        return f"{value:.3g}"
    return kind_of(name).form.format(value)
