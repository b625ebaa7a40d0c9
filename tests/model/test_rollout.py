"""Replies that a policy draws of itself."""

import pytest
import torch

from src.model.logprobs import token_logprobs
from src.model.replies import Replies
from src.model.rollout import Sampling
from tests.model.conftest import random_model, tiny_config

END = 96
PROMPTS = [[5, 6, 7], [8, 9], [1, 2, 3, 4, 5], [10], [11, 12]]


def sampling(**values) -> Sampling:
    usual = {"seed": 3, "temperature": 1.0, "max_new_tokens": 12, "end_id": END, "num_slots": 3}
    return Sampling(**(usual | values))


@pytest.fixture
def model():
    torch.manual_seed(0)
    found = random_model(tiny_config()).eval()
    with torch.no_grad():  # so that some replies end
        found.ln_f.bias += 0.5 * found.wte.weight[END] / found.wte.weight[END].norm()
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_their_log_probabilities_are_those_of_training(model, temperature):
    rollouts = sampling(temperature=temperature).rollouts(model, PROMPTS, range(5))
    batch = Replies.of(PROMPTS, rollouts, range(5)).batch(range(5), END, multiple=64)
    assert batch["input_ids"].shape[1] % 64 == 0
    hidden = model(
        batch["input_ids"], batch["position_ids"], batch["cu_seqlens"], batch["max_seqlen"]
    )
    found = token_logprobs(model, hidden / temperature, batch["reply_index"], batch["reply_labels"])
    expected = torch.tensor([x for rollout in rollouts for x in rollout.logprobs])
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)


def test_a_reply_depends_on_seed_and_number_and_on_nothing_beside_it(model):
    together = sampling(num_slots=5).rollouts(model, PROMPTS, range(5))
    few = sampling(num_slots=2).rollouts(model, PROMPTS, range(5))
    alone = sampling().rollouts(model, PROMPTS[2:3], [2])
    assert [r.tokens for r in few] == [r.tokens for r in together]
    assert alone[0].tokens == together[2].tokens
    other = sampling(seed=4).rollouts(model, PROMPTS, range(5))
    assert [r.tokens for r in other] != [r.tokens for r in together]
    renumbered = sampling().rollouts(model, PROMPTS, range(5, 10))
    assert [r.tokens for r in renumbered] != [r.tokens for r in together]


def test_a_reply_ends_with_its_end_token_or_at_the_limit(model):
    rollouts = sampling(max_new_tokens=40).rollouts(model, PROMPTS * 8, range(40))
    assert {r.ended for r in rollouts} == {True, False}
    for rollout in rollouts:
        assert rollout.ended == (rollout.tokens[-1] == END)
        assert END not in rollout.tokens[:-1]
        assert len(rollout.tokens) == len(rollout.logprobs)
        assert rollout.ended or len(rollout.tokens) == 40
