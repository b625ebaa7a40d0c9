import pytest

from src.errors import UserError
from src.talk.messages import Message, check_messages, fit


def conversation(text: str) -> list[Message]:
    """``s``, ``u`` and ``a`` are messages of the three roles, each of one word."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(roles[letter], f"{letter}{number}") for number, letter in enumerate(text)]


def words(messages) -> list[int]:
    """A template of ten tokens a message, which are the message's number."""
    return [int(message.content[1:]) for message in messages for _ in range(10)]


@pytest.mark.parametrize("text", ["u", "su", "uau", "suauau"])
def test_a_conversation_that_ends_with_a_question_is_allowed(text):
    check_messages(conversation(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "last message must be a question"),
        ("ua", "last message must be a question"),
        ("s", "last message must be a question"),
        ("uu", "message 2 is of role user, not assistant"),
        ("au", "message 1 is of role assistant, not system or user"),
        ("usu", "message 2 is of role system, not assistant"),
        ("suaau", "message 4 is of role assistant, not user"),
    ],
)
def test_one_out_of_turn_is_named(text, message):
    with pytest.raises(UserError, match=message):
        check_messages(conversation(text))


def test_half_a_character_is_named_where_it_stands():
    broken = [Message("user", "a"), Message("assistant", "b\udc00"), Message("user", "c")]
    with pytest.raises(UserError, match="message 2 is not valid Unicode: character 1"):
        check_messages(broken)


@pytest.mark.parametrize(
    ("num_positions", "kept", "num_dropped"),
    [
        (70, "suauau", 0),  # 60 tokens of prompt and 10 of reply
        (69, "sauau", 1),
        (50, "sauau", 1),
        (40, "su", 2),
        (22, "su", 2),  # less than was wanted for the reply, but some
    ],
)
def test_the_oldest_turns_are_dropped_whole_and_the_system_text_never(
    num_positions, kept, num_dropped
):
    fitted = fit(conversation("suauau"), words, num_positions, max_new_tokens=10)
    assert fitted.num_dropped_turns == num_dropped
    assert sorted(set(fitted.ids)) == [0, *range(1 + 2 * num_dropped, 6)]
    assert len(fitted.ids) == 10 * (6 - 2 * num_dropped)


def test_a_long_conversation_is_encoded_a_few_times_not_once_a_turn():
    encoded = []

    def count(messages) -> list[int]:
        encoded.append(len(messages))
        return words(messages)

    for kept in (1, 2, 3, 500, 999, 1000):
        encoded.clear()
        fitted = fit(conversation("ua" * 1000 + "u"), count, 10 * (2 * kept + 1) + 10, 10)
        assert fitted.num_dropped_turns == 1000 - kept
        assert len(fitted.ids) == 10 * (2 * kept + 1)
        assert len(encoded) <= 13


def test_no_more_than_a_quarter_of_the_positions_is_kept_free():
    assert fit(conversation("uau"), words, 40, max_new_tokens=1000).num_dropped_turns == 0
    assert fit(conversation("uau"), words, 38, max_new_tokens=1000).num_dropped_turns == 1


def test_a_question_that_fills_the_model_is_refused():
    with pytest.raises(UserError, match="10 tokens and leaves no room for an answer"):
        fit(conversation("uau"), words, 10, max_new_tokens=1)
