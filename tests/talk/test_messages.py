import pytest

from src.errors import UserError
from src.talk.messages import Message, check_messages, fit, read_question


def conversation(text: str) -> list[Message]:
    """``s``, ``u`` and ``a`` are messages of the three roles, each of one word."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(roles[letter], f"{letter}{number}") for number, letter in enumerate(text)]


def words(messages) -> list[int]:
    """A template of ten tokens a message, which are the message's number."""
    return [int(message.content[1:]) for message in messages for _ in range(10)]


@pytest.mark.parametrize("text", ["u", "su", "uau", "suauau", "au", "sauau"])
def test_a_conversation_that_ends_with_a_question_is_allowed(text):
    check_messages(conversation(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "last message must be a question"),
        ("ua", "last message must be a question"),
        ("s", "last message must be a question"),
        ("uu", "message 2 is of role user, not assistant"),
        ("aau", "message 2 is of role assistant, not user"),
        ("usu", "message 2 is of role system, not assistant"),
        ("suaau", "message 4 is of role assistant, not user"),
    ],
)
def test_one_out_of_turn_is_named(text, message):
    with pytest.raises(UserError, match=message):
        check_messages(conversation(text))


def read(*texts: str) -> tuple[list[tuple[str, str]], str]:
    """Read messages such as "u:Hi"; return role and text of each, and the reply's beginning."""
    roles = {"s": "system", "d": "developer", "u": "user", "a": "assistant"}
    messages = [{"role": roles[text[0]], "content": text[2:]} for text in texts]
    question = read_question(messages)
    check_messages(question.messages)
    return [(m.role[0], m.content) for m in question.messages], question.beginning


@pytest.mark.parametrize(
    ("texts", "expected", "beginning"),
    [
        (["u:a", "u:b"], [("u", "a\n\nb")], ""),
        (["u:a", "a:", "u:b"], [("u", "a\n\nb")], ""),
        (["a:hi", "u:a"], [("a", "hi"), ("u", "a")], ""),
        (["s:S", "a:hi", "u:a", "a:b", "u:c"], None, ""),
        (["u:a", "s:S", "d:T"], [("s", "S\n\nT"), ("u", "a")], ""),
        (["u:a", "a:b", "a:c", "u:d"], [("u", "a"), ("a", "b\n\nc"), ("u", "d")], ""),
        (["u:a", "a:"], [("u", "a")], ""),
        (["u:a", "a:The"], [("u", "a")], "The"),
        (["a:hi", "u:a", "a:The", "a:cat"], [("a", "hi"), ("u", "a")], "The\n\ncat"),
    ],
    ids=lambda value: "" if not isinstance(value, list) else ascii(value)[:40],
)
def test_any_order_of_roles_is_a_question(texts, expected, beginning):
    expected = expected or [(text[0], text[2:]) for text in texts]
    assert read(*texts) == (expected, beginning)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "system", "content": "a"}], "there is no question"),
        ([{"role": "assistant", "content": "a"}], "there is no question"),
        ([{"role": "user", "content": None}], "last message is empty"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": " "}], "message is empty"),
        ([{"role": "king", "content": "a"}], 'message 1: the roles .* not this: role "king"'),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1: images are not"),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "b", "tool_call_id": "1"},
            ],
            "message 2: calls of tools are not supported",
        ),
    ],
)
def test_messages_that_no_reply_can_follow_are_refused(messages, reason):
    with pytest.raises(UserError, match=reason):
        read_question(messages)


def test_what_messages_hold_besides_is_named():
    messages = [{"role": "user", "content": "a", "name": "Ann", "refusal": None, "audio": None}]
    assert read_question(messages).unused == ("message key name",)


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


def test_an_opening_is_dropped_before_the_first_turn():
    fitted = fit(conversation("sauau"), words, 50, max_new_tokens=10)
    assert (sorted(set(fitted.ids)), fitted.num_dropped_turns) == ([0, 2, 3, 4], 1)


@pytest.mark.parametrize("characters", [1, 40, 5000])
def test_a_text_far_longer_than_the_model_is_never_encoded_whole(characters):
    """However many characters a token has, as many turns as fit are kept."""
    encoded = []

    def encode(messages) -> list[int]:
        encoded.append(sum(len(message.content) for message in messages))
        return [0] * len(messages) * 10

    talk = [Message(m.role, "x" * characters) for m in conversation("ua" * 5000 + "u")]
    fitted = fit(talk, encode, 1000, max_new_tokens=10)
    assert len(fitted.ids) == 990
    assert fitted.num_dropped_turns == 4951
    assert max(encoded) <= max(8 * 1000, 2 * 99 * characters) or characters == 1


def test_no_more_than_a_quarter_of_the_positions_is_kept_free():
    assert fit(conversation("uau"), words, 40, max_new_tokens=1000).num_dropped_turns == 0
    assert fit(conversation("uau"), words, 38, max_new_tokens=1000).num_dropped_turns == 1


def test_a_question_that_fills_the_model_is_refused():
    with pytest.raises(UserError, match="10 tokens and leaves no room for an answer"):
        fit(conversation("uau"), words, 10, max_new_tokens=1)
