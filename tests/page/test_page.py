import itertools
import json
from dataclasses import replace

import gradio as gr
import pytest
import torch

from src.page.history import complete_turns
from src.page.page import Handlers, Limits, Models, build_page, sample_prompts
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

# max_new_tokens, temperature, top_k, top_p, min_p, repetition_, frequency_, presence_penalty, seed
SETTINGS = (8, 0, 0, 1, 0, 1, 0, 0, None)


@pytest.fixture
def folders(tokenizer, tmp_path) -> list[str]:
    names = []
    for seed, name in enumerate(("first", "second")):
        config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128)
        save_model_folder(
            tmp_path / name / "model", random_model(config, seed), tokenizer, greedy(8)
        )
        names.append(str(tmp_path / name / "model"))
    return names


@pytest.fixture
def models() -> Models:
    return Models(torch.device("cpu"))


@pytest.fixture
def handlers(models, folders) -> Handlers:
    return Handlers(models, folders, greedy(8), Limits(100, 60.0, 4))


def test_an_answer_grows_and_ends_with_a_line_about_it(handlers, folders):
    steps = list(handlers.converse("hello", [], folders[0], *SETTINGS))
    texts = [text for text, _ in steps]
    assert len(texts) > 2
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert steps[-1][1].startswith("8 tokens, ")
    assert "reached its limit" in steps[-1][1]


def test_earlier_turns_count_but_a_question_without_an_answer_does_not(
    handlers, folders, monkeypatch
):
    asked = []
    start = Handlers.start
    monkeypatch.setattr(Handlers, "start", lambda self, *a: asked.append(a[1]) or start(self, *a))
    history = [
        {"role": "user", "content": "failed"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        {"role": "user", "content": "failed too"},
    ]
    list(handlers.converse("and you?", history, folders[0], *SETTINGS))
    assert [(m.role, m.content) for m in asked[0]] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "and you?"),
    ]


def test_two_models_answer_the_same_question_each_as_if_alone(handlers, folders):
    *_, (left, right, status) = handlers.compare("hello", *folders, *SETTINGS)
    assert left != right
    for text, folder in ((left, folders[0]), (right, folders[1])):
        *_, (alone, _) = handlers.converse("hello", [], folder, *SETTINGS)
        assert text == alone
    assert status.count("8 tokens, ") == 2


def test_one_model_can_be_compared_with_itself(handlers, folders):
    *_, (left, right, _) = handlers.compare("hello", folders[0], folders[0], *SETTINGS)
    assert left == right


def test_settings_reach_the_decoder(handlers, folders):
    config = handlers.generation_of((3, 0.5, 7, 0.9, 0.1, 1.5, 0.3, -1, 42))
    assert (config.max_new_tokens, config.temperature, config.top_k) == (3, 0.5, 7)
    assert (config.top_p, config.repetition_penalty, config.seed) == (0.9, 1.5, 42)
    assert config.min_p == 0.1
    assert (config.frequency_penalty, config.presence_penalty) == (0.3, -1)
    off = handlers.generation_of(SETTINGS)
    assert (off.top_k, off.min_p) == (None, None)
    seeds = {handlers.generation_of(SETTINGS).seed for _ in range(5)}
    assert len(seeds) == 5


@pytest.mark.parametrize(
    ("question", "model", "message"),
    [
        ("x" * 101, None, "longer than 100 characters"),
        ("  ", None, "the prompt is empty"),
        ("\ud800", None, "half a surrogate"),
        ("hello", "/etc", "there is no model /etc here"),
    ],
)
def test_a_mistake_is_one_line_on_the_page(handlers, folders, question, model, message):
    with pytest.raises(gr.Error, match=message):
        list(handlers.converse(question, [], model or folders[0], *SETTINGS))


def test_settings_out_of_range_are_refused(handlers, folders):
    with pytest.raises(gr.Error, match="top_p"):
        list(handlers.converse("hello", [], folders[0], 8, 0, 0, float("nan"), *SETTINGS[4:]))


def test_an_answer_takes_no_longer_than_it_may(models, folders):
    handlers = Handlers(models, folders, greedy(8), Limits(100, 0.0, 4))
    *_, (_, status) = handlers.converse("hello", [], folders[0], 100, *SETTINGS[1:])
    assert "it took longer than 0 seconds" in status
    assert int(status.split()[0]) < 100


def test_no_more_than_two_models_are_in_memory(models, folders, tmp_path, tokenizer):
    third = tmp_path / "third"
    save_model_folder(
        third, random_model(tiny_config(vocab_size=tokenizer.vocab_size)), tokenizer, greedy(8)
    )
    first = models.get(folders[0])
    models.get(folders[1])
    assert models.get(folders[0]) is first
    models.get(str(third))
    assert set(models.assistants) == {folders[0], str(third)}


def test_the_page_starts_with_the_questions_of_the_models_run(folders, tmp_path):
    assert sample_prompts(folders[0]) == []
    record = {"settings": {"sample_prompts": ["Who are you?"]}}
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    assert sample_prompts(folders[0]) == ["Who are you?"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        pytest.param("[" * 100_000, id="deep"),
        "[]",
        "{}",
        '{"settings": null}',
        '{"settings": {"sample_prompts": [1]}}',
        "\udcff",
    ],
)
def test_a_foreign_record_gives_no_questions_and_one_line(folders, tmp_path, capsys, text):
    record = tmp_path / "first" / "run.json"
    record.write_text(text, errors="surrogateescape")
    assert sample_prompts(folders[0]) == []
    err = capsys.readouterr().err
    assert str(record) in err
    assert err.count("\n") == 1


def test_a_record_is_found_in_the_home_folder(folders, tmp_path, monkeypatch):
    record = {"settings": {"sample_prompts": ["Who are you?"]}}
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sample_prompts("~/first/model") == ["Who are you?"]


def test_the_sliders_reach_what_is_configured(models, folders):
    given = {
        "max_new_tokens": 2000,
        "temperature": 3.0,
        "top_k": 500,
        "top_p": 0.01,
        "min_p": 0.05,
        "repetition_penalty": 0.5,
        "frequency_penalty": 1.5,
        "presence_penalty": -0.5,
    }
    page = build_page(models, folders, [], replace(greedy(8), **given), Limits(100, 60.0, 4))
    sliders = {b.label: b for b in page.blocks.values() if isinstance(b, gr.Slider)}
    assert {label: slider.value for label, slider in sliders.items()} == given
    for slider in sliders.values():
        assert slider.preprocess(slider.value) == slider.value


def test_of_a_long_conversation_only_the_newest_turns_are_read(handlers, folders, monkeypatch):
    read = []
    reply = Assistant.reply
    monkeypatch.setattr(
        Assistant, "reply", lambda self, m, *a: read.append(m) or reply(self, m, *a)
    )
    entries = [{"role": role, "content": "x" * 20} for role in ("user", "assistant")]
    messages = complete_turns(entries * 1000)
    question = Message("user", "y" * 40)
    started = handlers.start(folders[0], [*messages, question], greedy(1))
    assert [len(m.content) for m in read[0]] == [20] * 18 + [40]  # 400 characters
    assert started.num_dropped_turns >= 1000 - 9
    short = [*messages[:4], question]
    handlers.start(folders[0], short, greedy(1))
    assert read[1] == short


def test_the_queue_is_bounded(models, folders):
    page = build_page(models, folders, ["hi"], greedy(8), Limits(100, 60.0, 4))
    assert page._queue.max_size == 4
    assert not page.analytics_enabled
