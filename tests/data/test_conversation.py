import pytest

from src.data.conversation import Conversation, RowReader, UnusableRow
from src.errors import UserError


def read(row, columns=None):
    return RowReader(list(row), columns, "rows.jsonl")(row)


def reason(row) -> str:
    with pytest.raises(UnusableRow) as caught:
        read(row)
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "response": "A"},
        {"prompt": "Q", "completion": "A"},
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "input": None, "output": "A"},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": " \tQ\n", "response": "\nA  "},
        {"id": 7, "prompt": "Q", "response": "A", "score": 0.5},
    ],
    ids=lambda row: "+".join(row),
)
def test_every_layout_gives_the_same_conversation(row):
    assert read(row) == Conversation(turns=(("Q", "A"),))


def test_instruction_and_input_are_joined_by_a_newline():
    row = {"instruction": "Add these.", "input": "1, 2", "output": "3"}
    assert read(row).turns == (("Add these.\n1, 2", "3"),)


def test_an_input_column_that_the_first_row_lacks_is_not_lost():
    reader = RowReader(["instruction", "output"], None, "rows.jsonl")
    assert reader({"instruction": "Hi", "output": "A"}).turns == (("Hi", "A"),)
    row = {"instruction": "Add these.", "input": "1, 2", "output": "3"}
    assert reader(row).turns == (("Add these.\n1, 2", "3"),)


def test_an_input_alone_is_a_prompt():
    assert read({"instruction": "", "input": "1 + 2", "output": "3"}).turns == (("1 + 2", "3"),)


MULTI_TURN = (
    ("system", " Be kind. "),
    ("user", " Hello "),
    ("assistant", "Hi "),
    ("user", "Bye"),
    ("assistant", "See you"),
)
SHARE_GPT = {"user": "human", "assistant": "gpt", "system": "system"}


@pytest.mark.parametrize("layout", ["messages", "conversations"])
def test_turns_and_system_text_are_kept_and_stripped(layout):
    if layout == "messages":
        messages = [{"role": role, "content": text} for role, text in MULTI_TURN]
    else:
        messages = [{"from": SHARE_GPT[role], "value": text} for role, text in MULTI_TURN]
    assert read({layout: messages}) == Conversation(
        turns=(("Hello", "Hi"), ("Bye", "See you")), system="Be kind."
    )


def messages(*pairs):
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


def test_a_last_question_without_an_answer_is_left_off():
    row = messages(("user", "Q"), ("assistant", "A"), ("user", "And then?"))
    assert read(row).turns == (("Q", "A"),)


@pytest.mark.parametrize(
    ("expected", "row"),
    [
        ("empty_prompt", {"prompt": " \n", "response": "A"}),
        ("empty_prompt", {"prompt": None, "response": "A"}),
        ("empty_prompt", messages(("user", " "), ("assistant", "A"))),
        ("empty_response", {"prompt": "Q", "response": ""}),
        ("empty_response", {"instruction": "Q", "input": "", "output": " "}),
        ("empty_response", messages(("user", "Q"), ("assistant", ""))),
        ("not_text", {"prompt": 12, "response": "A"}),
        ("not_text", {"prompt": "Q", "response": ["A"]}),
        ("not_text", messages(("user", ["an image"]), ("assistant", "A"))),
        ("not_text", messages((["user"], "Q"), ("assistant", "A"))),
        ("invalid_unicode", {"prompt": "half a pair \ud83d", "response": "A"}),
        ("not_a_list_of_messages", {"messages": "Q"}),
        ("not_a_list_of_messages", {"messages": None}),
        ("not_a_list_of_messages", {"messages": ["Q", "A"]}),
        ("not_a_list_of_messages", {"messages": [{"role": "user"}]}),
        ("not_a_list_of_messages", {"messages": [{"from": "human", "value": "Q"}]}),
        ("unexpected_role_order", messages(("assistant", "A"), ("user", "Q"))),
        ("unexpected_role_order", messages(("user", "Q"), ("user", "Q"), ("assistant", "A"))),
        ("unexpected_role_order", messages(("user", "Q"), ("system", "S"), ("assistant", "A"))),
        ("unknown_role", messages(("user", "Q"), ("tool", "{}"), ("assistant", "A"))),
        ("unknown_role", messages((None, "Q"), ("assistant", "A"))),
        ("no_complete_turn", messages()),
        ("no_complete_turn", messages(("system", "S"), ("user", "Q"))),
    ],
)
def test_a_row_that_cannot_be_used_says_why(expected, row):
    assert reason(row) == expected


def test_a_row_that_lacks_a_column_of_the_first_one_is_unusable():
    reader = RowReader(["prompt", "response"], None, "rows.jsonl")
    with pytest.raises(UnusableRow, match="missing_column"):
        reader({"prompt": "Q"})


def test_columns_of_other_names_are_mapped():
    row = {"question": "Q", "answer": "A", "prompt": "not this"}
    assert read(row, {"prompt": "question", "response": "answer"}).turns == (("Q", "A"),)
    row = {"chat": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    assert read(row, {"messages": "chat"}).turns == (("Q", "A"),)
    row = {"task": "Add.", "data": "1, 2", "result": "3", "input": "not this"}
    mapping = {"instruction": "task", "output": "result"}
    assert read(row, mapping).turns == (("Add.", "3"),)
    assert read(row, {**mapping, "input": "data"}).turns == (("Add.\n1, 2", "3"),)


def test_unknown_columns_are_refused_with_the_names_found():
    with pytest.raises(UserError, match=r"rows\.jsonl: no recognised columns \(found: q, a\)"):
        read({"q": "Q", "a": "A"})
    with pytest.raises(UserError, match=r"data\.columns names answer, but the columns are: q, a"):
        read({"q": "Q", "a": "A"}, {"prompt": "q", "response": "answer"})
    with pytest.raises(UserError, match=r"found: q, a"):
        read({"q": "Q", "a": "A"}, {"prompt": "q"})


def test_the_family_of_a_row_is_kept():
    assert read({"prompt": "Q", "response": "A", "family": "capitals"}).family == "capitals"
    assert read({"prompt": "Q", "response": "A", "family": 3}).family == ""
