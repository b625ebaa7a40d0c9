"""Packed = alone, on every implementation: hidden states, loss and gradients."""

from itertools import pairwise

import pytest
import torch

from src.model import varlen
from src.model.attention import (
    DenseAttention,
    GroupedAttention,
    choose_backend,
    packed_attention,
)
from src.model.loss import supervised_loss
from tests.model.conftest import random_model, relative_error, tiny_config


def grouped_with_plain_up_to(length: int, cu_seqlens) -> GroupedAttention:
    attention = GroupedAttention(cu_seqlens)
    attention.PLAIN_LENGTH = length
    return attention


IMPLEMENTATIONS = {
    "dense": DenseAttention,
    "grouped": lambda cu_seqlens, shape: GroupedAttention(cu_seqlens),
    "grouped, fused kernel": lambda cu_seqlens, shape: grouped_with_plain_up_to(0, cu_seqlens),
    "grouped, both kernels": lambda cu_seqlens, shape: grouped_with_plain_up_to(10, cu_seqlens),
}
# Two blocks of 40 positions; the lengths of their documents (the last of the second is padding).
DOCUMENTS = [[3, 20, 17], [1, 9, 9, 2, 12, 7]]
LENGTH = 40


def packed_batch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([n for block in DOCUMENTS for n in block])
    input_ids = torch.randint(97, (2, LENGTH), generator=generator)
    position_ids = torch.cat([torch.arange(n) for n in lengths]).view(2, LENGTH)
    bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    cu_seqlens = torch.cat([bounds, bounds[-1:].repeat(3)]).int()  # a padded tail
    labelled = torch.cat([torch.arange(s, e - 1) for s, e in pairwise(bounds[:-1])])
    index = labelled[torch.rand(len(labelled), generator=generator) < 0.6]
    return input_ids, position_ids, cu_seqlens, index, input_ids.flatten()[index + 1]


def alone(model):
    """Hidden states, loss sum and gradients of the documents one at a time."""
    input_ids, _, cu_seqlens, index, labels = packed_batch()
    bounds = torch.unique(cu_seqlens).tolist()
    hidden, loss = [], 0.0
    for start, end in pairwise(bounds):
        h = model(input_ids.flatten()[None, start:end])
        mine = (index >= start) & (index < end)
        loss = loss + supervised_loss(model, h, index[mine] - start, labels[mine]).loss
        hidden.append(h[0])
    loss.backward()
    return torch.cat(hidden).view(2, LENGTH, -1), loss, gradients(model)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_packed_block_equals_its_documents_alone(name):
    model = random_model(tiny_config())
    expected_hidden, expected_loss, expected_gradients = alone(model)
    input_ids, position_ids, cu_seqlens, index, labels = packed_batch()
    attention = IMPLEMENTATIONS[name](cu_seqlens, (2, LENGTH))
    hidden = model(input_ids, position_ids, attention=attention)
    sums = supervised_loss(model, hidden, index, labels)
    sums.loss.backward()
    torch.testing.assert_close(model.logits(hidden), model.logits(expected_hidden))
    torch.testing.assert_close(sums.loss, expected_loss)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected_gradients[parameter], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_nothing_leaks_from_one_document_into_another(name):
    model = random_model(tiny_config())
    input_ids, position_ids, cu_seqlens, *_ = packed_batch()
    other = input_ids.clone()
    other[0, 3:23] = (other[0, 3:23] + 1) % 97  # the second document only
    shape = (2, LENGTH)
    with torch.no_grad():
        before = model(input_ids, position_ids, attention=IMPLEMENTATIONS[name](cu_seqlens, shape))
        after = model(other, position_ids, attention=IMPLEMENTATIONS[name](cu_seqlens, shape))
    same = torch.isclose(before, after, atol=1e-6).all(-1)
    changed = torch.zeros_like(same)
    changed[0, 3:23] = True
    assert torch.equal(same, ~changed)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_dropout_of_attention_weights_acts_in_every_implementation(name):
    _, _, cu_seqlens, *_ = packed_batch()
    attention = IMPLEMENTATIONS[name](cu_seqlens, (2, LENGTH))
    qkv = torch.randn(2, LENGTH, 96, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(attention(qkv, 4, 0, 0.5), attention(qkv, 4, 0, 0.0))


def test_documents_of_like_length_are_grouped_and_padding_stays_small():
    lengths = torch.randint(5, 120, (200,), generator=torch.Generator().manual_seed(0))
    bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int()
    groups = GroupedAttention(bounds).groups
    assert sum(count for count, _ in groups) == 200
    assert len(groups) < 15
    assert sum(count * padded for count, padded in groups) < 1.25 * lengths.sum()


def test_the_variable_length_layout_is_that_of_the_kernel(monkeypatch):
    """The kernel itself needs CUDA; a plain stand-in reads its arguments as documented."""

    def kernel(q, k, v, bounds, same_bounds, longest, same_longest, *, window_size):
        assert q.shape == (2 * LENGTH, 4, 8)
        assert window_size == (-1, 0)
        assert bounds is same_bounds
        assert longest == same_longest == LENGTH
        documents = [slice(start, end) for start, end in pairwise(bounds.tolist()) if end > start]
        attended = [
            torch.nn.functional.scaled_dot_product_attention(
                *(x[one].transpose(0, 1) for x in (q, k, v)), is_causal=True
            ).transpose(0, 1)
            for one in documents
        ]
        return torch.cat(attended)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "CAUSAL", {"window_size": (-1, 0)})
    _, _, cu_seqlens, *_ = packed_batch()
    qkv = torch.randn(2, LENGTH, 96, generator=torch.Generator().manual_seed(0))
    expected = DenseAttention(cu_seqlens, (2, LENGTH))(qkv, 4, 0, 0.0)
    actual = varlen.VarlenAttention(cu_seqlens, LENGTH)(qkv, 4, 0, 0.0)
    torch.testing.assert_close(actual, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_variable_length_attention_equals_the_dense_mask(dtype):
    _, _, cu_seqlens, *_ = packed_batch()
    bounds = cu_seqlens.cuda()
    qkv = torch.randn(2, LENGTH, 3 * 256, generator=torch.Generator().manual_seed(0)).cuda()
    outcomes = []
    for attention in (varlen.VarlenAttention(bounds, LENGTH), DenseAttention(bounds, (2, LENGTH))):
        x = qkv.to(dtype).requires_grad_()
        out = attention(x, 4, 0, 0.0)
        out.float().square().sum().backward()
        outcomes.append((out, x.grad))
    for one, other in zip(*outcomes, strict=True):
        assert relative_error(one, other) < 1e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dense_mask_gives_on_a_gpu_what_it_gives_on_a_cpu(dtype):
    _, _, cu_seqlens, *_ = packed_batch()
    qkv = torch.randn(2, LENGTH, 3 * 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    outcomes = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        x = qkv.detach().clone().to(device, kind).requires_grad_()
        out = DenseAttention(cu_seqlens.to(device), (2, LENGTH))(x, 4, 0, 0.0)
        out.float().square().sum().backward()
        outcomes.append((out.float().cpu(), x.grad.float().cpu()))
    for one, other in zip(*outcomes, strict=True):
        assert relative_error(other, one) < (1e-4 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize(
    ("device", "capability", "half_precision", "dropout", "backend"),
    [
        ("cpu", 0, True, 0.0, "grouped"),
        ("cpu", 0, False, 0.1, "grouped"),
        ("cuda", 8, True, 0.0, "varlen"),
        ("cuda", 8, True, 0.1, "dense"),
        ("cuda", 8, False, 0.0, "dense"),
        ("cuda", 7, True, 0.0, "dense"),  # Turing
        ("mps", 0, True, 0.0, "dense"),
    ],
)
def test_each_device_gets_what_runs_on_it(device, capability, half_precision, dropout, backend):
    assert choose_backend(device, capability, half_precision, dropout) == backend


def test_what_is_no_cpu_gets_what_a_gpu_without_the_kernel_gets():
    bounds = torch.empty(3, dtype=torch.int32)
    assert isinstance(packed_attention(bounds.to("meta"), LENGTH, (2, LENGTH), 0.0), DenseAttention)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_fastest_implementation_that_runs_on_it():
    _, _, cu_seqlens, *_ = packed_batch()

    def chosen(dtype, dropout=0.0):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            return type(packed_attention(cu_seqlens.cuda(), LENGTH, (2, LENGTH), dropout))

    ampere = torch.cuda.get_device_capability()[0] >= 8
    assert chosen(torch.float16) is (varlen.VarlenAttention if ampere else DenseAttention)
    assert chosen(torch.float32) is DenseAttention
    assert chosen(torch.float16, dropout=0.1) is DenseAttention


def test_fp32_stays_fp32_within_autocast_and_has_one_derivative():
    bounds = torch.tensor([0, 5, 9], dtype=torch.int32)
    qkv = torch.randn(1, 9, 24, requires_grad=True)
    expected = GroupedAttention(bounds)(qkv, 2, 0, 0.0)
    (gradient,) = torch.autograd.grad(expected.square().sum(), qkv)
    with torch.autocast("cpu", torch.bfloat16):
        found = GroupedAttention(bounds)(qkv, 2, 0, 0.0)
        (of_found,) = torch.autograd.grad(found.square().sum(), qkv, create_graph=True)
    assert torch.equal(found, expected)
    assert torch.equal(of_found, gradient)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_found.sum().backward()
