"""Log-probabilities and entropies are those of the plain way, and so is the gradient."""

import pytest
import torch

from src.model import logprobs
from src.model.logprobs import token_logprobs, token_scores
from tests.model.conftest import random_model, relative_error, tiny_config


def inputs(model, num_rows=50):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(97, (2, 40), generator=generator)
    index = torch.randperm(80, generator=generator)[:num_rows]
    tokens = torch.randint(97, (num_rows,), generator=generator)
    weights = torch.randn(num_rows, generator=generator)
    return model(ids), index, tokens, weights


def plain(model, hidden, index, tokens):
    scores = model.logits(hidden.flatten(0, 1)[index]).float().log_softmax(1)
    entropies = -(scores.exp() * scores).sum(1)
    return scores.gather(1, tokens[:, None])[:, 0], entropies


@pytest.mark.parametrize("chunk", [1024, 7])
def test_they_are_those_of_the_plain_way(model, monkeypatch, chunk):
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    monkeypatch.setattr(logprobs, "CPU_TILE", 3)
    hidden, index, tokens, weights = inputs(model)
    gradients = []
    for way in (token_scores, plain):
        model.zero_grad()
        found, entropies = way(model, hidden, index, tokens)
        (found * weights).sum().backward(retain_graph=True)
        gradients.append((found, entropies, *(p.grad.clone() for p in model.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_rows_alone_are_kept_for_the_backward_pass(model):
    hidden, index, tokens, _ = inputs(model)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        found = token_logprobs(model, hidden.detach().requires_grad_(), index, tokens)
    assert (50, 32) in kept
    assert (50, 97) not in kept
    found.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_far_scores_lose_nothing_in_16_bits(dtype):
    """GPT-2's scores lie around -100: without the mean row they would round to steps of 0.5."""
    model = random_model(tiny_config(vocab_size=99))
    with torch.no_grad():
        model.ln_f.bias += 20
        model.wte.weight -= 0.2
    hidden, index, tokens, weights = inputs(model)
    hidden = hidden.detach()
    expected, _ = plain(model, hidden, index, tokens)
    with torch.autocast("cpu", dtype):
        found = token_logprobs(model, hidden, index, tokens)
    assert relative_error(found, expected) < 0.02
    (found * weights).sum().backward()
    gradient = model.wte.weight.grad.clone()
    model.zero_grad()
    (expected * weights).sum().backward()
    assert relative_error(gradient, model.wte.weight.grad) < 0.05


def test_without_gradients_nothing_is_kept(model):
    with torch.no_grad():
        hidden, index, tokens, _ = inputs(model)
        assert not token_logprobs(model, hidden, index, tokens).requires_grad
