"""Losses of pairs: which of two replies to one prompt is the better one.

A ranking of K replies gives a pair for each two that are not tied, K (K - 1) / 2 at most, from K
forward passes. Each pair counts 1 / (pairs of its prompt), so that each prompt counts once,
whatever K (Ouyang et al., arXiv:2203.02155, 3.5).

Shape letters: N replies, P pairs.
"""

import torch.nn.functional as F
from torch import Tensor


def differences(values: Tensor, pairs: Tensor) -> Tensor:
    """Return the better reply's value less the worse one's (P,).

    Args:
        values: (N,) of the replies.
        pairs: (P, 2) int64 numbers of replies, the better one first.
    """
    better, worse = pairs.unbind(1)
    return values.index_select(0, better) - values.index_select(0, worse)


def bradley_terry(margins: Tensor, label_smoothing: float) -> Tensor:
    """Return the loss (P,) in nats: how unlikely the labeller's choices were.

    The chance that the better reply is chosen is the sigmoid of the margin.

    Args:
        margins: (P,) of the better reply over the worse one.
        label_smoothing: the share of labels that are taken to be the wrong way round.
    """
    loss = -(1 - label_smoothing) * F.logsigmoid(margins)
    return loss - label_smoothing * F.logsigmoid(-margins) if label_smoothing else loss


def squared(margins: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Return IPO's loss (P,): the squared distance of each margin from 1 / (2 beta).

    Azar et al., arXiv:2310.12036, equation 17, with mean log-ratios per token, as its authors told
    TRL that they use.

    Args:
        margins: (P,) of the better reply over the worse one, in log-ratios per token.
        beta: how strongly the reference holds, their tau.
        label_smoothing: the share of labels that are taken to be the wrong way round.
    """
    target = 1 / (2 * beta)
    loss = (1 - label_smoothing) * (margins - target).square()
    return loss + label_smoothing * (margins + target).square() if label_smoothing else loss
