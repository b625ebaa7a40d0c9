import math

import pytest
import torch
import torch.nn.functional as F

from src.model import loss
from src.model.loss import IGNORE_INDEX, LinearCrossEntropy, supervised_loss


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
        logits = F.linear(hidden, weight)
    expected = F.cross_entropy(logits.float(), labels, reduction="sum")
    gradients = [torch.autograd.grad(3 * x, (hidden, weight)) for x in (actual, expected)]

    tolerance = {"fp32": 1e-4, "bf16": 0.05}[precision]
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
