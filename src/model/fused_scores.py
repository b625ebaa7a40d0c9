"""Cross-entropy of rows of scores in one kernel on a GPU (Triton), the gradient in their place.

Each row is read twice and written once. The first pass finds the largest score, its column and the
sum of exponentials, the second the gradient (online softmax, Milakov & Gimelshein,
arXiv:1805.02867; in place as in Liger Kernel, arXiv:2410.10989). No other tensor of the rows' size
is allocated.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4096  # of a row, read at a time
WARPS = 8


def score_(
    scores: Tensor, labels: Tensor, vocab_size: int, wants_gradient: bool, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return summed loss (0-d fp32) and number of correct argmaxes (0-d int64).

    Args:
        scores: (rows, V') of any floating type; ``wants_gradient`` overwrites them with
            d loss / d scores, which is zero from ``vocab_size`` on.
        labels: (rows,) int64; ``ignore_index`` is not scored.
        vocab_size: V; the columns from there on are padding.
        wants_gradient: whether to write the gradient.
        ignore_index: the label that is not scored.
    """
    num_rows, num_columns = scores.shape
    losses = torch.empty(num_rows, device=scores.device)
    correct = torch.empty(num_rows, dtype=torch.int32, device=scores.device)
    if num_rows:
        _score[(num_rows,)](
            scores,
            labels,
            losses,
            correct,
            vocab_size,
            num_columns,
            ignore_index,
            wants_gradient,
            COLUMNS,
            num_warps=WARPS,
        )
    return losses.sum(), correct.sum()


@triton.jit
def _score(
    scores,
    labels,
    losses,
    correct,
    vocab_size,
    num_columns,
    ignore_index,
    WANTS_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    scores += row.to(tl.int64) * num_columns
    label = tl.load(labels + row)
    scored = label != ignore_index
    # Running values of each lane. A lane without a column does not count: every real score is
    # above ``lowest``.
    lowest = -1.0e38
    largest = tl.full([BLOCK], lowest, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    column = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocab_size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(scores + columns, mask=columns < vocab_size, other=lowest).to(tl.float32)
        larger = tl.maximum(largest, x)
        total = total * tl.exp(largest - larger) + tl.exp(x - larger)
        column = tl.where(x > largest, columns, column)
        largest = larger
    top = tl.max(largest)
    prediction = tl.min(tl.where(largest == top, column, vocab_size))
    log_total = top + tl.log(tl.sum(total * tl.exp(largest - top)))
    target = tl.load(scores + tl.where(scored, label, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(scored, log_total - target, 0.0))
    tl.store(correct + row, (prediction == label).to(tl.int32))
    if WANTS_GRADIENT:
        tl.debug_barrier()  # the target must be read before it is overwritten
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            real = columns < vocab_size
            x = tl.load(scores + columns, mask=real, other=lowest).to(tl.float32)
            gradient = tl.exp(x - log_total) - (columns == label).to(tl.float32)
            gradient = tl.where(real & scored, gradient, 0.0)
            tl.store(scores + columns, gradient, mask=columns < num_columns)
