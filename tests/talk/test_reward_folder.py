"""A reward model's folder: transformers gives the same rewards, and so do we when we open it."""

import json

import pytest
import torch

from src.data.tokenizer import train_tokenizer
from src.errors import UserError
from src.model.pretrained import save_pretrained
from src.model.scalar import ScalarGPT2, centred
from src.talk.reward_folder import load_reward_folder, save_reward_folder
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def tokenizer():
    return train_tokenizer(["some words of a reply", "and some others"], 280)


@pytest.fixture
def reward_model(tokenizer):
    torch.manual_seed(0)
    return ScalarGPT2.of(random_model(tiny_config(vocab_size=tokenizer.vocab_size)))


def replies(tokenizer):
    end = tokenizer.end_id
    words = tokenizer.encode("some words of a reply and others")
    return [[*words, end], words, words[:3], [*words, *words, end], [end]]


def rewards(model, rows):
    found = []
    for row in rows:
        hidden = model(torch.tensor([row]))
        found.append(model.rewards(hidden, torch.tensor([len(row) - 1])))
    return torch.cat(found).detach()


def test_transformers_gives_the_same_rewards_for_padded_batches(reward_model, tokenizer, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    save_reward_folder(tmp_path / "reward_model", reward_model, tokenizer, offset=0.75)
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "reward_model", dtype=torch.float32
    ).eval()
    pad = theirs.config.pad_token_id
    assert pad != theirs.config.eos_token_id
    assert AutoTokenizer.from_pretrained(tmp_path / "reward_model").pad_token_id == pad
    rows = replies(tokenizer)
    length = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    with torch.no_grad():
        found = theirs(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]
    expected = rewards(reward_model, rows) - 0.75
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert abs(found[0] - found[1]) > 1e-3  # ended, and the same cut short


def test_it_reads_what_it_has_written(reward_model, tokenizer, tmp_path, caplog):
    save_reward_folder(tmp_path / "rm", reward_model, tokenizer, offset=-2.0)
    folder = load_reward_folder(str(tmp_path / "rm"))
    rows = replies(tokenizer)
    torch.testing.assert_close(
        rewards(folder.model, rows), rewards(reward_model, rows) + 2.0, rtol=1e-5, atol=1e-5
    )
    assert folder.tokenizer.end_id == tokenizer.end_id
    assert folder.tokenizer.encode("some words") == tokenizer.encode("some words")
    assert json.loads((tmp_path / "rm" / "config.json").read_text())["reward_offset"] == -2.0
    assert not [each for each in caplog.records if each.name.startswith(("src", "transformers"))]


def test_written_again_it_keeps_its_pad_token(reward_model, tokenizer, tmp_path):
    save_reward_folder(tmp_path / "first", reward_model, tokenizer, offset=0.0)
    first = load_reward_folder(str(tmp_path / "first"))
    save_reward_folder(tmp_path / "second", first.model, first.tokenizer, offset=0.0)
    sizes = [
        load_reward_folder(str(tmp_path / n)).tokenizer.vocab_size for n in ("first", "second")
    ]
    assert sizes == [tokenizer.vocab_size + 1] * 2


def test_centring_changes_no_difference(reward_model, tokenizer):
    rows = replies(tokenizer)
    before, after = rewards(reward_model, rows), rewards(centred(reward_model, 3.0), rows)
    torch.testing.assert_close(after, before - 3.0, rtol=1e-5, atol=1e-5)


def test_a_language_model_is_no_reward_model(tokenizer, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_pretrained(random_model(tiny_config(vocab_size=tokenizer.vocab_size)), folder, 0)
    tokenizer.save(folder)
    with pytest.raises(UserError, match=r"no reward model: there is no score.weight"):
        load_reward_folder(str(folder))


def test_a_reward_model_does_not_talk(reward_model, tokenizer, tmp_path):
    from src.talk.model_folder import load_model_folder

    save_reward_folder(tmp_path / "reward_model", reward_model, tokenizer, offset=0.0)
    with pytest.raises(UserError, match="a reward model, which gives a reply a number"):
        load_model_folder(str(tmp_path / "reward_model"))
