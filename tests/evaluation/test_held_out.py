"""The last reply of a held-out conversation is scored, with what came before it."""

from src.data.conversation import Conversation
from src.evaluation import held_out
from src.talk.messages import Message

ONE = Conversation((("Who?", "Me."),), family="small")
THREE = Conversation(
    (("One?", "1"), ("Two?", "2"), ("Say it again.", "2")), "Be brief.", family="follow_up/repeat"
)


def test_the_question_has_the_earlier_turns_with_the_replies_of_the_reference():
    assert held_out.question(ONE) == [Message("user", "Who?")]
    assert held_out.question(THREE) == [
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("assistant", "1"),
        Message("user", "Two?"),
        Message("assistant", "2"),
        Message("user", "Say it again."),
    ]
    assert held_out.reference(ONE) == "Me."
    assert held_out.reference(THREE) == "2"


def test_a_reply_counts_for_its_turn_its_family_and_its_system_text():
    assert held_out.labels(ONE) == ["turn_1", "small"]
    assert held_out.labels(THREE) == ["turn_3", "follow_up/repeat", "follow_up", "system"]
    named = THREE._replace(family="system/name")
    assert held_out.labels(named) == ["turn_3", "system/name", "system"]
    assert held_out.labels(ONE._replace(family="")) == ["turn_1"]


def test_every_taught_reply_is_found_with_all_that_was_said_before_it():
    assert list(held_out.taught([ONE, THREE])) == [
        ("Who?", "Me."),
        ("Be brief.\nOne?", "1"),
        ("Be brief.\nOne?\n1\nTwo?", "2"),
        ("Be brief.\nOne?\n1\nTwo?\n2\nSay it again.", "2"),
    ]
    assert held_out.text(THREE) == "Be brief.\nOne?\n1\nTwo?\n2\nSay it again."
