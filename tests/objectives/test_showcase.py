"""Held-out conversations are asked as a person would meet them, and scored by turn."""

from types import SimpleNamespace

import pytest

from src.data.conversation import Conversation
from src.objectives import showcase
from src.objectives.showcase import Showcase, exact_match_lines

TRAIN = [
    Conversation((("Capital of Peru?", "Lima."),), family="capitals"),
    Conversation((("Capital of Cuba?", "Havana."), ("And of Chile?", "Santiago.")), family="more"),
]
TEST = [
    Conversation((("The capital of Peru?", "Lima."),), family="capitals"),
    Conversation((("Hot?", "Cold."), ("And big?", "Small.")), family="follow_up/another"),
    Conversation(
        (("Hot?", "Cold."), ("And wet?", "Dry.")), "Be brief.", family="follow_up/another"
    ),
    Conversation((("x " * 500, "Never."),), family="long"),
]
ANSWERS = {"The capital of Peru?": "Lima.", "And big?": "Small.", "And wet?": "Wet."}


class FakeAssistant:
    """Answers by heart; reads at most 100 characters."""

    def __init__(self, *_):
        pass

    def can_read(self, messages) -> bool:
        return len(messages[-1].content) < 100

    def replies(self, asked, generation, progress=None) -> list[str]:
        return [ANSWERS.get(messages[-1].content, "?") for messages in asked]


@pytest.fixture
def figures(monkeypatch, tmp_path):
    monkeypatch.setattr(showcase, "Assistant", FakeAssistant)
    splits = {"train": TRAIN, "test": TEST}
    data = SimpleNamespace(conversations=splits.__getitem__, tokenizer=None)
    config = SimpleNamespace(exact_match=True, generation=None)
    shown = Showcase(data, config, tmp_path)
    return shown.score(model=None), shown


def test_exact_match_counts_by_turn_system_text_and_family(figures):
    assert figures[0] == {
        "exact_match": 0.5,
        "exact_match/turn_1": 0.5,
        "exact_match/turn_2": 0.5,
        "exact_match/system": 0.0,
        "exact_match/capitals": 1.0,
        "exact_match/follow_up": 0.5,
        "exact_match/follow_up/another": 0.5,
        "exact_match/long": 0.0,  # too long to read: wrong
        "exact_match_nearest_neighbour": 0.25,
    }


def test_the_table_shows_what_was_said_before_a_second_question(figures, capsys):
    figures[1].show()
    lines = [line.strip("│ ").split("│")[0].strip() for line in capsys.readouterr().err.split("\n")]
    start = lines.index("Hot?")
    assert lines[start : start + 3] == ["Hot?", "> Cold.", "And big?"]


def test_the_summary_names_the_share_of_each_kind():
    lines = exact_match_lines(
        {"exact_match": 0.5, "exact_match/turn_2": 0.25, "exact_match_nearest_neighbour": 0.1}
    )
    assert any("test conversations: 50.0%" in line for line in lines)
    assert any(line.split() == ["turn_2", "25.0%"] for line in lines)
    assert exact_match_lines({}) == []
