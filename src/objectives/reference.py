"""The log-probabilities of replies under the reference: computed once, before the first step.

They are kept beside the corpus, in a folder that a hash of corpus, reference and precision names::

    outputs/corpora/<key>/checksums.json     of the other files
                          <split>.npy        (replies,) float32 of each reply of the corpus; NaN: of
                                             one that is in no block

So the reference takes no memory while the policy learns, and no time in the next run.

Shape letters: B blocks, T positions, N replies, R tokens of all replies.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src import phases
from src.data.blocks import Blocks
from src.data.build_lock import build_lock
from src.data.checksums import find_damage, write_checksums
from src.data.comparison_targets import Comparisons, ComparisonTargets
from src.data.targets import Document
from src.data.template import Examples
from src.errors import UserError
from src.files import atomic
from src.model.gpt2 import GPT2
from src.model.logprobs import token_logprobs
from src.objectives.kept_reference import weights_checksum
from src.progress import Progress

FORMAT = 1  # part of the key: raise it when the numbers change
# Of a log-probability, and nats of each of its tokens: logits far from 0 have coarse steps.
ROUNDING = {"32-true": 1e-5, "bf16-mixed": 1e-2, "16-mixed": 1e-2}
TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

log = logging.getLogger(__name__)


class ReferencedTargets(ComparisonTargets, total=False):
    """What is due in a batch, with the reference's log-probability (N,) of each reply."""

    reference_logprobs: Tensor


class ReferencedComparisons(Comparisons):
    """The pairs of each group, with the reference's log-probabilities.

    Args:
        logprobs: (replies of the corpus,).
    """

    def __init__(self, logprobs: np.ndarray):
        self.logprobs = logprobs

    def collate(self, documents: Sequence[Document], examples: Examples) -> ReferencedTargets:
        """Return the targets of a batch's documents."""
        targets = super().collate(documents, examples)
        found = self.logprobs[targets["reply_number"].numpy()]
        return {**targets, "reference_logprobs": torch.from_numpy(found)}


@dataclass(frozen=True)
class Reference:
    """A model that does not learn, and how it is computed.

    Attributes:
        model: plain, with the weights that the policy is compared with.
        device: where it is computed.
        precision: as ``trainer.precision`` names it.
        num_blocks: that are computed at a time.
    """

    model: GPT2
    device: str
    precision: str
    num_blocks: int

    @cached_property
    def checksum(self) -> str:
        """The checksum of the weights."""
        return weights_checksum(self.model)

    def key(self, corpus: str) -> str:
        """Return the hash that names the folder, for the rows of ``corpus``, a hash too."""
        facts = [FORMAT, corpus, self.checksum, self.precision]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @torch.no_grad()
    def logprobs(self, blocks: Blocks, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return which replies of the corpus some blocks hold, and the log-probability of each."""
        device = torch.device(self.device)
        batch: dict = {**blocks.batch(np.array(numbers), 1.0)}
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        dtype = TYPES.get(self.precision)
        with torch.autocast(self.device, dtype) if dtype else nullcontext():
            found = reply_logprobs(self.model, batch)
        return batch["reply_number"].cpu().numpy(), found.cpu().numpy()

    def of_split(self, blocks: Blocks, progress: Progress) -> np.ndarray:
        """Return the log-probability (replies of the corpus,) of each reply; NaN: in no block."""
        values = np.full(len(blocks.corpus.lengths), np.nan, dtype=np.float32)
        for first in range(0, len(blocks), self.num_blocks):
            part = range(first, min(first + self.num_blocks, len(blocks)))
            numbers, found = self.logprobs(blocks, part)
            values[numbers] = found
            progress.add(len(part))
        return values

    def check_start(self, policy: GPT2, blocks: Blocks) -> float:
        """Return the largest difference in nats of a reply's log-probability under ``policy``.

        Raises:
            UserError: it is more than rounding, though both are one model.
        """
        assert isinstance(blocks.targets, ReferencedComparisons)
        found, expected, allowed = self._of_first(policy, blocks, blocks.targets.logprobs)
        differences = np.abs(found - expected)
        if not (differences <= allowed).all():
            worst = int(np.argmax(differences - allowed))
            raise UserError(
                f"before the first step the log-probability of a reply is {found[worst]:.4f}, and "
                f"{expected[worst]:.4f} by what is kept of the reference, which is the same model: "
                f"remove data.corpus_dir and start again"
            )
        return float(differences.max(initial=0.0))

    def says(self, values: np.ndarray, blocks: Blocks) -> bool:
        """Whether ``values`` (replies of the corpus,) are its own, by the first blocks."""
        found, expected, allowed = self._of_first(self.model, blocks, values)
        return bool((np.abs(found - expected) <= allowed).all())

    def _of_first(
        self, model: GPT2, blocks: Blocks, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what ``model`` says of the first replies, what ``values`` say, and a tolerance."""
        place, training = model.wte.weight.device, model.training
        model.to(self.device).eval()
        try:
            first = range(min(self.num_blocks, len(blocks)))
            numbers, found = replace(self, model=model).logprobs(blocks, first)
        finally:
            model.to(place).train(training)
        corpus, expected = blocks.corpus, values[numbers]
        ends = corpus.offsets[numbers] + corpus.lengths[numbers]
        spans = zip(corpus.offsets[numbers], ends, strict=True)
        num_tokens = np.array([corpus.supervised[start:end].sum() for start, end in spans])
        allowed = ROUNDING[self.precision] * (num_tokens + np.abs(expected))
        return found, expected, allowed


def reply_logprobs(model: GPT2, batch: Mapping) -> Tensor:
    """Return the log-probability (N,) of each reply of a batch in nats, fp32, with a gradient."""
    hidden = model(
        batch["input_ids"], batch["position_ids"], batch["cu_seqlens"], batch["max_seqlen"]
    )
    tokens = token_logprobs(model, hidden, batch["reply_index"], batch["reply_labels"])
    return per_reply(tokens, batch)


def per_reply(values: Tensor, batch: Mapping) -> Tensor:
    """Return the sums (N,) over the tokens of each reply of ``values`` (R,)."""
    sums = torch.zeros(len(batch["last_index"]), device=values.device, dtype=values.dtype)
    return sums.index_add(0, batch["owner"], values)


def with_reference(
    splits: Mapping[str, Blocks], reference: Reference, corpus: str, corpora: Path
) -> dict[str, Blocks]:
    """Return the same blocks, whose batches hold the reference's log-probabilities.

    If several processes ask for them, one computes and the others wait.

    Args:
        splits: the blocks of comparisons, by split.
        reference: the model.
        corpus: the hash that names the corpus.
        corpora: where the folder is, or will be.
    """
    folder = corpora / reference.key(corpus)
    with build_lock(folder):
        values = _kept(folder, splits)
        # A library or machine of another kind may have computed them: one micro-batch tells.
        if values is None or not reference.says(values["train"], splits["train"]):
            values = _compute(splits, reference)
            with atomic.folder(folder) as building:
                for split, each in values.items():
                    np.save(building / f"{split}.npy", each)
                write_checksums(building, [f"{split}.npy" for split in values], folder.name)
    return {
        split: replace(blocks, targets=ReferencedComparisons(values[split]))
        for split, blocks in splits.items()
    }


def _kept(folder: Path, splits: Mapping[str, Blocks]) -> dict[str, np.ndarray] | None:
    """Return the values of an earlier run; None: there are none, or not of all these replies."""
    names = [f"{split}.npy" for split in splits]
    if find_damage(folder, names, folder.name) is not None:
        return None
    values = {split: np.load(folder / f"{split}.npy") for split in splits}
    is_whole = all(
        len(values[split]) == len(blocks.corpus.lengths)
        and bool(np.isfinite(values[split][blocks.corpus_index]).all())
        for split, blocks in splits.items()
    )
    return values if is_whole else None


def _compute(splits: Mapping[str, Blocks], reference: Reference) -> dict[str, np.ndarray]:
    start = time.perf_counter()
    model, training = reference.model, reference.model.training
    place = model.wte.weight.device
    total = sum(map(len, splits.values()))
    with phases.phase("reference"), Progress(total, "reference", "blocks", delay=1) as progress:
        model.to(reference.device).eval()
        try:
            values = {split: reference.of_split(b, progress) for split, b in splits.items()}
        finally:
            model.to(place).train(training)
    num_replies = sum(blocks.num_examples for blocks in splits.values())
    seconds = time.perf_counter() - start
    log.info("reference: log-probabilities of %s replies in %.0f s", f"{num_replies:,}", seconds)
    return values
