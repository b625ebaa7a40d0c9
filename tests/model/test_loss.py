import math

import pytest
import torch
import torch.nn.functional as F

from src.model import loss
from src.model.loss import (
    IGNORE_INDEX,
    LinearCrossEntropy,
    PromptWeightedCrossEntropy,
    prompt_weighted_loss,
    supervised_loss,
)


def test_sums_equal_a_plain_masked_loss_over_all_positions(model):
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(97, (3, 16), generator=generator)
    hidden = model(input_ids)
    targets = torch.full((3, 16), IGNORE_INDEX)
    targets[:, 5:12] = torch.randint(97, (3, 7), generator=generator)
    logits = model.logits(hidden)
    targets[1, 6] = logits[1, 6].argmax()  # at least one is right
    index = (targets.flatten() != IGNORE_INDEX).nonzero().squeeze(1)

    sums = supervised_loss(model, hidden, index, targets.flatten()[index])
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(sums.loss, expected)
    assert sums.num_supervised == 21
    right = (logits.argmax(-1) == targets) & (targets != IGNORE_INDEX)
    assert sums.num_correct == right.sum() >= 1


def test_ignored_labels_count_nowhere(model):
    hidden = model(torch.arange(10)[None])
    index, labels = torch.tensor([2, 3, 4]), torch.tensor([7, 8, 9])
    plain = supervised_loss(model, hidden, index, labels)
    padded = supervised_loss(
        model,
        hidden,
        torch.cat([index, torch.zeros(5, dtype=torch.long)]),
        torch.cat([labels, torch.full((5,), IGNORE_INDEX)]),
    )
    torch.testing.assert_close(padded.loss, plain.loss)
    assert padded.num_supervised == plain.num_supervised == 3
    assert padded.num_correct == plain.num_correct


def test_a_batch_without_labels_gives_zero_and_still_runs_backward(model):
    hidden = model(torch.arange(10)[None])
    none = torch.zeros(0, dtype=torch.long)
    sums = supervised_loss(model, hidden, none, none)
    sums.loss.backward()
    assert sums.loss == 0
    assert sums.num_supervised == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_a_uniform_model_has_the_loss_of_a_uniform_guess(model):
    with torch.no_grad():
        model.wte.weight.zero_()
    sums = supervised_loss(model, model(torch.arange(8)[None]), torch.arange(4), torch.arange(4))
    assert math.isclose(sums.loss.item(), 4 * math.log(97), rel_tol=1e-6)


@pytest.mark.parametrize("chunk", [5, 4096])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_and_gradients_equal_torchs_own_in_any_chunks(chunk, precision, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", chunk)
    monkeypatch.setattr(loss, "CPU_TILE", 2)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 32, generator=generator, requires_grad=True)
    weight = torch.randn(97, 32, generator=generator, requires_grad=True)
    labels = torch.randint(97, (12,), generator=generator)
    labels[[3, 8]] = IGNORE_INDEX

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        actual, num_correct = LinearCrossEntropy.apply(hidden, weight, labels)
        logits = F.linear(hidden, weight - weight.mean(0))  # the same softmax
    expected = F.cross_entropy(logits.float(), labels, reduction="sum")
    gradients = [torch.autograd.grad(3 * x, (hidden, weight)) for x in (actual, expected)]

    tolerance = {"fp32": 1e-4, "bf16": 0.1}[precision]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=tolerance)
    assert num_correct == (logits.argmax(1) == labels).sum()


def test_a_frozen_head_gets_no_gradient_and_validation_computes_none(model, monkeypatch):
    hidden = torch.randn(4, 32, requires_grad=True)
    loss_sum, _ = LinearCrossEntropy.apply(hidden, torch.randn(97, 32), torch.arange(4))
    (gradient,) = torch.autograd.grad(loss_sum, hidden)
    assert gradient.abs().sum() > 0
    wanted = []
    score = loss._score_
    monkeypatch.setattr(loss, "_score_", lambda *args: wanted.append(args[3]) or score(*args))
    args = (model, hidden[None], torch.arange(4), torch.arange(4))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            loss.supervised_loss(*args)
    loss.supervised_loss(*args)
    assert wanted == [False, False, True]


def offset_case(offset, size=(400, 64, 2003)):
    """Hidden rows with a very large dimension, a head whose mean lies along it, and labels.

    The scores of a trained GPT-2: common to all tokens is ``offset``, by way of one dimension.
    """
    num_rows, width, vocabulary = size
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * 0.4
    hidden[:, 5] = 200 + 5 * torch.randn(num_rows, generator=generator)
    weight[:, 5] = 0.003 * torch.randn(vocabulary, generator=generator) + offset / 200
    # Drawn by the model's own probabilities, as for one that has learnt the data.
    probabilities = F.linear(hidden, weight).softmax(1)
    return hidden, weight, probabilities.multinomial(1, generator=generator)[:, 0]


def measured(hidden, weight, labels, dtype):
    """Mean loss, accuracy, and the gradients of hidden rows and head."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss_sum, num_correct = LinearCrossEntropy.apply(hidden, weight, labels)
    loss_sum.backward()
    return loss_sum.item() / len(labels), int(num_correct) / len(labels), hidden.grad, weight.grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [-112.0, 0.0, 60.0])
def test_scores_far_from_zero_lose_nothing_below_fp32(offset, dtype):
    case = offset_case(offset, (8000, 64, 2003))
    exact = measured(*case, torch.float32)
    rounded = measured(*case, dtype)
    assert rounded[0] == pytest.approx(exact[0], abs=1e-3)
    assert rounded[1] == pytest.approx(exact[1], abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradients_error_is_that_without_an_offset(dtype):
    errors = []
    for offset in (-112.0, 0.0):
        case = offset_case(offset)
        pairs = zip(measured(*case, dtype)[2:], measured(*case, torch.float32)[2:], strict=True)
        errors.append([float((a - b).norm() / b.norm()) for a, b in pairs])
    for far, near in zip(*errors, strict=True):
        assert far < 1.1 * near + 1e-4


def test_padding_rows_of_a_head_are_never_predicted():
    """Far below zero, a row of zeros would be the likeliest by far."""
    hidden, weight, labels = offset_case(-112.0, (40, 64, 97))
    exact = measured(hidden, weight, labels, torch.float32)
    rounded = measured(hidden, weight, labels, torch.bfloat16)
    assert rounded[0] == pytest.approx(exact[0], rel=1e-2)
    assert rounded[3].shape == weight.shape


def test_fp16_gives_the_gradient_of_a_head_whose_sum_would_overflow():
    """One token is due everywhere and never likely: its row sums all hidden rows."""
    generator = torch.Generator().manual_seed(0)
    hidden = 40 + torch.randn(4096, 32, generator=generator)
    weight = torch.randn(97, 32, generator=generator) * 0.01
    labels = torch.full((4096,), 7)
    exact, rounded = (measured(hidden, weight, labels, t)[3] for t in (torch.float32, torch.half))
    assert exact.abs().max() > torch.finfo(torch.half).max
    assert rounded.isfinite().all()
    assert float((rounded - exact).norm() / exact.norm()) < 2e-3
    assert not measured(0 * hidden, weight, labels, torch.half)[3].any()


@pytest.mark.parametrize("chunk", [5, 4096])
@pytest.mark.parametrize("weight", [0.1, 1.0])
@pytest.mark.parametrize("num_responses", [0, 5, 7, 12])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prompts_count_as_much_as_their_weight_says(
    chunk, weight, num_responses, precision, monkeypatch
):
    """Against torch's own loss of each row; the figures are those of the responses."""
    monkeypatch.setattr(loss, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 32, generator=generator, requires_grad=True)
    head = torch.randn(97, 32, generator=generator, requires_grad=True)
    labels = torch.randint(97, (12,), generator=generator)
    labels[[1, 8]] = F.linear(hidden, head).argmax(1)[[1, 8]]
    labels[3] = IGNORE_INDEX

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        total, num_correct, response_loss = PromptWeightedCrossEntropy.apply(
            hidden, head, labels, num_responses, weight
        )
        logits = F.linear(hidden, head - head.mean(0))
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    weights = torch.where(torch.arange(12) < num_responses, 1.0, weight)
    expected = (weights * losses).sum()
    gradients = [torch.autograd.grad(3 * x, (hidden, head)) for x in (total, expected)]
    tolerance = {"fp32": 1e-4, "bf16": 0.1}[precision]
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(response_loss, losses[:num_responses].sum(), rtol=1e-4, atol=1e-4)
    right = logits.argmax(1) == labels
    assert num_correct == right[:num_responses].sum()


def test_the_figures_beside_scored_prompts_are_those_without(model):
    hidden = model(torch.arange(10)[None])
    responses = torch.tensor([2, 3, 4]), torch.tensor([7, IGNORE_INDEX, 9])
    prompts = torch.tensor([0, 1]), torch.tensor([1, 2])
    plain = supervised_loss(model, hidden, *responses)
    both = prompt_weighted_loss(model, hidden, responses, prompts, 0.5)
    assert both.response_loss == plain.loss
    assert both.num_correct == plain.num_correct
    assert both.num_supervised == plain.num_supervised == 2
    others = supervised_loss(model, hidden, *prompts)
    torch.testing.assert_close(both.loss, plain.loss + 0.5 * others.loss)
    with torch.inference_mode():
        assert prompt_weighted_loss(model, hidden, responses, prompts, 0.5).loss == both.loss
