"""The kernel of the loss equals the plain one: sums, counts and gradient.

Where there is no GPU, Triton's interpreter runs it on the CPU (``tests/conftest.py``).
"""

import importlib

import pytest
import torch

from src.model.loss import IGNORE_INDEX, plain_score_

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def score_():
    pytest.importorskip("triton")
    return importlib.import_module("src.model.fused_scores").score_


def scores_and_labels(dtype, vocab_size=9001, num_columns=9024, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    scores = 5 * torch.randn(7, num_columns, generator=generator) + offset
    labels = torch.randint(vocab_size, (7,), generator=generator)
    labels[2] = IGNORE_INDEX
    labels[3] = scores[3, :vocab_size].argmax()
    labels[4] = 17  # of two that are equally the largest, the first is the prediction
    scores[4, [17, 4500]] = scores[4].max() + 8
    labels[5] = vocab_size - 1
    scores[:, vocab_size:] = 0  # what the product with rows of zeros leaves there
    return scores.to(DEVICE, dtype), labels.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, -100.0])
def test_it_gives_the_sums_and_the_gradient_of_the_plain_loss(dtype, offset, score_):
    scores, labels = scores_and_labels(dtype, offset=offset)
    expected = scores.clone()
    loss, num_correct = plain_score_(expected, labels, 9001, True)
    actual = scores.clone()
    sums = score_(actual, labels, 9001, True, IGNORE_INDEX)
    torch.testing.assert_close(sums[0], loss)
    assert int(sums[1]) == int(num_correct) == 2
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {}
    torch.testing.assert_close(actual, expected, **tolerance)
    assert not actual[2].any()
    assert not actual[:, 9001:].any()


def test_without_a_gradient_the_scores_stay_as_they_are(score_):
    scores, labels = scores_and_labels(torch.float32)
    before = scores.clone()
    loss, _ = score_(scores, labels, 9001, False, IGNORE_INDEX)
    assert torch.equal(scores, before)
    torch.testing.assert_close(loss, score_(scores, labels, 9001, True, IGNORE_INDEX)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_shows_in_the_loss(bad, score_):
    scores, labels = scores_and_labels(torch.float32)
    scores[1, 5] = bad
    assert not score_(scores, labels, 9001, True, IGNORE_INDEX)[0].isfinite()


def test_a_vocabulary_smaller_than_a_block_and_no_rows_at_all(score_):
    scores, labels = scores_and_labels(torch.float32)
    scores, labels = scores[:, :64].contiguous(), labels.clamp(max=60)
    expected = scores.clone()
    loss, num_correct = plain_score_(expected, labels, 61, True)
    sums = score_(scores, labels, 61, True, IGNORE_INDEX)
    torch.testing.assert_close((sums[0], scores), (loss, expected), atol=1e-6, rtol=1e-4)
    assert int(sums[1]) == int(num_correct)
    assert score_(scores[:0], labels[:0], 61, True, IGNORE_INDEX)[0] == 0
