from collections import Counter
from dataclasses import replace

import pytest
import torch
import transformers

from src.model.sampling import is_plain, next_token
from tests.conftest import greedy

NONE_SEEN = torch.tensor([], dtype=torch.long)


def draws(num: int = 4000, **changes) -> Counter:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)
    config = greedy(1, **changes)
    return Counter(next_token(logits, config, generator, NONE_SEEN, 0) for _ in range(num))


def test_sampling_follows_the_probabilities():
    counts = draws(temperature=1.0)
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


def test_low_temperature_sharpens():
    counts = draws(temperature=0.5)  # squares the probabilities: .25 .09 .0225 .0025
    assert counts[0] / 4000 == pytest.approx(0.25 / 0.365, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.81}, {0, 1, 2}),
        ({"top_p": 0.01}, {0}),
        ({"top_k": 3, "top_p": 0.6}, {0, 1}),
        ({"top_k": 99, "top_p": 1.0}, {0, 1, 2, 3}),
        ({"min_p": 0.29}, {0, 1, 2}),
        ({"min_p": 0.31}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"min_p": 0.0}, {0, 1, 2, 3}),
        ({"top_k": 2, "min_p": 0.2}, {0, 1}),
    ],
)
def test_what_is_cut_is_the_least_likely(changes, kept):
    assert set(draws(temperature=1.0, **changes)) == kept


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
@pytest.mark.parametrize("level", [0.0, -4.0])  # scores of both signs; almost none above 0
def test_the_repetition_penalty_is_hugging_faces(penalty, level):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3)) + level
    seen = torch.tensor([int(logits.argmax()), int(logits.argmin()), 7, 7])
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(seen[None], logits[None])[0]
    before = logits.clone()
    config = greedy(1, repetition_penalty=penalty)
    assert next_token(logits, config, torch.Generator(), seen, 0) == expected.argmax()
    assert torch.equal(logits, before)
    hot = greedy(1, repetition_penalty=penalty, temperature=1.0)
    generator = torch.Generator().manual_seed(0)
    counts = Counter(next_token(logits, hot, generator, seen, 0) for _ in range(4000))
    for token, share in enumerate(expected.softmax(-1).tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 5},
        {"top_p": 0.6},
        {"top_k": 20, "top_p": 0.8},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_what_is_kept_is_what_hugging_face_keeps(changes):
    logits = 2 * torch.randn(60, generator=torch.Generator().manual_seed(5))
    processors = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(0.8)])
    if "top_k" in changes:
        processors.append(transformers.TopKLogitsWarper(changes["top_k"]))
    if "top_p" in changes:
        processors.append(transformers.TopPLogitsWarper(changes["top_p"]))
    if "min_p" in changes:
        processors.append(transformers.MinPLogitsWarper(changes["min_p"]))
    expected = processors(None, logits[None])[0].softmax(-1)
    config, generator = greedy(1, temperature=0.8, **changes), torch.Generator().manual_seed(0)
    counts = Counter(next_token(logits, config, generator, NONE_SEEN, 0) for _ in range(4000))
    assert set(counts) <= set(expected.nonzero().flatten().tolist())
    for token, share in enumerate(expected.tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("min_p", [0.0, 1e-3, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("cuts", [{}, {"top_k": 30}, {"top_p": 0.9}, {"top_k": 30, "top_p": 0.9}])
def test_min_p_keeps_token_for_token_what_hugging_face_keeps(min_p, cuts, monkeypatch):
    """What chance draws from is exactly what transformers' generate draws from."""
    drawn_from = []

    def first(probabilities, num_samples, generator):
        drawn_from.append(probabilities)
        return torch.zeros(1, dtype=torch.long)

    monkeypatch.setattr(torch, "multinomial", first)
    their_settings = transformers.GenerationConfig(
        do_sample=True, temperature=0.8, min_p=min_p, **{"top_k": 0, "top_p": 1.0} | cuts
    )
    processors = hugging_face_processors(their_settings)
    for seed in range(20):
        logits = 3 * torch.randn(500, generator=torch.Generator().manual_seed(seed))
        logits[::7] = logits[3]  # equal scores, too
        expected = processors(torch.zeros(1, 1, dtype=torch.long), logits[None])[0].softmax(-1)
        config = greedy(1, temperature=0.8, min_p=min_p, **cuts)
        next_token(logits, config, torch.Generator(), NONE_SEEN, 0)
        ours, theirs = drawn_from[-1].sort().values, expected[expected > 0].sort().values
        torch.testing.assert_close(ours, theirs)


def hugging_face_processors(settings: transformers.GenerationConfig):
    """The processors that transformers' ``generate`` makes of ``settings``, in its order."""
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=500, n_embd=4, n_layer=1, n_head=1)
    )
    return model._get_logits_processor(settings, input_ids_seq_length=1)


@pytest.mark.parametrize("frequency", [0.0, 0.7, -1.5])
@pytest.mark.parametrize("presence", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("reply", [[], [3], [7, 7, 3, 7]])
def test_frequency_and_presence_penalty_follow_openais_formula(
    frequency, presence, reply, monkeypatch
):
    """mu[j] -> mu[j] - c[j] * frequency - (c[j] > 0) * presence; the prompt's tokens are free."""
    drawn_from = []

    def first(probabilities, num_samples, generator):
        drawn_from.append(probabilities)
        return torch.zeros(1, dtype=torch.long)

    monkeypatch.setattr(torch, "multinomial", first)
    logits, prompt = torch.randn(12, generator=torch.Generator().manual_seed(2)), [3, 5, 5]
    expected = logits.clone()
    for token in range(12):
        count = reply.count(token)
        expected[token] -= count * frequency + (count > 0) * presence
    penalties = {"frequency_penalty": frequency, "presence_penalty": presence}
    before, seen = logits.clone(), torch.tensor(prompt + reply)
    config = greedy(1, **penalties)
    assert next_token(logits, config, torch.Generator(), seen, 3) == expected.argmax()
    next_token(logits, replace(config, temperature=0.8), torch.Generator(), seen, 3)
    torch.testing.assert_close(drawn_from[-1], (expected / 0.8).softmax(-1))
    assert torch.equal(logits, before)


def test_only_greedy_without_a_penalty_is_plain():
    assert is_plain(greedy(1))
    assert not is_plain(greedy(1, temperature=0.1))
    assert not is_plain(greedy(1, repetition_penalty=1.1))
    assert not is_plain(greedy(1, frequency_penalty=0.1))
    assert not is_plain(greedy(1, presence_penalty=-0.1))


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1e-4},
        {"temperature": 1e-4, "repetition_penalty": 0.01},
        {"temperature": 1e-4, "repetition_penalty": 100.0},
        {"temperature": 1e-4, "frequency_penalty": -2.0, "presence_penalty": 2.0},
        {"temperature": 1.0, "top_p": 1e-320},
        {"temperature": 1e-4, "min_p": 1.0},
    ],
    ids=str,
)
def test_the_most_extreme_settings_still_draw_a_token(changes):
    logits, seen = (
        torch.randn(97, generator=torch.Generator().manual_seed(0)) * 100,
        torch.arange(9),
    )
    token = next_token(logits, greedy(1, **changes), torch.Generator().manual_seed(0), seen, 0)
    assert 0 <= token < 97
