"""The best of n replies by a reward model: what a policy could be without any training.

Of K replies to a prompt, the best of n is a random n's; the mean over all choices of n of K weighs
the i-th of K in order by C(i - 1, n - 1) / C(K, n) (Nakano et al., arXiv:2112.09332).

Shape letters: N prompts, K replies to each.
"""

import math
from dataclasses import dataclass

import numpy as np

from src.evaluation.figures import Columns, ratio
from src.evaluation.policy_replies import Said

SHARES = ("perfect", "right", "win_rate")  # of prompts, from 0 to 1


@dataclass(frozen=True)
class BestOf:
    """The best of ``n`` replies of the reference.

    Attributes:
        n: how many.
        columns: of gold, perfect, right, proxy and the win rate against one reply; (N, 2) each.
    """

    n: int
    columns: dict[str, Columns]

    @property
    def kl(self) -> float:
        """The most nats that it is away from one reply (Beirami et al., arXiv:2401.01879)."""
        return math.log(self.n) - (self.n - 1) / self.n


def best_of_weights(count: int, n: int) -> np.ndarray:
    """Return how often each of ``count`` replies, in rising order, is the best of ``n`` (K,)."""
    ways = [math.comb(below, n - 1) for below in range(count)]
    return np.array([way / math.comb(count, n) for way in ways])


def sizes_up_to(most: int) -> list[int]:
    """Return 1, 2, 4 and so on, and ``most``."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def best_of(pool: Said, size: int, single: np.ndarray) -> list[BestOf]:
    """Return what the best of 1, 2, 4 ... of the replies of a pool are worth.

    Args:
        pool: ``size`` replies to each prompt, side by side.
        size: K.
        single: (N,) gold of another reply to each prompt.
    """
    proxy = pool.proxy.reshape(-1, size)
    order = proxy.argsort(axis=1, kind="stable")
    values = {
        name: np.take_along_axis(getattr(pool, name).reshape(-1, size), order, axis=1)
        for name in ("gold", "perfect", "right", "proxy")
    }
    values["win_rate"] = wins(values["gold"], single[:, None])
    return [
        BestOf(
            n,
            {
                name: mean(found @ best_of_weights(size, n), is_share=name in SHARES)
                for name, found in values.items()
            },
        )
        for n in sizes_up_to(size)
    ]


def wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return 1 where ours is better, 1/2 for a tie, else 0; nan where one is not known."""
    found = np.where(ours == theirs, 0.5, (ours > theirs).astype(float))
    return np.where(np.isnan(ours) | np.isnan(theirs), np.nan, found)


def mean(values: np.ndarray, *, is_share: bool = False) -> Columns:
    """Return the columns of the mean of what is known of ``values`` (N,); nan is not."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0), known, is_share=is_share)
