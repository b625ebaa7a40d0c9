import pytest

from src.data.conversation import NUM_ODD_ROWS, Conversation, RowReader, UnusableRow
from src.errors import UserError


def read(row, columns=None):
    return RowReader(list(row), columns, "rows.jsonl")(row)


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
        {"Question": "Q", "Answer": "A"},
        {"query": "Q", "response": "A"},
        {"input": "Q", "output": "A"},
        {"INSTRUCTION": "Q", "context": "", "Response": "A"},
        {"problem": "Q", "answer": "4", "solution": "A"},
        {"User Message": "Q", "assistant_message": "A"},
        {"inputs": "Q", "targets": ["A"]},
        {"user_input": "Q", "model_output": "A"},
        {"Input Text": "Q", "Output Text": "A"},
        {"prompt": [{"role": "user", "content": "Q"}], "completion": "A"},
        {"prompt": "Q", "completion": [{"role": "assistant", "content": "A"}]},
        {"prompt": [{"from": "human", "value": "Q"}], "chosen": [{"from": "gpt", "value": "A"}]},
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"dialog": [{"role": "user", "content": "Q"}], "response": "A"},
        {"id": "7", "data": ["Q", "A"]},
        {"anything": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"talk": ["Q", "A"]},
        {"dialog": "[{'from': 'human', 'value': 'Q'}, {'from': 'gpt', 'value': 'A'}]"},
        {"messages": '[{"role": "user", "content": "Q"}, {"role": "ai", "content": "A"}]'},
        {"text": "### Human: Q### Assistant: A"},
        {"chat": "USER: Q\n\n\nASSISTANT: A <|endoftext|>"},
        {"context": "Q", "response": "A"},
        {"history": ["Q"], "response": "A"},
    ],
    ids=lambda row: "+".join(row)[:40],
)
def test_every_layout_gives_the_same_conversation(row):
    assert read(row) == Conversation(turns=(("Q", "A"),))


def test_several_replies_to_a_prompt_are_no_conversation():
    for row in ({"prompt": "Q", "replies": ["A", "B"]}, {"text": "Q", "children": ["A", "B"]}):
        with pytest.raises(UnusableRow, match="tree"):
            read(row)
    with pytest.raises(UnusableRow, match="no_conversation"):
        read({"question": "Q", "answers": ["A", "B"]})


def test_a_list_of_messages_in_an_object_is_read_and_what_lies_beside_it_named():
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    row = {"conversation": {"messages": messages, "id": 3}}
    reader = RowReader(list(row), None, "rows.jsonl")
    assert reader(row).turns == (("Q", "A"),)
    assert reader.unused == ("key conversation.id",)


@pytest.mark.parametrize("role", [None, "system"])
def test_several_system_texts_of_a_column_are_apart(role):
    texts = ["S1", "S2"] if role is None else [{"role": role, "content": t} for t in ("S1", "S2")]
    assert read({"prompt": "Q", "response": "A", "system": texts}).system == "S1\n\nS2"
    parts = [{"type": "text", "text": "S1"}, {"type": "text", "text": "S2"}]
    assert read({"prompt": "Q", "response": "A", "system": parts}).system == "S1S2"


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
    ("expected", "found", "row"),
    [
        ("empty_prompt", "A", {"prompt": " \n", "response": "A"}),
        ("empty_prompt", "A", {"prompt": None, "response": "A"}),
        ("empty_prompt", "A", {"prompt": float("nan"), "response": "A"}),
        ("empty_response", "Q", {"prompt": "Q", "response": ""}),
        ("empty_response", "Q", {"instruction": "Q", "input": "", "output": " "}),
        ("empty_response", "Q", messages(("user", "Q"), ("assistant", ""))),
        ("several_responses", "B", {"prompt": "Q", "response": ["A", "B"]}),
        ("not_text", "kind", messages(("user", {"kind": "x"}), ("assistant", "A"))),
        ("invalid_unicode", "half", {"prompt": "half a pair \ud83d", "response": "A"}),
        ("invalid_unicode", "half", {"prompt": "Q", "response": "half a pair \ud83d"}),
        ("not_a_list_of_messages", "Q", {"messages": "Q"}),
        ("not_a_list_of_messages", "null", {"messages": None}),
        ("not_a_list_of_messages", "txt", {"messages": [{"role": "user", "txt": "Q"}]}),
        ("unknown_role", "Gandalf", messages(("user", "Q"), ("Gandalf", "A"))),
        ("tool_result", "{}", messages(("user", "Q"), ("tool", "{}"), ("assistant", "A"))),
        ("no_complete_turn", "messages", messages()),
        ("no_complete_turn", "Q", messages(("system", "S"), ("user", "Q"))),
        ("nothing_taught", "A", {"messages": [{"user": "Q"}, {"assistant": "A", "weight": 0}]}),
        ("image", "a.png", {"image": "a.png", **messages(("user", "<image>Q"), ("gpt", "A"))}),
        ("history_is_no_list", "once", {"prompt": "Q", "response": "A", "history": "once"}),
        # What is no row at all is refused by what it is.
        ("no_conversation", "q, a", {"q1": "Q", "a1": "A"}),
        ("no_conversation", "prompt", {"prompt": "Q"}),
        ("tree", "replies", {"prompt": {"text": "Q", "replies": [{"text": "A"}]}, "id": 1}),
        ("tree", "parent", {"message_id": 2, "parent_id": 1, "text": "A", "role": "assistant"}),
        ("tree", "mapping", {"title": "T", "mapping": {"1": {"parent": None}}}),
        ("columnar", "prompt, response", {"prompt": {"0": "Q"}, "response": {"0": "A"}}),
        ("columnar", "prompt, response", {"prompt": ["Q", "R"], "response": ["A", "B"]}),
        ("columnar", "index", {"columns": ["prompt"], "index": [0], "data": [["Q"]]}),
        ("one_message_a_row", "role", {"chat": 3, "role": "user", "content": "Q"}),
        ("tool_log", "arguments", {"tool": "look", "arguments": {"x": 1}, "result": "42"}),
        ("tool_log", "tool", {"time": 3, "tool": "bash", "input": "ls", "output": "a.txt"}),
        ("plain_text", "Once", {"text": "Once upon a time."}),
    ],
)
def test_a_row_that_cannot_be_used_says_why_and_what_was_found(expected, found, row):
    with pytest.raises(UnusableRow) as caught:
        read(row)
    assert str(caught.value) == expected
    assert found in caught.value.found or found == "q, a"


def unused(row, columns=None) -> tuple[str, ...]:
    reader = RowReader(list(row), columns, "rows.jsonl")
    reader(row)
    return reader.unused


def test_a_row_keeps_its_system_text_history_and_context():
    row = {"system_prompt": "Be kind.", "history": [["Hello", "Hi"]], "input": "Q", "output": "A"}
    assert read(row) == Conversation((("Hello", "Hi"), ("Q", "A")), system="Be kind.")
    assert unused(row) == ()
    row = {"instruction": "Q", "context": "C", "response": "A", "history": "[]", "system": None}
    assert read(row) == Conversation((("Q\nC", "A"),))
    row = {"System": "S", "context": "C", **messages(("system", "T"), ("user", "Q"), ("ai", "A"))}
    assert read(row) == Conversation((("Q\nC", "A"),), system="S\n\nT")
    assert unused(row) == ()
    row = {"system": "S", **messages(("system", "S"), ("user", "Q"), ("ai", "A"))}
    assert read(row).system == "S"  # many keep it twice
    row = {"history": ["Q1", "A1", "and"], "prompt": "more?", "response": "A2"}
    assert read(row).turns == (("Q1", "A1"), ("and\n\nmore?", "A2"))


def test_messages_that_are_only_read_and_an_opening_text_are_kept():
    row = messages(
        ("assistant", "Welcome."), ("user", "Q"), ("ai", "A"), ("user", "R"), ("ai", "B")
    )
    row["messages"][2]["weight"] = 0
    expected = (("Q", "A"), ("R", "B"))
    assert read(row) == Conversation(expected, opening="Welcome.", taught=(False, True))


def test_what_is_not_used_is_named():
    row = {"prompt": "Q", "response": "A", "quality": 0, "note": None, "tags": []}
    assert unused(row) == ("column quality",)
    row = {"id": 1, "prompt": "P", "response": "R", "rejected": [], "tags": ["x", "y"]}
    assert unused(row) == ("column id", "column tags")
    both = messages(("user", "Q"), ("assistant", "A"), ("user", "and?"))
    both["messages"][0]["name"] = "Bob"
    both |= {"prompt": "P", "response": "R"}
    assert read(both).turns == (("Q", "A"),)  # a list of messages comes before a pair
    assert set(unused(both)) == {
        "column prompt",
        "column response",
        "message key name",
        "last question without an answer",
    }
    two = {"question": "Q", "answer": "A", "prompt": "P", "response": "R"}
    assert read(two).turns == (("P", "R"),)
    assert unused(two) == ("column question", "column answer")
    chosen = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert read({"rejected": chosen[:1], "chosen": chosen}).turns == (("Q", "A"),)
    assert unused({"rejected": chosen[:1], "chosen": chosen}) == ("column rejected",)


def test_numbers_are_text():
    assert read({"prompt": 1, "response": 2.5}).turns == (("1", "2.5"),)
    assert read({"question": "Is it?", "answer": True}).turns == (("Is it?", "true"),)


def test_a_bare_list_of_messages_is_a_row():
    reader = RowReader([], None, "rows.jsonl")
    assert reader(messages(("user", "Q"), ("assistant", "A"))["messages"]).turns == (("Q", "A"),)


def test_each_row_is_read_by_its_own_columns():
    reader = RowReader(["comment"], None, "rows.jsonl")
    with pytest.raises(UnusableRow, match="no_conversation"):
        reader({"comment": "exported today"})
    assert reader({"prompt": "Q", "response": "A"}).turns == (("Q", "A"),)
    assert reader({"question": "Q", "answer": "B"}).turns == (("Q", "B"),)


def test_columns_of_other_names_are_added_to_those_that_are_recognised():
    assert read({"frage": "Q", "response": "A"}, {"prompt": "frage"}).turns == (("Q", "A"),)
    row = {"question": "Q", "answer": "A", "prompt": "not this"}
    assert read(row, {"prompt": "question"}).turns == (("Q", "A"),)
    assert unused(row, {"prompt": "question"}) == ("column prompt",)
    row = {"chat": messages(("user", "Q"), ("assistant", "A"))["messages"], "messages": ["x", "y"]}
    assert read(row, {"messages": "chat"}).turns == (("Q", "A"),)
    row = {"task": "Add.", "data": "1, 2", "result": "3"}
    mapping = {"instruction": "task", "output": "result"}
    assert read(row, mapping).turns == (("Add.", "3"),)
    assert read(row, {**mapping, "input": "data"}).turns == (("Add.\n1, 2", "3"),)
    row = {"my question": "Q", "réponse (final)": "A", **messages(("user", "M"), ("ai", "N"))}
    mapping = {"prompt": "my question", "response": "réponse (final)"}
    assert read(row, mapping).turns == (("Q", "A"),)  # what the person named comes first
    assert unused(row, mapping) == ("column messages",)


def test_a_misspelt_role_and_a_column_that_no_row_has_are_errors():
    with pytest.raises(UserError, match=r"data\.columns\.inptu: .* did you mean input\?"):
        read({"q": "Q", "a": "A"}, {"prompt": "q", "inptu": "a"})
    row = {"prompt": "Q", "response": "A", "ctx": "C"}
    reader = RowReader(list(row), {"context": "kontext"}, "rows.jsonl")
    reader(row)
    with pytest.raises(
        UserError, match="names kontext, but the columns are: prompt, response, ctx"
    ):
        reader.finish()
    reader({**row, "kontext": "C"})
    reader.finish()


def test_a_source_without_any_conversation_is_refused_early():
    reader = RowReader(["q"], None, "rows.jsonl")
    for _ in range(NUM_ODD_ROWS - 1):
        with pytest.raises(UnusableRow):
            reader({"x1": "Q"})
    with pytest.raises(UserError, match=r"rows\.jsonl: .*columns x1.*name your columns"):
        reader({"x1": "Q"})


def test_the_family_of_a_row_is_kept():
    assert read({"prompt": "Q", "response": "A", "family": "capitals"}).family == "capitals"
    assert read({"prompt": "Q", "response": "A", "family": 3}).family == ""
    reader = RowReader([], None, "the embedded corpus", ("split",))
    reader({"prompt": "Q", "response": "A", "family": "capitals", "split": "train"})
    assert reader.unused == ()
