import errno
import json
from pathlib import Path

import numpy as np
import pytest

from src.data.comparison import Context
from src.data.comparison_reader import ComparisonReader
from src.data.files.places import find_places
from src.errors import UserError
from src.ranking.draws import Drawn
from src.ranking.labellers import function_labeller, known_labeller
from src.ranking.records import Records, key_of
from src.ranking.session import Counts, Session, outcome, rank_all
from src.ranking.terminal import ask_all, read_ranks


def items(count: int, replies=("a", "b", "c")) -> list[Drawn]:
    return [
        Drawn(Context((), f"question {i}"), "f", tuple(replies), (True,) * len(replies))
        for i in range(count)
    ]


def ask(drawn, person, records: Records, asks=None) -> Counts:
    return ask_all(Session(iter(drawn), records, seed=1), asks or person, person.show)


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
    counts = ask(items(9), person, records)
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
    ask(items(9), person, Records(path))
    records = Records(path)
    assert len(records.rows) == 3
    assert len(records.seen) == 4
    path.write_bytes(path.read_bytes() + b'{"prompt": "cut o')
    assert Records(path).rows == records.rows


def test_a_person_takes_back(tmp_path):
    records = Records(tmp_path / "a.jsonl")
    person = Person({1: "u", 3: "3 3 3", 4: "u", 6: "s", 7: "u"})
    counts = ask(items(4), person, records)
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
    ask(drawn, person, records)
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
    ask(items(2), person, Records(path))
    assert len(list(tmp_path.iterdir())) == 2
    for name in (tmp_path, tmp_path / "*.jsonl"):
        assert [place.path for place in find_places(str(name), "data.path")] == [path]


def test_a_mistake_is_asked_again(tmp_path):
    records = Records(tmp_path / "a.jsonl")
    person = Person({1: "1 2", 2: "x", 3: "0 1 2", 4: ""})
    ask(items(1), person, records)
    assert person.asked == 5
    assert sum("is not a rank for each of 3 replies" in line for line in person.shown) == 4


def test_a_reply_neither_moves_the_cursor_nor_poses_as_another(tmp_path):
    records, person = Records(tmp_path / "a.jsonl"), Person({1: "1 2"})
    ask(items(1, ("bad\r  1. good", "one\n  2. two\x1b[2J")), person, records)
    shown = "\n".join(person.shown)
    assert not set(shown) & set("\r\x1b")
    assert sorted(line[:5] for line in shown.splitlines() if line.startswith("  ")) == [
        "     ",
        "  1. ",
        "  2. ",
    ]
    assert records.rows[0]["replies"] == ["bad\r  1. good", "one\n  2. two\x1b[2J"]


def test_every_tenth_is_asked_twice_and_agreement_is_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    person = Person()
    ask(items(25), person, Records(path))
    assert person.asked == 27
    assert Records(path).agreement() == (1.0, 6)
    assert len(Records(path).rows) == 25

    other = tmp_path / "b.jsonl"
    person = Person()
    records = Records(other)
    ask(items(9), person, records)
    ask(items(10)[9:], person, records, _Turning(person))
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
    counts = ask(drawn, person, records)
    assert (counts.ranked, counts.alike) == (1, 1)
    assert records.rows[0]["ranks"] == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("1 2 2", [1, 2, 2]), ("122", [1, 2, 2]), ("3,1,1", [3, 1, 1]), ("5 9 5", [1, 3, 1])],
)
def test_ranks_as_people_type_them(text, ranks):
    assert read_ranks(text, 3) == ranks


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "12", "a b c", "1 2 3 4", "0 1 2", "-1 1 1", "1" * 5000, "1 2 " + "3" * 5000],
)
def test_what_is_no_ranking(text):
    with pytest.raises(UserError, match="is not a rank for each of 3 replies") as error:
        read_ranks(text, 3)
    assert len(str(error.value)) < 120


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


def test_a_second_ranking_is_skipped_or_taken_back_like_a_first_one(tmp_path):
    records, person = Records(tmp_path / "a.jsonl"), Person({11: "s"})
    ask(items(10), person, records)
    assert person.asked == 11
    assert [note["ranks"] for note in records.notes] == [None]
    assert records.agreement()[1] == 0

    records = Records(tmp_path / "b.jsonl")
    person = Person({10: "3 2 1", 11: "u"})  # the tenth one was a slip
    ask(items(10), person, records)
    assert person.asked == 13
    assert [row["ranks"] for row in records.rows] == [[1, 2, 3]] * 10
    assert records.agreement() == (1.0, 3)

    records = Records(tmp_path / "c.jsonl")
    person = Person({11: "3 2 1", 12: "u"})  # the second ranking was: the first one stays
    ask(items(11), person, records)
    assert person.asked == 14
    assert len(records.rows) == 11
    assert records.agreement() == (1.0, 3)
    assert Records(tmp_path / "c.jsonl").notes == records.notes


def test_who_ends_at_a_second_ranking_is_asked_it_later(tmp_path):
    path = tmp_path / "a.jsonl"
    records = Records(path)
    records.begin(ORIGIN)
    ask(items(10), Person({11: "q"}), records)
    assert records.agreement()[1] == 0
    records.close()
    person = Person()
    ask([], person, Records(path))
    assert person.asked == 1
    assert Records(path).agreement()[1] == 3
    ask([], person, Records(path))
    assert person.asked == 1


ORIGIN = {"model": "m", "weights": "w", "seed": 1, "generation": {"temperature": 1.0}}


def test_replies_of_another_model_or_seed_are_said_and_noted(tmp_path):
    path = tmp_path / "a.jsonl"
    drawn = items(9)

    def session(origin, *numbers: int) -> str | None:
        records = Records(path)
        line = records.begin(origin)
        ask([drawn[number] for number in numbers], Person(), records)
        return line

    assert session(ORIGIN, 0, 1) is None
    assert session(ORIGIN, 2) is None
    line = session(ORIGIN | {"seed": 2}, 3)
    assert "a.jsonl holds other rankings: 3 of m (seed 1). New ones join" in line
    assert "name another output" in line
    line = session(ORIGIN | {"weights": "v"})
    assert "3 of m (seed 1, other weights than it has now); 1 of m (seed 2, other" in line
    assert "3 of m (seed 1, drawn in another way)" in session(ORIGIN | {"generation": {}})
    assert "1 of m (seed 2)." in session(ORIGIN, 4)
    notes = [(note["from"]["seed"], note["row"]) for note in Records(path).notes]
    assert notes == [(1, 1), (2, 4), (1, 5)]

    other = tmp_path / "b.jsonl"
    other.write_text('{"prompt": "a", "replies": ["b", "c"], "ranks": [1, 2]}\n')
    assert "1 of a model that is not noted" in Records(other).begin(ORIGIN)


def test_a_persons_rankings_and_a_programs_in_one_file_are_told_apart(tmp_path):
    path = tmp_path / "a.jsonl"
    drawn = items(40)
    program = ORIGIN | {"labeller": "sample", "noise": 1.0}

    def backwards(drawn, seed):
        return [1, 2, 3] if seed == 1 else [3, 2, 1]

    records = Records(path)
    records.begin(program)
    rank_all(iter(drawn[:15]), backwards, records, 1)
    assert records.agreement() == (0.0, 3)
    records.close()

    records = Records(path)
    line = records.begin(ORIGIN | {"labeller": "me"})
    assert "15 of m (seed 1, ranked by sample with noise=1.0)" in line
    person = Person()
    ask(drawn[15:24], person, records)
    assert (person.asked, records.agreement()) == (9, (0.0, 0))
    ask(drawn[24:25], person, records)
    assert (person.asked, records.agreement()) == (11, (1.0, 3))
    (again,) = [note for note in records.notes if note.get("labeller") == "me"]
    assert json.loads(again["again"])["prompt"] in {f"question {i}" for i in range(15, 25)}
    assert outcome(Counts(), records).endswith("asked twice, 100% of 3 pairs agree")
    records.close()
    assert Records(path).agreement() == (1.0, 3)

    records = Records(path)
    line = records.begin(program | {"noise": 0.0})
    assert (
        "15 of m (seed 1, ranked by sample with noise=1.0); 10 of m (seed 1, ranked by me" in line
    )
    assert records.agreement() == (0.0, 0)
    records.close()
    old = tmp_path / "old.jsonl"  # of a program that did not note who ranked
    old_records = Records(old)
    old_records.begin(ORIGIN)
    ask(drawn[:2], Person(), old_records)
    old_records.close()
    line = Records(old).begin(ORIGIN | {"labeller": "me"})
    assert "2 of m (seed 1, ranked by somebody who is not noted)" in line


def test_an_output_that_cannot_be_written_is_said_before_anybody_ranks(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*file is a file, not a folder"):
        Records(tmp_path / "file" / "a.jsonl")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot be written: .*: Permission denied"):
        Records(tmp_path / "a.jsonl")


def test_a_file_of_other_notes_is_left_alone(tmp_path):
    notes = tmp_path / ".a.notes.jsonl"
    for text in ('{"skipped": 3}', '{"a": 1}', '{"again": "b", "ranks": 3}', '{"from": "m"}'):
        notes.write_text('{"skipped": "x"}\n' + text + "\n")
        with pytest.raises(UserError, match=r"notes\.jsonl, line 2: no note of rankings"):
            Records(tmp_path / "a.jsonl")
    notes.write_text("no JSON\n")
    with pytest.raises(UserError, match=r"notes\.jsonl, line 1: no JSON"):
        Records(tmp_path / "a.jsonl")


def test_two_programs_do_not_overwrite_each_other(tmp_path):
    one, two = (Records(tmp_path / "a.jsonl") for _ in range(2))
    first, second = items(2)
    one.add(first, [1, 2, 3])
    with pytest.raises(UserError, match="another program writes there"):
        two.add(second, [1, 2, 3])
    one.close()
    with pytest.raises(UserError, match="another program has written there"):
        two.add(second, [1, 2, 3])
    assert (len(Records(tmp_path / "a.jsonl").rows), two.rows) == (1, [])


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    records = Records(tmp_path / "a.jsonl")
    first, second = items(2)
    records.add(first, [1, 2, 3])
    open_file = Path.open

    def full(path, mode="r", **options):
        file = open_file(path, mode, **options)
        if path == records.path and mode == "ab":
            file.write(b'{"prompt": "ha')
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be written: No space left on device"):
        records.add(second, [1, 2, 3])
    monkeypatch.undo()
    records.add(second, [3, 2, 1])
    assert [row["ranks"] for row in Records(records.path).rows] == [[1, 2, 3], [3, 2, 1]]
