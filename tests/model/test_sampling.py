from collections import Counter
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
import transformers

from src.errors import UserError
from src.model import sampling
from src.model.generation_config import GenerationConfig
from src.model.sampling import Asked, draw, is_plain, next_tokens, uniforms
from tests.conftest import greedy

FIRST = 52001958301261  # of seed 0, reply 0
FOUR = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def many(
    logits: torch.Tensor, config: GenerationConfig, seen=(), num_prompt_tokens=0, num=4000
) -> Counter:
    """How often each token is drawn from ``logits`` (V,)."""
    asked = [Asked(config, seen, num_prompt_tokens, u) for u in uniforms(0, 0, num).tolist()]
    return Counter(next_tokens(logits.expand(num, -1), asked).tolist())


def one(logits: torch.Tensor, config: GenerationConfig, seen=(), num_prompt_tokens=0) -> int:
    return int(next_tokens(logits[None], [Asked(config, seen, num_prompt_tokens, 0.5)]))


def draws(**changes) -> Counter:
    return many(FOUR, greedy(1, **changes))


@pytest.fixture
def drawn_from(monkeypatch) -> list[torch.Tensor]:
    """The probabilities (C,) that chance drew from, draw by draw."""
    seen = []
    monkeypatch.setattr(sampling, "draw", lambda x, u: seen.append(x[0].softmax(-1)) or draw(x, u))
    return seen


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
    seen = [int(logits.argmax()), int(logits.argmin()), 7, 7]
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([seen]), logits[None])[0]
    before = logits.clone()
    config = greedy(1, repetition_penalty=penalty)
    assert one(logits, config, seen) == expected.argmax()
    assert torch.equal(logits, before)
    counts = many(logits, replace(config, temperature=1.0), seen)
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
    counts = many(logits, greedy(1, temperature=0.8, **changes))
    assert set(counts) <= set(expected.nonzero().flatten().tolist())
    for token, share in enumerate(expected.tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("min_p", [0.0, 1e-3, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("cuts", [{}, {"top_k": 30}, {"top_p": 0.9}, {"top_k": 30, "top_p": 0.9}])
@pytest.mark.parametrize("num_likeliest", [8, 512])  # of top_p: too few for most rows, or enough
def test_min_p_keeps_token_for_token_what_hugging_face_keeps(
    min_p, cuts, num_likeliest, drawn_from, monkeypatch
):
    """What chance draws from is exactly what transformers' generate draws from."""
    monkeypatch.setattr(sampling, "NUM_LIKELIEST", num_likeliest)
    their_settings = transformers.GenerationConfig(
        do_sample=True, temperature=0.8, min_p=min_p, **{"top_k": 0, "top_p": 1.0} | cuts
    )
    processors = hugging_face_processors(their_settings)
    for seed in range(20):
        logits = 3 * torch.randn(500, generator=torch.Generator().manual_seed(seed))
        logits[::7] = logits[3]  # equal scores, too
        expected = processors(torch.zeros(1, 1, dtype=torch.long), logits[None])[0].softmax(-1)
        config = greedy(1, temperature=0.8, min_p=min_p, **cuts)
        one(logits, config)
        ours, theirs = drawn_from[-1], expected[expected > 0].sort().values
        torch.testing.assert_close(ours[ours > 0].sort().values, theirs)


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
    frequency, presence, reply, drawn_from
):
    """mu[j] -> mu[j] - c[j] * frequency - (c[j] > 0) * presence; the prompt's tokens are free."""
    logits, prompt = torch.randn(12, generator=torch.Generator().manual_seed(2)), [3, 5, 5]
    expected = logits.clone()
    for token in range(12):
        count = reply.count(token)
        expected[token] -= count * frequency + (count > 0) * presence
    before, seen = logits.clone(), prompt + reply
    config = greedy(1, frequency_penalty=frequency, presence_penalty=presence)
    assert one(logits, config, seen, 3) == expected.argmax()
    one(logits, replace(config, temperature=0.8), seen, 3)
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
    logits = torch.randn(97, generator=torch.Generator().manual_seed(0)) * 100
    tokens = many(logits, greedy(1, **changes), range(9), num=50)
    assert all(0 <= token < 97 for token in tokens)


@torch.inference_mode()
def test_a_rows_token_does_not_depend_on_the_rows_beside_it():
    settings = (
        *({}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}, {"repetition_penalty": 1.3}),
        *({"temperature": 1.3, "top_p": 0.9}, {"temperature": 2.0, "top_p": 0.999}),
        *({"temperature": 1.0, "min_p": 0.1}, {"temperature": 1.0, "presence_penalty": 1.0}),
        {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    )
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(90, 1000, generator=generator)
    logits[::4, ::3] = logits[::4, :1]  # rows of many equal scores beside rows of none
    asked = [
        Asked(greedy(1, **settings[row % len(settings)]), [row, 7, row], 1, uniform)
        for row, uniform in enumerate(uniforms(5, 1, 90).tolist())
    ]
    together = next_tokens(logits, asked).tolist()
    assert together == [int(next_tokens(logits[i, None], [asked[i]])) for i in range(90)]
    assert len(set(together)) > 40


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    ends = torch.tensor([0.0, 1e-300, 0.5, 1 - 2**-52], dtype=torch.float64)
    assert draw(logits.expand(4, -1), ends).tolist() == [1, 1, 3, 3]
    flat = torch.zeros(4, 50257)  # sums to nearly 1
    assert draw(flat, ends).tolist()[::3] == [0, 50256]


def test_the_numbers_depend_on_seed_reply_and_position_alone():
    numbers = uniforms(3, 2, 9)
    assert (numbers == uniforms(3, 2, 1000)[:9]).all()
    others = [uniforms(*key, 9) for key in ((2, 3), (3, 1), (3, 0), (-3, 2), (3, 2**64 - 3))]
    assert all((numbers != other).all() for other in others)
    assert (uniforms(-1, 0, 3) == uniforms(2**64 - 1, 0, 3)).all()
    # Philox4x64-10 of numpy: the same in every version and on every machine.
    assert Fraction(uniforms(0, 0, 1)[0]) * 2**52 == FIRST
    many_numbers = uniforms(1, 1, 100_000)
    assert 0 <= many_numbers.min() < 1e-4
    assert 0.9999 < many_numbers.max() < 1
    assert abs(many_numbers.mean() - 0.5) < 0.005


def test_scores_that_are_not_finite_are_an_error_and_no_token():
    for bad in (float("nan"), float("inf")):
        logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, bad, 2.0]])
        for changes in ({}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}):
            config = greedy(1, **{"temperature": 1.0, "top_p": None, "top_k": None, **changes})
            with pytest.raises(UserError, match="scores are not finite"):
                next_tokens(logits, [Asked(config, [], 0, 0.5)] * 2)


class OnMps:
    """Scores on MPS, which has no float64: only the CPU has their sums."""

    device = SimpleNamespace(type="mps")

    def softmax(self, dim):
        return self

    def cpu(self):
        return FOUR[None].softmax(-1)


def test_on_mps_chance_draws_on_the_cpu(monkeypatch):
    moved, uniform = [], torch.tensor([0.6], dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device: moved.append(device.type) or x)
    assert draw(OnMps(), uniform).tolist() == [1]
    assert moved == ["cpu", "mps"]


@pytest.mark.parametrize("changes", [{}, {"top_k": 4}, {"top_p": 0.9}])
def test_random_numbers_of_64_bits_are_on_the_cpu(monkeypatch, changes):
    seen = []
    monkeypatch.setattr(sampling, "draw", lambda x, u: seen.append(u.device.type) or draw(x, u))
    config = greedy(1, **{"temperature": 1.0, "top_p": None, "top_k": None, **changes})
    next_tokens(torch.empty(2, 5, device="meta"), [Asked(config, [], 0, 0.5)] * 2)
    assert seen == ["cpu"]


def test_what_is_summed_in_64_bits_is_cast_before(monkeypatch):
    """On a CPU the cast of ``cumsum`` itself takes three times as long."""
    types, cumsum = [], torch.Tensor.cumsum
    monkeypatch.setattr(
        torch.Tensor, "cumsum", lambda x, *a, **k: types.append(x.dtype) or cumsum(x, *a, **k)
    )
    logits = torch.randn(3, 500)
    probabilities = logits.softmax(-1)
    expected = cumsum(probabilities, -1, dtype=torch.float64)
    uniform = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = draw(logits, uniform)
    assert types == [torch.float64]
    assert (
        found.tolist() == (expected > uniform[:, None] * expected[:, -1:]).int().argmax(-1).tolist()
    )


@pytest.mark.parametrize("warn_only", [False, True])
def test_the_deterministic_mode_which_cuda_cannot_draw_in_is_off_meanwhile(monkeypatch, warn_only):
    seen, cumsum = [], torch.Tensor.cumsum

    def spy(*args, **kwargs):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return cumsum(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "cumsum", spy)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        one(FOUR, greedy(1, temperature=1.0, top_p=0.9))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [False, False]
