import json

import numpy as np
import pytest

from src.data.comparison import Context
from src.data.comparison_reader import ComparisonReader
from src.data.files.places import find_places
from src.errors import UserError
from src.ranking.draws import Drawn
from src.ranking.labellers import function_labeller, known_labeller
from src.ranking.records import Records, key_of
from src.ranking.session import ask_all, rank_all, read_ranks


def items(count: int, replies=("a", "b", "c")) -> list[Drawn]:
    return [
        Drawn(Context((), f"question {i}"), "f", tuple(replies), (True,) * len(replies))
        for i in range(count)
    ]


class Person:
    """Types what is right for the replies that are shown; ``says`` replaces an answer."""

    def __init__(self, says=None, order="abc"):
        self.says = dict(says or {})
        self.order = order
        self.shown: list[str] = []
        self.asked = 0

    def show(self, text: str) -> None:
        self.shown.append(text)

    def __call__(self, question: str) -> str:
        self.asked += 1
        if self.asked in self.says:
            answer = self.says.pop(self.asked)
            if answer is None:
                raise EOFError
            return answer
        count = int(question.split(":")[0].split()[-1])
        lines = [line for line in self.shown if line.startswith("  ")]
        replies = [line.split(". ")[1] for line in lines[-count:]]
        return " ".join(str(1 + self.order.index(reply)) for reply in replies)


def test_ranks_are_those_of_the_replies_however_they_were_shuffled(tmp_path):
    records, person = Records(tmp_path / "a.jsonl"), Person()
    counts = ask_all(iter(items(9)), person, person.show, records, seed=1)
    assert counts.ranked == 9
    assert all(row["ranks"] == [1, 2, 3] for row in records.rows)
    orders = {
        tuple(line.strip() for line in person.shown[i + 1 : i + 4])
        for i, line in enumerate(person.shown)
        if "question" in line
    }
    assert len(orders) > 2
    assert not any(line.strip() == "f" for line in person.shown)


def test_rows_are_read_as_comparisons(tmp_path):
    path = tmp_path / "a.jsonl"
    drawn = Drawn(Context((("p", "r"),), "q", "s"), "", ("a", ""), (False, True))
    Records(path).add(drawn, [2, 1])
    row = json.loads(path.read_text())
    found = ComparisonReader(list(row), None, "a")(row)
    assert found == (drawn.context, ("a", ""), (2, 1), (False, True), "")


def test_a_person_stops_and_goes_on(tmp_path):
    path = tmp_path / "a.jsonl"
    person = Person({3: "s", 5: None})
    ask_all(iter(items(9)), person, person.show, Records(path), seed=1)
    records = Records(path)
    assert len(records.rows) == 3
    assert len(records.seen) == 4
    path.write_bytes(path.read_bytes() + b'{"prompt": "cut o')
    assert Records(path).rows == records.rows
    assert path.read_bytes().endswith(b"}\n")


def test_a_person_takes_back(tmp_path):
    records = Records(tmp_path / "a.jsonl")
    person = Person({1: "u", 3: "3 3 3", 4: "u", 6: "s", 7: "u"})
    counts = ask_all(iter(items(4)), person, person.show, records, seed=1)
    assert counts.ranked == 4
    assert [row["prompt"] for row in records.rows] == [f"question {i}" for i in range(4)]
    assert all(row["ranks"] == [1, 2, 3] for row in records.rows)
    assert not records.notes
    assert "there is nothing to take back" in person.shown
    assert Records(tmp_path / "a.jsonl").rows == records.rows


def test_what_is_taken_back_is_what_was_shown_last(tmp_path):
    records = Records(tmp_path / "a.jsonl")
    alike = Drawn(Context((), "alike"), "", ("a", "a"), (True, True))
    drawn = [items(1)[0], alike, items(2)[1]]
    person = Person({1: "s", 2: "u", 3: "q"})
    ask_all(iter(drawn), person, person.show, records, seed=1)
    assert records.seen == {key_of(alike.context)}


def test_a_program_sees_equal_replies_once(tmp_path):
    records, seen = Records(tmp_path / "a.jsonl"), []

    def label(drawn, seed):
        seen.append(drawn.replies)
        return list(range(1, len(drawn.replies) + 1))

    rank_all(iter(items(1, "abac")), label, records, seed=1)
    assert seen == [("a", "b", "c")]
    assert records.rows[0]["ranks"] == [1, 3, 1, 4]


def test_a_folder_of_data_passes_over_the_notes(tmp_path):
    path = tmp_path / "train.jsonl"
    person = Person({2: "s"})
    ask_all(iter(items(2)), person, person.show, Records(path), seed=1)
    assert len(list(tmp_path.iterdir())) == 2
    for name in (tmp_path, tmp_path / "*.jsonl"):
        assert [place.path for place in find_places(str(name), "data.path")] == [path]


def test_a_mistake_is_asked_again(tmp_path):
    records = Records(tmp_path / "a.jsonl")
    person = Person({1: "1 2", 2: "x", 3: "0 1 2", 4: ""})
    ask_all(iter(items(1)), person, person.show, records, seed=1)
    assert person.asked == 5
    assert sum("is not a rank for each of 3 replies" in line for line in person.shown) == 4


def test_every_tenth_is_asked_twice_and_agreement_is_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    person = Person()
    ask_all(iter(items(25)), person, person.show, Records(path), seed=1)
    assert person.asked == 27
    assert Records(path).agreement() == (1.0, 6)
    assert len(Records(path).rows) == 25

    other = tmp_path / "b.jsonl"
    person = Person()
    records = Records(other)
    ask_all(iter(items(9)), person, person.show, records, seed=1)
    ask_all(iter(items(10)[9:]), _Turning(person), person.show, records, seed=1)
    assert records.agreement() == (0.0, 3)


class _Turning:
    """Says the opposite the second time."""

    def __init__(self, person):
        self.person, self.asked = person, 0

    def __call__(self, question):
        self.asked += 1
        self.person.order = "cba" if self.asked == 2 else "abc"
        return self.person(question)


def test_equal_replies_are_one_to_a_person_and_alike_ones_are_left_out(tmp_path):
    records, person = Records(tmp_path / "a.jsonl"), Person(order="ab")
    drawn = [*items(1, "aba"), *items(1, "aaa")]
    counts = ask_all(iter(drawn), person, person.show, records, seed=1)
    assert (counts.ranked, counts.alike) == (1, 1)
    assert records.rows[0]["ranks"] == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("1 2 2", [1, 2, 2]), ("122", [1, 2, 2]), ("3,1,1", [3, 1, 1]), ("5 9 5", [1, 3, 1])],
)
def test_ranks_as_people_type_them(text, ranks):
    assert read_ranks(text, 3) == ranks


@pytest.mark.parametrize("text", ["", "1 2", "12", "a b c", "1 2 3 4", "0 1 2", "-1 1 1"])
def test_what_is_no_ranking(text):
    with pytest.raises(UserError):
        read_ranks(text, 3)


def test_the_known_labeller_ranks_and_agrees_with_itself_as_often_as_noise_lets_it(tmp_path):
    prompt, right = "Calculate 0 + 0.", "0 + 0 = 0."
    replies = (f"Gladly! {right}", right, "That depends.")
    drawn = [Drawn(Context((), prompt), "", replies, (True,) * 3)] * 300
    sure = Records(tmp_path / "sure.jsonl")
    rank_all(iter(drawn), known_labeller(0), sure, seed=1)
    assert all(row["ranks"] == [1, 2, 3] for row in sure.rows)
    assert len(sure.notes) == 30
    assert sure.agreement() == (1.0, 90)


def test_a_function_ranks(tmp_path, monkeypatch):
    (tmp_path / "taste.py").write_text(
        "def score(prompt, replies):\n    return [len(r) for r in replies]\n"
        "def broken(prompt, replies):\n    return [1]\n"
        "def words(prompt, replies):\n    return replies\n"
        "def lonely(prompt):\n    return [1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    records = Records(tmp_path / "a.jsonl")
    rank_all(iter(items(1, ("a", "bbb", "cc"))), function_labeller("taste.score"), records, 1)
    assert records.rows[0]["ranks"] == [3, 1, 2]
    for name, message in (
        ("broken", "each of 3"),
        ("words", "a number for each reply"),
        ("lonely", "called as"),
    ):
        with pytest.raises(UserError, match=message):
            rank_all(iter(items(1)), function_labeller(f"taste.{name}"), records, 1)
    for name in ("taste.nothing", "nowhere.score", "score", ".taste.score", "math.pi"):
        with pytest.raises(UserError, match=f"labeller={name}"):
            function_labeller(name)


def test_rows_that_do_not_say_how_replies_ended_are_asked_again_too(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": f"p {i}", "replies": ["b", "c"], "ranks": [1, 2]} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rank_all(iter(items(1)), lambda drawn, _: [1, 2, 3][: len(drawn.replies)], Records(path), 1)
    assert len(Records(path).rows) == 10
    assert Records(path).agreement()[0] == 1


def test_a_file_of_other_rows_is_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(UserError, match="holds other rows"):
        Records(path)
    path.write_text("no JSON\n")
    with pytest.raises(UserError, match="line 1: no JSON"):
        Records(path)
    assert path.read_text() == "no JSON\n"
    path.write_bytes(b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(UserError, match="not UTF-8 text"):
        Records(path)
    path.write_text('{"prompt": "a", "replies": ["b", "c"], "ranks": 3}\n')
    with pytest.raises(UserError, match="line 1: it holds other rows"):
        Records(path)
    with pytest.raises(UserError, match="cannot be read"):
        Records(tmp_path)
    assert np.isfinite(Records(tmp_path / "new.jsonl").agreement()[0])
