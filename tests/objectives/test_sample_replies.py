"""Sample replies cost what the config says at most, however slow the model is."""

from types import SimpleNamespace

from src import phases
from src.objectives import replies
from src.objectives.replies import SampleReplies
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
