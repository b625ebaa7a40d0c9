"""What a model gives each scored token: its loss, and whether the model would have said it.

Shape letters: B blocks, T positions, S scored tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.adaptation import follow_load
from src.data.blocks import Blocks
from src.evaluation.encoded import Encoded
from src.model.gpt2 import GPT2

CPU_CHUNK, GPU_CHUNK = 512, 4096  # positions whose scores (V each, fp32) are in memory at once


@dataclass(frozen=True)
class TokenScores:
    """The scored tokens of all rows, in any order; each array is (S,).

    Attributes:
        row: the number of the row.
        position: of the token among the row's tokens, from 0.
        nats: minus the logarithm of the probability that the model gives it.
        correct: whether it is the likeliest token.
    """

    row: np.ndarray
    position: np.ndarray
    nats: np.ndarray
    correct: np.ndarray

    def where(self, mask: np.ndarray) -> "TokenScores":
        """Return the tokens for which ``mask`` (S,) is true."""
        return TokenScores(self.row[mask], self.position[mask], self.nats[mask], self.correct[mask])


@torch.inference_mode()
def score_tokens(
    model: GPT2,
    encoded: Encoded,
    *,
    block_size: int,
    batch_size: int,
    precision: str = "32-true",
    progress: Callable[[int], object] = lambda _: None,
) -> TokenScores:
    """Return the score of each scored token of ``encoded``.

    The rows are cut and packed as for training, so the sum of ``nats`` over their number is the
    loss that training logs for a split. Sums do not depend on ``batch_size`` but for rounding.

    Args:
        model: on the device to compute on; in evaluation mode.
        encoded: the rows.
        block_size: positions of a block: longer rows lose their tail.
        batch_size: blocks at a time.
        precision: of the products, ``32-true`` or ``bf16-mixed``; the softmax is fp32.
        progress: is told how many rows are done, batch by batch.
    """
    blocks = Blocks.build(encoded.corpus, block_size, packing=True, end_id=encoded.tokenizer.end_id)
    device = model.wte.weight.device
    parts: list[TokenScores] = []
    for first in range(0, len(blocks), batch_size):
        follow_load()
        numbers = np.arange(first, min(first + batch_size, len(blocks)))
        batch = blocks.batch(numbers, denominator=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            hidden = model(
                batch["input_ids"].to(device),
                batch["position_ids"].to(device),
                batch["cu_seqlens"].to(device),
                batch["max_seqlen"],
            )
            index = batch["supervised_index"]
            nats, correct = _log_losses(model, hidden, index.to(device), batch["labels"].to(device))
        row, position = _places(blocks, numbers, index.numpy())
        parts.append(TokenScores(row, position, nats.double().cpu().numpy(), correct.cpu().numpy()))
        progress(sum(len(blocks.documents(int(number))) for number in numbers))
    return _joined(parts)


def _log_losses(
    model: GPT2, hidden: Tensor, index: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses (S,) fp32 in nats, and whether each label is the likeliest (S,) bool."""
    rows = hidden.flatten(0, 1).index_select(0, index)
    size = CPU_CHUNK if rows.device.type == "cpu" else GPU_CHUNK
    nats, correct = [], []
    for part, due in zip(rows.split(size), labels.split(size), strict=True):
        scores = model.logits(part).float()
        nats.append(F.cross_entropy(scores, due, reduction="none"))
        correct.append(scores.argmax(-1) == due)
    return torch.cat(nats), torch.cat(correct)


def _places(
    blocks: Blocks, numbers: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return row and position (S,) of the tokens due at ``index`` in the flattened batch."""
    documents, starts = [], []
    for place, block in enumerate(numbers):
        inside = blocks.documents(block)
        lengths = blocks.lengths[inside]
        documents.append(inside)
        starts.append(place * blocks.block_size + np.cumsum(lengths) - lengths)
    first = np.concatenate(starts)
    which = np.searchsorted(first, index, side="right") - 1
    row = blocks.corpus_index[np.concatenate(documents)[which]]
    return row, index - first[which] + 1  # the label is the next token


def _joined(parts: list[TokenScores]) -> TokenScores:
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return TokenScores(none, none, np.zeros(0), np.zeros(0, dtype=bool))
    return TokenScores(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.position for part in parts]),
        np.concatenate([part.nats for part in parts]),
        np.concatenate([part.correct for part in parts]),
    )
