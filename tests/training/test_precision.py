"""Which precision a card trains in, and what it is told that asks for another."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from src.errors import UserError
from src.training.machine import choose_precision
from tests.training.conftest import train_config

TURING, AMPERE, HOPPER = (7, 5), (8, 0), (9, 0)


@pytest.fixture
def precision(monkeypatch):
    """Return what is chosen on a card of a capability, or raise."""

    def choose(capability: tuple[int, int], configured: str) -> str:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        return choose_precision(train_config(f"trainer.precision={configured}").trainer, "cuda")

    return choose


def test_turing_trains_in_fp16_and_later_cards_in_bf16(precision):
    assert precision(TURING, "auto") == "16-mixed"
    assert precision((7, 0), "auto") == "16-mixed"
    assert precision(AMPERE, "auto") == "bf16-mixed"
    assert precision(HOPPER, "auto") == "bf16-mixed"


def test_what_the_card_can_do_is_done(precision):
    for configured in ("16-mixed", "32-true"):
        assert precision(TURING, configured) == configured
    for configured in ("16-mixed", "32-true", "bf16-mixed"):
        assert precision(AMPERE, configured) == configured


def test_bf16_is_refused_where_it_would_be_imitated(precision):
    with pytest.raises(UserError, match=r"this GPU has no bf16 .* use 16-mixed"):
        precision(TURING, "bf16-mixed")


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")  # there need not be one
def test_fp16_alone_has_a_scaler():
    """``SFTModule`` takes it from Lightning, and unscales with it before it clips."""
    assert MixedPrecision("16-mixed", "cuda").scaler is not None
    assert MixedPrecision("bf16-mixed", "cuda").scaler is None
