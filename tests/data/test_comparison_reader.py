import json

import pytest

from src.data.comparison import Comparison, Context, compare
from src.data.comparison_reader import ComparisonReader
from src.data.content import UnusableRow
from src.data.hh_transcript import read_transcript
from src.data.report import RowReport
from src.data.sources import open_source
from src.errors import UserError

U, A = (lambda t: {"role": "user", "content": t}), (lambda t: {"role": "assistant", "content": t})
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = Comparison(Context((), "Hi"), ("Hello.", "Go away."), (1, 2), (True, True))
LATER = PAIR._replace(context=Context((("Who?", "Me."),), "Hi"))
WITH_SYSTEM = PAIR._replace(context=Context((), "Hi", "Be brief."))
TURNS = [U("Who?"), A("Me."), U("Hi")]
HH = "\n\nHuman: Who?\n\nAssistant: Me.\n\nHuman: Hi\n\nAssistant: "
THREE = Comparison(Context((), "Hi"), ("a", "b", "c"), (2, 1, 2), (True, True, True))
REPLIES = ["a", "b", "c"]

GOOD = {
    "pair of texts": ({"prompt": "Hi", "chosen": "Hello.", "rejected": "Go away."}, PAIR),
    "spaces are stripped": (
        {"prompt": " Hi\n", "chosen": " Hello.", "rejected": "Go away. "},
        PAIR,
    ),
    "other names": (
        {"question": "Hi", "chosen_response": "Hello.", "rejected_response": "Go away."},
        PAIR,
    ),
    "system column": (
        {"system": "Be brief.", "question": "Hi", "chosen": "Hello.", "rejected": "Go away."},
        WITH_SYSTEM,
    ),
    "replies are messages": (
        {"prompt": "Hi", "chosen": [A("Hello.")], "rejected": [A("Go away.")]},
        PAIR,
    ),
    "a reply is one message": (
        {"prompt": "Hi", "chosen": A("Hello."), "rejected": A("Go away.")},
        PAIR,
    ),
    "all are messages": (
        {"prompt": TURNS, "chosen": [A("Hello.")], "rejected": [A("Go away.")]},
        LATER,
    ),
    "a prompt of messages, replies of text": (
        {"prompt": TURNS, "chosen": "Hello.", "rejected": "Go away."},
        LATER,
    ),
    "messages and two replies": (
        {"messages": TURNS, "chosen": "Hello.", "rejected": "Go away."},
        LATER,
    ),
    "whole conversations": (
        {"chosen": [*TURNS, A("Hello.")], "rejected": [*TURNS, A("Go away.")]},
        LATER,
    ),
    "whole conversations as JSON": (
        {
            "chosen": json.dumps([*TURNS, A("Hello.")]),
            "rejected": json.dumps([*TURNS, A("Go away.")]),
        },
        LATER,
    ),
    "whole conversations with a system text": (
        {"chosen": [SYSTEM, U("Hi"), A("Hello.")], "rejected": [SYSTEM, U("Hi"), A("Go away.")]},
        WITH_SYSTEM,
    ),
    "whole conversations beside their prompt and messages": (
        {
            "prompt": "Hi",
            "chosen": [U("Hi"), A("Hello.")],
            "rejected": [U("Hi"), A("Go away.")],
            "messages": [U("Hi"), A("Hello.")],
        },
        PAIR,
    ),
    "HH-RLHF": ({"chosen": HH + "Hello.", "rejected": HH + "Go away."}, LATER),
    "HH-RLHF, the prompt apart": (
        {"prompt": HH, "chosen": " Hello.", "rejected": " Go away."},
        LATER,
    ),
    "HH-RLHF beside its prompt": (
        {"prompt": HH, "chosen": HH + "Hello.", "rejected": HH + "Go away."},
        LATER,
    ),
    "another transcript": (
        {
            "chosen": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>",
            "rejected": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nGo away.<|im_end|>",
        },
        PAIR,
    ),
    "several rejected": (
        {"prompt": "Hi", "chosen": ["b"], "rejected": ["a", "c"]},
        THREE._replace(replies=("b", "a", "c"), ranks=(1, 2, 2)),
    ),
    "a cut reply": (
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go", "ended": [True, False]},
        PAIR._replace(replies=("Hello.", "Go"), ended=(True, False)),
    ),
    "ranking": ({"prompt": "Hi", "replies": REPLIES, "ranks": [2, 1, 2]}, THREE),
    "ranking as text of a table": (
        {"prompt": "Hi", "replies": json.dumps(REPLIES), "ranks": "[2, 1, 2]"},
        THREE,
    ),
    "ranks with gaps": ({"prompt": "Hi", "replies": REPLIES, "ranks": [7, 0.5, 7]}, THREE),
    "1 2 2 4": (
        {"prompt": "Hi", "replies": [*REPLIES, "d"], "ranks": [2, 1, 2, 9]},
        THREE._replace(
            replies=("a", "b", "c", "d"), ranks=(2, 1, 2, 4), ended=(True, True, True, True)
        ),
    ),
    "ranking of a conversation": (
        {"messages": TURNS, "replies": REPLIES, "ranks": [2, 1, 2]},
        THREE._replace(context=LATER.context),
    ),
    "history": (
        {"history": [["Who?", "Me."]], "prompt": "Hi", "replies": REPLIES, "ranks": [2, 1, 2]},
        THREE._replace(context=LATER.context),
    ),
    "replies that are objects": (
        {
            "prompt": "Hi",
            "replies": [{"text": t, "rank": r} for t, r in zip(REPLIES, (2, 1, 2), strict=True)],
        },
        THREE,
    ),
    "objects with scores": (
        {
            "prompt": "Hi",
            "completions": [{"response": t, "score": s} for t, s in ("a1", "b2", "c1")],
        },
        THREE,
    ),
    "replies that are messages": (
        {"prompt": "Hi", "replies": [A("a"), A("b"), A("c")], "ranks": [2, 1, 2]},
        THREE,
    ),
    "an empty reply that ended": (
        {"prompt": "Hi", "replies": ["", "b"], "ranks": [2, 1], "ended": [True, True]},
        PAIR._replace(replies=("", "b"), ranks=(2, 1)),
    ),
    "scores": ({"prompt": "Hi", "replies": REPLIES, "scores": [0.1, 3, 0.1]}, THREE),
    "best of n": ({"prompt": "Hi", "replies": REPLIES, "best": 1}, THREE),
    "best of n by its text": ({"prompt": "Hi", "replies": REPLIES, "best": "b"}, THREE),
    "family": (
        {"prompt": "Hi", "replies": REPLIES, "ranks": [2, 1, 2], "family": "f"},
        THREE._replace(family="f"),
    ),
}

BAD = {
    "a row of SFT": ({"prompt": "Hi", "response": "Ho"}, "no_comparison"),
    "only one side": ({"prompt": "Hi", "chosen": "Ho", "rejected": None}, "no_comparison"),
    "no ranks": ({"prompt": "Hi", "replies": REPLIES}, "no_ranks"),
    "too few ranks": ({"prompt": "Hi", "replies": REPLIES, "ranks": [1, 2]}, "ranks_do_not_match"),
    "no number": ({"prompt": "Hi", "replies": REPLIES, "ranks": [1, 2, "x"]}, "bad_rank"),
    "not a number": ({"prompt": "Hi", "replies": REPLIES, "scores": [1, 2, "nan"]}, "bad_rank"),
    "best beyond": ({"prompt": "Hi", "replies": REPLIES, "best": 3}, "bad_rank"),
    "all tied": ({"prompt": "Hi", "replies": REPLIES, "ranks": [1, 1, 1]}, "no_preference"),
    "one reply": ({"prompt": "Hi", "replies": ["a"], "ranks": [1]}, "one_reply"),
    "none": ({"prompt": "Hi", "replies": [], "ranks": []}, "one_reply"),
    "the same": ({"prompt": "Hi", "chosen": "Ho ", "rejected": "Ho"}, "same_replies"),
    "empty reply": ({"prompt": "Hi", "chosen": "Ho", "rejected": " "}, "empty_response"),
    "cut before it began": (
        {"prompt": "Hi", "replies": ["", "b"], "ranks": [2, 1], "ended": [False, True]},
        "empty_response",
    ),
    "empty prompt": ({"prompt": " ", "chosen": "Ho", "rejected": "Hu"}, "empty_prompt"),
    "no prompt": ({"chosen": "Ho", "rejected": "Hu"}, "no_prompt"),
    "other prompts": (
        {"chosen": [U("Hi"), A("Ho")], "rejected": [U("Hey"), A("Hu")]},
        "different_prompts",
    ),
    "transcripts part too early": (
        {"chosen": HH + "Hello.", "rejected": HH.replace("Me.", "You.") + "Go away."},
        "different_prompts",
    ),
    "transcripts of other lengths": (
        {"chosen": HH + "Hello.", "rejected": "\n\nHuman: Who?\n\nAssistant: You."},
        "different_prompts",
    ),
    "the person speaks last": (
        {"chosen": HH + "Hello.\n\nHuman: Bye", "rejected": HH + "Go away."},
        "ends_without_reply",
    ),
    "ended of another length": (
        {"prompt": "Hi", "replies": REPLIES, "ranks": [1, 2, 3], "ended": [True]},
        "ended_does_not_match",
    ),
    "a list of messages": ([U("Hi"), A("Ho")], "no_comparison"),
}


def read(row, columns=None):
    reader = ComparisonReader(list(row), columns, "rows.jsonl")
    return reader(row), reader.unused


@pytest.mark.parametrize("name", GOOD)
def test_every_layout_is_read(name):
    row, expected = GOOD[name]
    assert read(row) == (expected, ())


@pytest.mark.parametrize("prompt", ["Hi", [U("Hi")], "\n\nHuman: Hi\n\nAssistant:"])
def test_a_prompt_may_stand_beside_the_turns_that_follow_it(prompt):
    begun = [A("Ho"), U("And?")]
    row = {"prompt": prompt, "chosen": [*begun, A("yes")], "rejected": [*begun, A("no")]}
    found, unused = read(row)
    assert found.context == Context((("Hi", "Ho"),), "And?")
    assert (found.replies, unused) == (("yes", "no"), ())


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_cannot_be_used_has_a_reason(name):
    row, reason = BAD[name]
    with pytest.raises(UnusableRow) as problem:
        read(row)
    assert problem.value.reason == reason


def test_what_a_row_holds_beside_its_comparison_is_named():
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 5, "note": "x"}
    assert read(row)[1] == ("column score_chosen", "column note")
    row = {"prompt": "Hi", "replies": REPLIES, "ranks": [2, 1, 2], "scores": [1, 2, 3]}
    assert read(row)[1] == ("column scores",)
    row = {"prompt": "Hey", "chosen": [U("Hi"), A("a")], "rejected": [U("Hi"), A("b")]}
    assert read(row)[1] == ("column prompt",)


def test_columns_can_be_named():
    row = {"q": "Hi", "good": "Hello.", "bad": "Go away."}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert read(row, columns)[0] == PAIR
    with pytest.raises(UserError, match="did you mean"):
        read(row, {"promt": "q"})


def test_a_transcript_keeps_what_a_reply_quotes():
    text = "\n\nHuman: Hi\n\nAssistant: Say\nHuman: no\n# Answer: x\n\nAssistant: and more"
    assert read_transcript(text) == [
        U("Hi"),
        A("Say\nHuman: no\n# Answer: x"),
        A("and more"),
    ]
    assert read_transcript("Dear Human: Hi\n\nAssistant: Ho") is None
    assert read_transcript("Human: only me") is None


@pytest.fixture
def source(tmp_path, data_config):
    def make(rows, **changes):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = data_config(source="file", path=str(path), **changes)
        return open_source(config).read_by(ComparisonReader)

    return make


def test_scores_of_a_row_each_are_gathered_by_prompt(source):
    rows = [
        {"prompt": "Hi", "response": "a", "score": 1},
        {"prompt": "Hey", "response": "x", "score": 1},
        {"prompt": "Hi", "response": "b", "score": 2.5},
        {"prompt": "Hi", "response": "c", "score": 1},
        {"prompt": "Ho", "response": "y", "score": 3},
        {"prompt": "Ho", "response": "z", "score": 3},
    ]
    report = RowReport()
    assert list(source(rows).read(report)) == [("train", THREE)]
    assert report.read == 6
    assert report.used == {"train": 3}
    assert report.dropped == {"one_reply": 1, "no_preference": 2}
    assert "rows.jsonl" in report.first_dropped["no_preference"]
    assert "line 5" in report.first_dropped["no_preference"]


def test_scores_of_a_row_each_that_make_no_comparison_are_refused(source):
    rows = [{"prompt": f"Hi {i}", "response": "a", "score": 1} for i in range(3)]
    with pytest.raises(UserError, match=r"no usable training rows among 3 \(3 one_reply"):
        list(source(rows).read(RowReport()))


def test_rows_that_cannot_be_used_are_counted(source):
    rows = [row for row, _ in [*GOOD.values(), *BAD.values()] if isinstance(row, dict)]
    report = RowReport()
    found = [comparison for _, comparison in source(rows).read(report)]
    assert found == [comparison for _, comparison in GOOD.values()]
    assert report.read == len(rows) == report.used["train"] + report.dropped.total()
    assert set(report.dropped) == {reason for _, reason in BAD.values()}
    assert report.dropped["different_prompts"] == 3


def test_rows_of_conversations_are_refused_with_the_way_out(source):
    rows = [{"prompt": f"Hi {i}", "response": "Ho"} for i in range(3)]
    with pytest.raises(UserError, match=r"no_comparison.*chosen, rejected"):
        list(source(rows).read(RowReport()))
    rows = [{"prompt": f"Hi {i}", "response": "Ho"} for i in range(1000)]
    with pytest.raises(UserError, match=r"no comparison in the first 1,000 rows"):
        list(source(rows).read(RowReport()))
    with pytest.raises(UserError, match=r"data\.columns names nowhere"):
        list(source([GOOD["ranking"][0]], columns={"system": "nowhere"}).read(RowReport()))


def test_equal_replies_tie():
    found = compare(Context((), "Hi"), ["a", "b", "a", "c"], [1, 2, 4, 3], [True] * 4)
    assert found.ranks == (2, 1, 2, 4)
    cut = compare(Context((), "Hi"), ["a", "a"], [1, 2], [True, False])
    assert cut.ranks == (1, 2)
    with pytest.raises(UnusableRow):
        compare(Context((), "Hi"), ["a", "b", "a"], [1, 2, 3], [True] * 3)
