"""Nothing that is not finite is learned from or written down.

A step whose gradient is not finite is skipped on the device (``TrainingModule``). Here is what the
host does about it: it hears of it without waiting for a GPU, finds the rows, and stops a run that
would go on in vain. Weights are checked before each save.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.blocks import Blocks
from src.data.packing import one_per_block
from src.errors import UserError
from src.model.finite import not_finite
from src.training.distributed import reshard

TrainingModule = Any  # that of ``module.py``, which imports this file
MAX_SKIPPED = 20  # steps in a row; fp16 skips some while its gradient scaler finds its scale
MAX_UNHEARD = MAX_SKIPPED // 2  # steps that a GPU may be behind
NUM_NAMED = 3  # rows in a message
TEXT_LENGTH = 60  # characters of a row in a message

log = logging.getLogger(__name__)


class SkippedSteps:
    """How many steps in a row were skipped, as the device counts, step for step.

    A GPU copies its count into pinned memory. The host looks ``MAX_UNHEARD`` steps later, when it
    has long been there, and from the first that was skipped on at once. All ranks look at the same
    time.
    """

    def __init__(self) -> None:
        self.sent: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()
        self.in_a_row = 0  # at the last step that was heard of

    def send(self, step: int, in_a_row: Tensor) -> None:
        """Have the count after ``step`` sent to the host."""
        event = None
        if in_a_row.device.type == "cuda":
            pinned = torch.empty((), dtype=in_a_row.dtype, pin_memory=True)
            in_a_row = pinned.copy_(in_a_row, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.sent.append((step, in_a_row, event))

    def heard(self, wait: bool = False) -> Iterator[tuple[int, int]]:
        """Yield each step that was not heard of before, and its count.

        Args:
            wait: whether to wait for all that was sent.
        """
        while self.sent:
            step, in_a_row, event = self.sent[0]
            at_once = event is None and in_a_row.device.type == "cpu"
            if not (at_once or wait or self.in_a_row or len(self.sent) > MAX_UNHEARD):
                return
            if event is not None:
                event.synchronize()
            self.sent.popleft()
            self.in_a_row = int(in_a_row)
            yield step, self.in_a_row


def hear_of_skipped(module: TrainingModule, wait: bool = False) -> None:
    """Look at which steps the device has skipped; ``wait``: for all of them.

    Raises:
        UserError: ``MAX_SKIPPED`` in a row, or a reason that will not go away.
    """
    for step, in_a_row in module.skipped.heard(wait):
        if in_a_row == 0:
            continue
        # The step is no part of the training figures. A GPU has added later steps to it meanwhile:
        # there all of them go, back to the last log.
        sums = module.sums_before
        if module.device.type != "cpu":
            sums = {name: torch.zeros_like(x) for name, x in sums.items()}
        module.train_metrics.restore(sums)
        if in_a_row == 1:
            explain_step(module, step)
        if in_a_row >= MAX_SKIPPED:
            raise UserError(
                f"at step {step} the gradient has not been finite for {in_a_row} steps: "
                f"lower optimizer.learning_rate, or use trainer.precision=32-true: "
                f"{way_on(module, 'one of them')}"
            )


def check_weights(module: TrainingModule) -> None:
    """Check what a checkpoint or a model folder would hold; every rank has to call it.

    Raises:
        UserError: a weight is not finite.
    """
    hear_of_skipped(module, wait=True)
    learning = {
        n.removeprefix("model."): p for n, p in module.named_parameters() if p.requires_grad
    }
    if (name := not_finite(learning)) is not None:
        step = module._trainer.global_step if module._trainer is not None else 0
        raise UserError(
            f"after step {step} the weight {name} is not finite, and is not saved: an update was "
            f"too large: {way_on(module, 'a lower optimizer.learning_rate')}"
        )


def check_figures(figures: Mapping[str, Any]) -> None:
    """Check what ``metrics.json`` would hold.

    Raises:
        UserError: a figure is not finite.
    """
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"{name} is {value}: the weights are finite and their figures are not; start a new "
                f"run with trainer.precision=32-true"
            )


def explain_step(module: TrainingModule, step: int) -> None:
    """Say why ``step`` was skipped.

    Raises:
        UserError: the weights are not finite, or single rows always give what is not finite.
    """
    trainer: Any = module.trainer
    learning = dict(module.model.named_parameters())
    if (name := not_finite(learning)) is not None:
        raise UserError(
            f"before step {step} the weight {name} was not finite: an update was too large: "
            f"{way_on(module, 'a lower optimizer.learning_rate')}"
        )
    if not module.learns_from_rows:
        log.warning("warning: step %d is skipped: its gradient is not finite", step)
        return
    batches, tokenizer = trainer.train_dataloader.batches, trainer.datamodule.tokenizer
    blocks, numbers = batches.blocks, batches.global_batch(step - 1).tolist()
    if rows := bad_rows(module, blocks, numbers, learns=True):
        names = name_rows(blocks, rows, tokenizer, "train")
        what = "trainer.precision=32-true, or without that row"
        raise UserError(
            f"at step {step} the loss or the gradient of {names} is not finite: "
            f"{way_on(module, what)}"
        )
    if module.is_scaled:
        return  # its scale was too large: nothing is wrong
    first = name_rows(blocks, blocks.packing[numbers[0]].tolist(), tokenizer, "train")
    log.warning(
        "warning: step %d is skipped: its gradient is not finite, though each row alone has a "
        "finite one; its blocks are %s, and the first holds %s",
        step,
        ", ".join(map(str, numbers)),
        first,
    )


def explain_figures(module: TrainingModule, split: str, figures: Mapping[str, float]) -> None:
    """Do nothing if the ``figures`` of a held-out split are finite.

    Raises:
        UserError: names the weight or the rows for which they are not.
    """
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if not bad:
        return
    check_weights(module)
    if in_a_row := module.skipped.in_a_row:
        raise UserError(
            f"at step {module.trainer.global_step} the gradient has not been finite for {in_a_row} "
            f"steps, and {bad[0]} is {figures[bad[0]]}: lower optimizer.learning_rate, or use "
            f"trainer.precision=32-true: {way_on(module, 'one of them')}"
        )
    data = getattr(module.trainer, "datamodule", None)
    where = f"after step {module.trainer.global_step} {bad[0]} is {figures[bad[0]]}"
    what = "trainer.precision=32-true, or without that row"
    if data is not None and module.learns_from_rows:
        for blocks in data.by_source(split).values():
            if rows := bad_rows(module, blocks, range(len(blocks)), learns=False):
                names = name_rows(blocks, rows, data.tokenizer, split)
                raise UserError(
                    f"{where}, for the loss of {names} is not finite: {way_on(module, what)}"
                )
    raise UserError(f"{where}: {way_on(module, 'trainer.precision=32-true')}")


def bad_rows(
    module: TrainingModule, blocks: Blocks, numbers: Sequence[int], *, learns: bool
) -> list[int]:
    """Return the units of ``blocks`` for which each alone is not finite, of some of the blocks.

    None are returned if it is so for every block: then it is not the rows. Nothing changes: neither
    sums nor gradients nor random numbers.

    Args:
        module: the model and its loss.
        blocks: of a split.
        numbers: of the blocks to try.
        learns: whether gradients count, too; a sharded model has none here.
    """
    sums, training = module.train_metrics.values(), module.training
    module.eval()  # without dropout, which would draw
    try:
        is_bad = [not _is_finite(module, blocks, number, learns) for number in numbers]
        if all(is_bad) and len(numbers) > 1:
            return []
        suspects = [n for n, bad in zip(numbers, is_bad, strict=True) if bad]
        alone = replace(blocks, packing=one_per_block(len(blocks.units) - 1))
        units = [unit for number in suspects for unit in blocks.packing[number].tolist()]
        return [unit for unit in units if not _is_finite(module, alone, unit, learns)]
    finally:
        module.train(training)
        module.train_metrics.restore(sums)
        reshard(module.model)


def _is_finite(module: TrainingModule, blocks: Blocks, number: int, learns: bool) -> bool:
    """Whether one block's loss is finite and, if it ``learns``, its gradient."""
    trainer: Any = module.trainer
    batch: Any = blocks.batch(np.array([number]), 1)
    batch = trainer.strategy.batch_to_device(batch, module.device)
    weights = [p for p in module.model.parameters() if p.requires_grad]
    has_gradients = learns and not module.is_sharded
    with trainer.precision_plugin.forward_context(), torch.set_grad_enabled(has_gradients):
        loss = module.training_step(batch, 0) if learns else module.sums(batch).loss
        if not loss.isfinite():
            return False
        if not has_gradients:
            return True
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return not_finite({str(i): g for i, g in enumerate(gradients) if g is not None}) is None


def name_rows(blocks: Blocks, units: Sequence[int], tokenizer: Any, split: str) -> str:
    """Return how messages call the first few of some units, and how many more there are."""
    parts = []
    for unit in units[:NUM_NAMED]:
        number = blocks.units[unit]
        row = int(blocks.corpus_index[number])
        first = blocks.corpus.offsets[row]
        ids = blocks.corpus.input_ids[first : first + min(TEXT_LENGTH, blocks.lengths[number])]
        text = " ".join(tokenizer.decode(ids.tolist()).split())[:TEXT_LENGTH]
        block = int(np.flatnonzero(blocks.packing.examples == unit)[0])
        block = int(np.searchsorted(blocks.packing.offsets, block, side="right")) - 1
        parts.append(f"{split} row {row} (in block {block}: {text!r})")
    more = f" and {len(units) - NUM_NAMED} more" if len(units) > NUM_NAMED else ""
    return ", ".join(parts) + more


def way_on(module: TrainingModule, change: str) -> str:
    """Return how to go on, with ``change``, from the best weights that a run has written."""
    logger: Any = module.logger
    best = f" model.pretrained={logger.save_dir}/model" if logger is not None else ""
    return f"start a new run with {change}; the best weights so far:{best}"
