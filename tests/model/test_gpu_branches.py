"""What each kind of GPU is given, and that the stand-in for one refuses what a GPU waits for."""

import pytest
import torch

from src.model.attention import DenseAttention, choose_backend, packed_attention
from src.model.varlen import VarlenAttention
from tests.cuda_stand_in import CudaStandIn, Refused

WAITING = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0]),
    "float": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "slice": lambda x: x[: x[0].long()],
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "copy to the CPU": lambda x: torch.zeros(4).copy_(x),
    "copy from the CPU": lambda x: x.copy_(torch.zeros(4)),
    "to": lambda x: torch.zeros(4).to(x.device),
    "tensor": lambda x: torch.tensor([1.0], device=x.device),
    "mixed": lambda x: x + torch.zeros(4),
    "index on the CPU": lambda x: x[torch.tensor([0, 1])],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "write by a mask": lambda x: x.index_put_((x > 0,), x[:1]),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: torch.unique_consecutive(x),
    "repeat": lambda x: torch.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("waiting", WAITING)
def test_the_stand_in_refuses_what_a_gpu_waits_for(waiting, inference, monkeypatch):
    card = CudaStandIn(monkeypatch, 8, None, has_kernels=False)
    with torch.inference_mode(inference), card():
        x = torch.zeros(4, device="meta")
        with pytest.raises((RuntimeError, TypeError, Refused)):
            WAITING[waiting](x)


def test_the_stand_in_counts_what_is_launched_and_no_views(monkeypatch):
    card = CudaStandIn(monkeypatch, 8, None, has_kernels=False)
    with card() as count:
        x = torch.empty(4, 4, device="meta")
        (x.t()[:2] * 2).sum()
    assert count == {"aten::mul": 1, "aten::sum": 1}


TURING, AMPERE = 7, 8


@pytest.mark.parametrize(
    ("capability", "dtype", "dropout", "expected"),
    [
        (AMPERE, torch.bfloat16, 0.0, VarlenAttention),
        (AMPERE, torch.float16, 0.0, VarlenAttention),
        (AMPERE, None, 0.0, DenseAttention),  # the kernel knows no fp32
        (AMPERE, torch.bfloat16, 0.1, DenseAttention),  # and no dropout
        (TURING, torch.float16, 0.0, DenseAttention),
        (TURING, torch.float16, 0.1, DenseAttention),
        (TURING, None, 0.0, DenseAttention),
        (9, torch.bfloat16, 0.0, VarlenAttention),
        (12, torch.bfloat16, 0.0, VarlenAttention),
    ],
)
def test_attention_is_what_the_card_is_good_at(capability, dtype, dropout, expected, monkeypatch):
    CudaStandIn(monkeypatch, capability, dtype, has_kernels=False)
    bounds = torch.arange(0, 9, 4, dtype=torch.int32, device="meta")
    assert type(packed_attention(bounds, 4, (2, 4), dropout)) is expected


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_what_is_for_a_cpu_is_never_given_to_another_device(device):
    for capability in (0, TURING, AMPERE):
        for half in (False, True):
            assert choose_backend(device, capability, half, 0.0) != "grouped"


def test_a_dense_mask_goes_to_the_memory_efficient_kernel(monkeypatch):
    """One mask for all layers, in the type of the products, which that kernel reads as it is."""
    card = CudaStandIn(monkeypatch, TURING, torch.float16, has_kernels=False)
    bounds = torch.arange(0, 9, 4, dtype=torch.int32, device="meta")
    qkv = torch.zeros(2, 4, 24, dtype=torch.float16, device="meta")
    with card() as count:
        attention = packed_attention(bounds, 4, (2, 4), 0.0)
        masks = []
        for layer in (0, 1):
            attention(qkv, 2, layer, 0.0)
            masks.append(attention.bias)
    assert count["aten::_scaled_dot_product_efficient_attention"] == 2
    assert count["aten::masked_fill_"] == 1
    assert masks[0] is masks[1]
    assert (masks[0].dtype, masks[0].shape) == (torch.float16, (2, 1, 4, 4))
