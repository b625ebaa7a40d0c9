"""What attention keeps is what the backend that runs keeps; test_memory measures the rest."""

import pytest

from src.model.config import GPT2Config
from src.model.footprint import Footprint


def kept(
    device: str = "cuda", capability: int = 8, half_precision: bool = True, dropout=0.0
) -> int:
    footprint = Footprint(
        shape=GPT2Config(50257, 1024, 768, 12, 12, "gelu_new", dropout),
        block_size=1024,
        device=device,
        capability=capability,
        half_precision=half_precision,
        activation_checkpointing=True,  # the inputs of the layers apart, only the mask is left
        frozen=False,
        adapters=0,
        supervised_share=1.0,
        document_length=512,
    )
    return footprint.activations(1)


@pytest.mark.parametrize(
    ("described", "width"),
    [
        ({"capability": 8}, None),  # fp16 runs the kernel as bf16 does
        ({"capability": 7}, 2),
        ({"dropout": 0.1}, 2),
        ({"half_precision": False}, 4),
        ({"device": "mps", "capability": 0}, 2),
        ({"device": "cpu", "capability": 0}, None),
    ],
)
def test_a_mask_is_counted_where_dense_attention_makes_one(described, width):
    inputs = (12 + 1) * 4 * 768 * 1024
    mask = 1024 * 1024 * (1 + width) if width else 0
    assert kept(**described) == inputs + mask
