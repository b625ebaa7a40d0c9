import pytest
import torch

from src.errors import UserError
from src.model.decoder import Decoder
from src.model.generation import generate
from src.model.generation_config import GenerationConfig
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

NEVER = 96  # an end token that a test's model may still choose


def settings(**changes) -> GenerationConfig:
    return greedy(**{"max_new_tokens": 12} | changes)


def decode(model, prompts, end_id=NEVER, **changes) -> list[list[int]]:
    tokens = [[] for _ in prompts]
    for step in generate(model, prompts, {end_id}, settings(**changes)):
        for row, token in enumerate(step):
            if token is not None:
                tokens[row].append(token)
    return tokens


def uncached(model, prompt, num_tokens, end_id=NEVER) -> list[int]:
    """The article's way: the whole sequence again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(num_tokens):
            token = model.logits(model(torch.tensor([ids]))[0, -1]).argmax().item()
            if token == end_id:
                break
            ids.append(token)
    return ids[len(prompt) :]


def test_greedy_decoding_equals_the_uncached_way(model):
    seen = set()
    for prompt in ([5, 17, 3, 60], [9], [40, 2, 2], list(range(20))):
        (tokens,) = decode(model, [prompt], max_new_tokens=30)
        assert tokens == uncached(model, prompt, 30)
        seen |= set(tokens)
    assert len(seen) >= 4  # a model that repeats itself would prove little


def test_a_batch_of_different_lengths_equals_each_alone(model):
    prompts = [[1], [5, 17, 3, 60, 2, 8, 30], [9, 9, 9], list(range(40))]
    together = decode(model, prompts, max_new_tokens=20)
    assert together == [decode(model, [p], max_new_tokens=20)[0] for p in prompts]


def test_it_stops_at_the_end_token_which_is_not_part_of_the_reply(model):
    (free,) = decode(model, [[5, 17, 3]], max_new_tokens=20)
    end = next(token for token in free[2:] if token != free[0])
    (stopped,) = decode(model, [[5, 17, 3]], end_id=end, max_new_tokens=20)
    assert stopped == free[: free.index(end)]


def test_it_stops_where_the_model_has_no_more_positions(model):
    assert len(decode(model, [[1] * 60], max_new_tokens=50)[0]) == 4
    lengths = [len(t) for t in decode(model, [[1] * 60, [2] * 50], max_new_tokens=50)]
    assert lengths == [4, 14]


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "empty"), ([1] * 64, "64 tokens and leaves no room")]
)
def test_prompts_that_cannot_be_answered_are_refused(model, prompt, message):
    with pytest.raises(UserError, match=message):
        decode(model, [prompt])


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model):
    first = decode(model, [[1, 2]], temperature=1.0, seed=1)
    assert first == decode(model, [[1, 2]], temperature=1.0, seed=1)
    assert any(first != decode(model, [[1, 2]], temperature=1.0, seed=s) for s in range(2, 6))


def test_an_answer_nobody_waits_for_frees_its_slots(model):
    decoder = Decoder(model, 2, "fp32")
    steps = generate(model, [[1, 2], [3]], {NEVER}, settings(), decoder)
    next(steps)
    assert decoder.num_free_slots == 0
    steps.close()
    assert decoder.num_free_slots == 2


def test_training_mode_is_restored_and_dropout_is_off_while_decoding():
    model = random_model(tiny_config(dropout=0.5)).train()
    assert decode(model, [[1, 2, 3]]) == decode(model, [[1, 2, 3]])
    assert model.training


@pytest.mark.parametrize(
    "changes",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": 1e-5},
        {"temperature": 1e-320},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 101.0},
        {"repetition_penalty": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 2.0},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"presence_penalty": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        settings(**changes)
