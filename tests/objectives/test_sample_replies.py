"""Sample replies cost what the config says at most, however slow the model is."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from src import phases
from src.objectives import replies
from src.objectives.replies import SampleReplies
from src.objectives.reply_figures import ReplyFigures
from src.objectives.showcase import Showcase
from tests.conftest import greedy


def test_all_prompts_are_asked_at_once_and_within_the_seconds(monkeypatch):
    calls = []

    class Slow:
        def __init__(self, *_):
            pass

        def replies(self, prompts, generation, *, max_seconds, progress):
            calls.append((prompts, generation.max_new_tokens, max_seconds))
            progress(len(prompts))
            return ["so"] * len(prompts)

    monkeypatch.setattr(replies, "Assistant", Slow)
    phases.begin()
    sample = SampleReplies(["a?", "b?", "c?"], None, greedy(7), max_seconds=2.5)
    assert sample._replies(SimpleNamespace()) == ["so"] * 3
    assert calls == [(["a?", "b?", "c?"], 7, 2.5)]


@pytest.mark.parametrize(("asked", "taken"), [("auto", "fp32"), ("int8", "int8"), ("fp16", "fp16")])
def test_a_model_that_learns_is_not_packed_unless_a_person_asks(asked, taken):
    generation = greedy(7, weights=asked)
    data = SimpleNamespace(max_length=8, splits={"validation": []}, tokenizer=SimpleNamespace())
    data.tokenizer.end_id = 0
    config = SimpleNamespace(exact_match=False, generation=generation)
    asking = (
        SampleReplies(["a?"], None, generation, max_seconds=2.5),
        ReplyFigures(data, generation, 0),
        Showcase(data, config, Path()),
    )
    assert [each.generation.weights for each in asking] == [taken] * 3
    assert generation.weights == asked  # what the model's folder says
