"""The batch: the one interface between data and model.

Shape letters: B blocks, T positions of a block, S supervised positions.

A batch of blocks with labels holds, for two blocks of 6 positions (end token E, padding _)::

    input_ids          a  b  c  E  d  E | e  f  g  E  _  _     (B, T)
    position_ids       0  1  2  3  0  1 | 0  1  2  3  0  1     (B, T)
    cu_seqlens         0           4      6           10   12  document boundaries, flattened
    max_seqlen         4                                       positions of the longest document
    supervised_index      1  2     4      6     8              (S,) flattened: where a label is due
    labels                c  E     E      f     E              (S,) the token that comes next
"""

from typing import TypedDict

from torch import Tensor


class BatchTargets(TypedDict, total=False):
    """What is due in a batch; each kind of ``Targets`` has its own keys."""

    supervised_index: Tensor
    labels: Tensor
    prompt_index: Tensor  # (P,) the same of prompts, where they are scored in training
    prompt_labels: Tensor


class Batch(BatchTargets):
    """What every training step needs, and what is due.

    ``cu_seqlens`` (documents + 1,) int32 lists the boundaries of all documents in the flattened
    B x T positions; padding counts as documents. ``max_seqlen`` is the length of the longest.
    ``denominator`` divides the summed loss: the number of targets of the whole global batch, of
    which this micro-batch is a part; where prompts are scored, plus their tokens' weights.
    ``num_tokens`` counts the tokens, without padding, of this
    micro-batch and of those on other ranks at the same time.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    denominator: float
    num_tokens: int
