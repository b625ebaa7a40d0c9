"""A training step on a GPU waits for nothing and launches no more than it has to.

Run on a stand-in (``tests/cuda_stand_in.py``), through ``SFTModule``'s own methods.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from src.data.batch import Batch
from src.model.config import GPT2Config
from src.model.gpt2 import GPT2
from src.objectives.sft import SFTModule
from src.training.metrics import Sums
from tests.cuda_stand_in import CudaStandIn, Refused
from tests.training.conftest import train_config

SHAPE = GPT2Config(1001, 64, 32, 2, 2, "gelu_new", 0.0)
BLOCKS, LENGTH = 4, 64


def batch(num_documents: int, num_labels: int) -> Batch:
    """A micro-batch on the device, ``num_documents`` in each block."""
    size = LENGTH // num_documents
    with torch.device("meta"):
        return {
            "input_ids": torch.zeros(BLOCKS, LENGTH, dtype=torch.long),
            "position_ids": torch.zeros(BLOCKS, LENGTH, dtype=torch.long),
            "cu_seqlens": torch.arange(0, BLOCKS * LENGTH + 1, size, dtype=torch.int32),
            "max_seqlen": size,
            "supervised_index": torch.arange(num_labels),
            "labels": torch.zeros(num_labels, dtype=torch.long),
            "denominator": num_labels,
        }


class Training:
    """A module on the device and all that a step needs.

    Args:
        card: where it is.
        fp16: whether the loss is scaled.
        accumulate: micro-batches of a step.
    """

    def __init__(self, card: CudaStandIn, fp16: bool, accumulate: int = 2, **changes):
        self.card, self.accumulate = card, accumulate
        with torch.device("meta"):
            model = GPT2(replace(SHAPE, **changes))
            self.module = SFTModule(
                model, train_config().optimizer, num_steps=10, log_every_n_steps=1
            )
        # The device's name decides nothing but whether there is one.
        self.scaler = torch.amp.GradScaler("cpu", enabled=fp16)
        self.module.trainer = SimpleNamespace(
            accumulate_grad_batches=accumulate,
            world_size=1,
            precision_plugin=SimpleNamespace(scaler=self.scaler) if fp16 else None,
        )
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def launches(self, index: int, num_documents: int = 4, num_labels: int = 100) -> int:
        """Run a micro-batch, and after the last of a step the step; return what it launched."""
        taken = batch(num_documents, num_labels)
        with self.card() as count:
            result = self.module.training_step(taken, index)
            self.scaler.scale(result).backward()
            if (index + 1) % self.accumulate == 0:
                self.module.configure_gradient_clipping(self.optimizer)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
        return count.total()


# Capability, autocast's type, our kernels; launches of a micro-batch and of one with a step.
CARDS = {
    "ampere_bf16": (8, torch.bfloat16, True, 144, 195),
    "ampere_bf16_without_kernels": (8, torch.bfloat16, False, 171, 222),
    "ampere_fp16": (8, torch.float16, True, 147, 207),
    "ampere_fp32": (8, None, True, 100, 151),
    "turing_fp16": (7, torch.float16, True, 152, 212),
    "turing_fp32": (7, None, True, 100, 151),
}


@pytest.fixture(params=CARDS)
def case(request, monkeypatch) -> tuple[Training, int, int]:
    """A training on each card, and the most that it may launch."""
    capability, dtype, has_kernels, accumulating, stepping = CARDS[request.param]
    card = CudaStandIn(monkeypatch, capability, dtype, has_kernels)
    return Training(card, dtype == torch.float16), accumulating, stepping


def test_a_step_waits_for_nothing_and_launches_no_more_than_it_did(case):
    """Small steps take as long as their launches: these are today's, of two layers.

    A micro-batch accumulates; the second one of a step clips and steps. The first step makes
    AdamW's moments besides.
    """
    training, accumulating, stepping = case
    for index in (0, 1):
        training.launches(index)
    assert training.optimizer.state
    counts = training.launches(2), training.launches(3)
    assert counts[0] <= accumulating
    assert counts[1] <= stepping


def test_neither_documents_nor_supervised_positions_add_launches(case):
    training, _, _ = case
    for index in (0, 1):
        training.launches(index)
    few = [training.launches(0, 4, 20), training.launches(1, 4, 20)]
    assert few == [training.launches(0, 16, 200), training.launches(1, 16, 200)]


def test_layers_add_as_many_each(monkeypatch):
    """Loss, figures, clipping and AdamW do not know how many there are."""
    counts = []
    for layers in (1, 2, 3):
        with monkeypatch.context() as patch:
            card = CudaStandIn(patch, 8, torch.bfloat16, True)
            training = Training(card, False, accumulate=1, n_layer=layers)
            training.launches(0)
            counts.append(training.launches(1))
    assert counts[2] - counts[1] == counts[1] - counts[0]


def test_activation_checkpointing_waits_for_nothing(case):
    """Each block runs forward once more, and nothing else does."""
    training, accumulating, stepping = case
    training.module.model.checkpoint_activations(True)
    counts = [training.launches(index) for index in range(4)]
    assert accumulating < counts[2] < 1.5 * accumulating
    assert counts[3] - counts[2] == stepping - accumulating


def test_scoring_waits_for_nothing(case):
    training, accumulating, _ = case
    taken = batch(4, 100)
    with training.card() as count, torch.no_grad():
        training.module.validation_step(taken, 0)
    assert count.total() < accumulating / 2


@pytest.mark.parametrize(
    "break_it",
    [
        lambda sums: float(sums.loss),
        lambda sums: sums.num_correct.cpu(),
        lambda sums: sums.loss + torch.zeros(1),
        lambda sums: torch.zeros(3).to(sums.loss.device),
        lambda sums: torch.tensor(3.0, device=sums.loss.device),
        lambda sums: sums.loss[sums.loss > 0],
    ],
    ids=["float", "cpu", "mixed", "upload", "tensor", "mask"],
)
def test_a_step_that_waits_is_found(break_it, monkeypatch):
    """Each is put in the midst of a step, where the figures are added up."""
    monkeypatch.setattr(Sums, "update", lambda self, sums: break_it(sums))
    training = Training(CudaStandIn(monkeypatch, 8, torch.bfloat16, True), fp16=False)
    with pytest.raises((RuntimeError, Refused)):
        training.launches(0)
