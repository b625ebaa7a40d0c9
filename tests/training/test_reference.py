"""The fast path learns what the plain one does: the same loss, step for step.

Plain: a dense mask, scores of all positions, torch's cross-entropy, AdamW and clipping, all in
fp32, in a loop of a dozen lines.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from src.data.datamodule import ChatDataModule
from src.model.attention import DenseAttention
from src.model.gpt2 import GPT2
from src.model.loss import IGNORE_INDEX
from src.training.config import OptimizerConfig
from src.training.optimizer import build_optimizer, build_schedule
from src.training.run import Run
from tests.training.conftest import curves

NUM_STEPS = 50


def plain_losses(model: GPT2, data: ChatDataModule, config: OptimizerConfig) -> list[float]:
    optimizer = build_optimizer(model, config, fused=False)
    schedule = build_schedule(optimizer, config, NUM_STEPS)
    losses = []
    for batch in data.train_dataloader():
        shape = batch["input_ids"].shape
        targets = torch.full((shape.numel(),), IGNORE_INDEX)
        targets[batch["supervised_index"]] = batch["labels"]
        attention = DenseAttention(batch["cu_seqlens"], shape)
        hidden = model(batch["input_ids"], batch["position_ids"], attention=attention)
        loss = F.cross_entropy(model.logits(hidden).flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 2e-3)])
def test_the_loss_curve_lies_on_that_of_a_plain_loop(precision, tolerance, small_run, monkeypatch):
    if precision == "bf16-mixed" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("bf16 would only be emulated on this processor")
    start = {}
    execute = Run.execute

    def keep(self):
        start.update(model=copy.deepcopy(self.module.model), run=self)
        return execute(self)

    monkeypatch.setattr(Run, "execute", keep)
    folder = small_run(
        "model.n_layer=4",
        f"max_steps={NUM_STEPS}",
        f"trainer.precision={precision}",
        f"trainer.val_every_n_steps={NUM_STEPS}",
    )
    run = start["run"]
    fast = list(curves(folder)["train/loss"].values())
    plain = plain_losses(start["model"], run.data, run.config.optimizer)
    assert len(fast) == len(plain) == NUM_STEPS
    assert plain[-1] < 0.7 * plain[0]  # there was something to learn
    assert fast == pytest.approx(plain, rel=tolerance)
