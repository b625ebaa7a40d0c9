import random
from unittest.mock import Mock

import pytest
import torch
import transformers

from src.adaptation import followed
from src.errors import UserError
from src.model.config import GPT2Config
from src.model.decoder import Decoder
from src.model.decoding_weights import DecodingWeights
from src.model.gpt2 import GPT2
from src.model.kv_cache import KVCache, Span
from src.model.pretrained import to_hugging_face
from src.model.sampling import next_tokens, uniforms
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

CPU = torch.device("cpu")
SETTINGS = (
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "seed": 4},
    {"repetition_penalty": 1.5},
    {"temperature": 1.2, "repetition_penalty": 1.2, "seed": 5},
    {"frequency_penalty": 1.0, "presence_penalty": 0.5},
)


@torch.inference_mode()
def read_by_pieces(model: GPT2, ids: list[int], ends: list[int]) -> torch.Tensor:
    """The logits at every position of row 1, read up to each of ``ends``, then one by one."""
    weights = DecodingWeights(model, "fp32")
    cache = KVCache(model.config, 2, model.config.n_positions, torch.float32, CPU)
    at, hidden = torch.arange(len(ids)), []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        attend = cache.read([Span(1, start, end)])
        hidden.append(weights.forward(torch.tensor(ids[start:end]), at[start:end], attend))
    cache.move(1, 0, ends[-1])
    for position in range(ends[-1], len(ids)):
        attend = cache.step(at[position, None], position + 1, same=True)
        token = torch.tensor([ids[position]])
        hidden.append(weights.forward(token, at[position, None], attend))
    return weights.logits(torch.cat(hidden))


def alone(model, prompt, num_tokens, config, weights="fp32", beside=()) -> list[int]:
    decoder = Decoder(model, 1 + len(beside), weights)
    slot, *_ = decoder.join([prompt, *beside], [config, *[greedy(99)] * len(beside)])
    return [decoder.step()[slot] for _ in range(num_tokens)]


@pytest.mark.parametrize("ends", [[1], [13], [7, 8, 40], [64]])
def test_cached_logits_equal_the_full_forward_at_every_position(model, ends):
    ids = torch.randint(97, (64,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.logits(model(ids[None]))[0]
    actual = read_by_pieces(model, ids.tolist(), ends)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_rows_of_different_lengths_are_read_as_if_alone(model):
    ids = torch.randint(97, (3, 20), generator=torch.Generator().manual_seed(0)).tolist()
    lengths = [5, 20, 1]
    weights = DecodingWeights(model, "fp32")
    cache = KVCache(model.config, 3, 64, torch.float32, CPU)
    with torch.inference_mode():
        flat = torch.tensor([t for row, n in zip(ids, lengths, strict=True) for t in row[:n]])
        positions = torch.cat([torch.arange(n) for n in lengths])
        spans = [Span(row, 0, n) for row, n in enumerate(lengths)]
        weights.forward(flat, positions, cache.read(spans))
        at = torch.tensor(lengths)
        hidden = weights.forward(torch.tensor([50, 51, 52]), at, cache.step(at, 21, same=False))
        for row, n in enumerate(lengths):
            expected = model(torch.tensor([[*ids[row][:n], 50 + row]]))[0, -1]
            torch.testing.assert_close(hidden[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8"])
def test_who_joins_and_leaves_never_changes_what_the_others_say(model, weights):
    """Sequences of all settings come and go by chance; each says what it says alone.

    int8 has a kernel for one row, which rounds otherwise: no row is ever read without another.
    """
    beside = [[1, 2, 3]] if weights == "int8" else []
    num_slots = 4 + 2 * len(beside)
    chance, decoder = random.Random(0), Decoder(model, num_slots, weights)
    running, said, told, others = {}, {}, 0, []
    for number in range(120):
        for slot in [s for s in running if chance.random() < 0.1 or len(said[s]) > 25]:
            decoder.leave(slot)
            prompt, config = running.pop(slot)
            tokens = said.pop(slot)
            assert tokens == alone(model, prompt, len(tokens), config, weights, beside)
            told += len(tokens)
        if beside and number % 25 == 0:  # two: of one that has just joined, no token is read yet
            for slot in others[:-1]:
                decoder.leave(slot)
            others = [*others[-1:], *decoder.join(beside, [greedy(99)])]
        num = chance.randint(0, 4 - len(running))
        lengths = [chance.randint(1 + len(beside), 30) for _ in range(num)]
        prompts = [[chance.randrange(97) for _ in range(length)] for length in lengths]
        configs = [greedy(99, **chance.choice(SETTINGS)) for _ in range(num)]
        for slot, *job in zip(decoder.join(prompts, configs), prompts, configs, strict=True):
            assert slot not in running
            running[slot], said[slot] = job, []
        assert decoder.num_free_slots == num_slots - len(running) - len(others)
        tokens = decoder.step() if chance.random() < 0.9 else {}
        for slot in said:
            said[slot] += [tokens[slot]] if tokens else []
    assert told > 200


def test_what_chance_gives_a_token_depends_on_seed_number_and_place_alone(model, monkeypatch):
    seen = []

    def record(logits, asked):
        seen.append([each.uniform for each in asked])
        return next_tokens(logits, asked)

    monkeypatch.setattr("src.model.decoder.next_tokens", record)
    decoder = Decoder(model, 2, "fp32")
    configs = [greedy(9, temperature=1.0, seed=4), greedy(9, temperature=0.5, seed=6)]
    decoder.join([[1, 2, 3], [7] * 11], configs, [0, 5])
    for _ in range(4):
        decoder.step()
    first, second = zip(*seen, strict=True)
    assert list(first) == uniforms(4, 0, 4).tolist()
    assert list(second) == uniforms(6, 5, 4).tolist()


def test_replies_of_other_numbers_draw_otherwise_wherever_they_are_decoded(model):
    prompts, config = [[5, 6, 7]] * 3, greedy(9, temperature=1.5, seed=2)
    decoder = Decoder(model, 3, "fp32")
    slots = decoder.join(prompts, [config] * 3, [8, 0, 1])
    steps = [decoder.step() for _ in range(20)]
    eighth, first, second = ([tokens[slot] for tokens in steps] for slot in slots)
    assert eighth != first != second != eighth
    assert first == alone(model, prompts[0], 20, config)
    other = Decoder(model, 1, "fp32")
    (slot,) = other.join(prompts[:1], [config], [8])
    assert [other.step()[slot] for _ in range(20)] == eighth


def test_the_next_turn_of_a_conversation_is_read_from_where_it_parts(model, monkeypatch):
    read = []
    forward = DecodingWeights.forward
    monkeypatch.setattr(
        DecodingWeights,
        "forward",
        lambda self, ids, *rest: read.append(len(ids)) or forward(self, ids, *rest),
    )
    first = [random.Random(1).randrange(97) for _ in range(34)]
    decoder = Decoder(model, 1, "fp32", remembers=True)
    (slot,) = decoder.join([first], [greedy(9)])
    reply = [decoder.step()[slot] for _ in range(5)]
    decoder.leave(slot)
    second = [*first, *reply, 8, 9, 10]
    read.clear()
    decoder.join([second], [greedy(9)])
    assert read == [len(second) - len(first) - 4]  # the reply's last token was never read
    said = [decoder.step()[slot] for _ in range(9)]
    assert said == alone(model, second, 9, greedy(9))
    decoder.leave(slot)
    other = [5, *second[1:]]
    decoder.join([other], [greedy(9)])
    assert [decoder.step()[slot] for _ in range(9)] == alone(model, other, 9, greedy(9))


def test_unless_it_remembers_a_prompt_has_the_same_scores_whoever_joined_before(monkeypatch):
    model, seen = random_model(tiny_config(n_positions=128)), []
    logits = DecodingWeights.logits
    monkeypatch.setattr(
        DecodingWeights,
        "logits",
        lambda self, hidden: seen.append(logits(self, hidden)) or seen[-1],
    )
    chance, decoder = random.Random(1), Decoder(model, 2, "fp32")
    prompt = [chance.randrange(97) for _ in range(90)]

    def first_step(ids: list[int]) -> torch.Tensor:
        (slot,) = decoder.join([ids], [greedy(9)])
        scores = seen[-1]
        decoder.step()
        decoder.leave(slot)
        return scores

    expected = first_step(prompt)
    for length in (89, 33, 40, 64, 77):  # strangers, who begin alike
        first_step([*prompt[:length], 5, 6])
        assert torch.equal(first_step(prompt), expected)


@pytest.mark.parametrize("num_rows", [1, 3])
def test_only_positions_in_use_are_attended_to(model, num_rows):
    prompts = [list(range(row, row + 10)) for row in range(num_rows)]
    decoder = Decoder(model, num_rows, "fp32")
    with torch.inference_mode():
        decoder.cache.data.fill_(float("nan"))
    decoder.join(prompts, [greedy(30)] * num_rows)
    said = [decoder.step() for _ in range(30)]
    for slot, prompt in enumerate(prompts):
        assert [tokens[slot] for tokens in said] == alone(model, prompt, 30, greedy(30))


def test_a_prompt_too_long_is_refused_and_changes_nothing(model):
    decoder = Decoder(model, 2, "fp32")
    decoder.join([[1, 2, 3]], [greedy(9)])
    for prompt, message in (([], "empty"), ([1] * 64, "64 tokens and leaves no room")):
        with pytest.raises(UserError, match=message):
            decoder.join([prompt], [greedy(9)])
    assert decoder.num_free_slots == 1
    assert list(decoder.step().values()) == alone(model, [1, 2, 3], 1, greedy(9))


def test_many_long_prompts_are_read_some_at_a_time(model, monkeypatch):
    prompts = [[n] * (5 + n) for n in range(12)]
    expected = [alone(model, prompt, 3, greedy(9)) for prompt in prompts]
    monkeypatch.setattr("src.model.decoder.READ_AT_ONCE", 20)
    decoder = Decoder(model, 12, "fp32")
    slots = decoder.join(prompts, [greedy(9)] * 12)
    steps = [decoder.step() for _ in range(3)]
    assert [[tokens[slot] for tokens in steps] for slot in slots] == expected


def test_fp32_shares_the_models_memory():
    model = random_model(tiny_config())
    weights = DecodingWeights(model, "fp32")
    assert weights.layers[0].c_fc.weight.data_ptr() == model.h[0].mlp.c_fc.weight.data_ptr()


@pytest.mark.slow
def test_gpt2s_logits_equal_hugging_faces_over_200_teacher_forced_positions():
    shape = GPT2Config(50257, 1024, 768, 12, 12, "gelu_new", 0.0)
    torch.manual_seed(0)
    ours = GPT2(shape).eval()
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    theirs.load_state_dict(to_hugging_face(ours.state_dict()), strict=False)
    ids = torch.randint(50257, (232,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(ids[None], use_cache=False).logits[0]
    actual = read_by_pieces(ours, ids.tolist(), [32])
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8"])
def test_a_gpu_says_what_the_cpu_says(weights):
    """Through the captured graph, while sequences join and leave."""
    model = random_model(tiny_config(n_positions=300))
    prompts = [[1], [5, 17, 3, 60, 2, 8, 30], list(range(90))]
    expected = [alone(model, prompt, 60, greedy(60), weights) for prompt in prompts]
    decoder = Decoder(random_model(tiny_config(n_positions=300)).cuda(), 4, weights)
    assert decoder.graph is not None
    said = {slot: [] for slot in decoder.join(prompts[1:], [greedy(60)] * 2)}
    order = list(said)
    for step in range(80):
        if step == 20:
            order.insert(0, decoder.join(prompts[:1], [greedy(60)])[0])
            said[order[0]] = []
        for slot, token in decoder.step().items():
            said[slot].append(token)
            if len(said[slot]) == 60:
                decoder.leave(slot)
    pairs = [
        pair for s, e in zip(order, expected, strict=True) for pair in zip(said[s], e, strict=True)
    ]
    same = sum(a == b for a, b in pairs) / len(pairs)
    assert same == 1 if weights in ("fp32", "fp16") else same > 0.5


def test_each_token_is_computed_with_the_threads_that_fit_the_load():
    decoder = Decoder(random_model(tiny_config()), 1, "fp32")
    with followed(threads := Mock()):
        decoder.join([[1, 2, 3]], [greedy(9)])
        assert threads.adapt.call_count == 1
        for _ in range(3):
            decoder.step()
    assert threads.adapt.call_count == 4
