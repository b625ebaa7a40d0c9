"""What fails in the middle of a ranking: it is said, nothing is lost, and the next try goes on."""

import json

import pytest
import torch

from src.data.comparison import Context
from src.data.comparison_reader import ComparisonReader
from src.errors import UserError
from src.page.ranking import Move
from src.ranking.collection import collect
from src.ranking.draws import Drawn, Prompt, draw
from src.ranking.records import Records
from src.ranking.session import Session, again_row, rank_all
from src.talk.assistant import Assistant
from src.talk.chat_template import jinja_template
from tests.conftest import greedy

ORIGIN = {"model": "m", "weights": "w", "seed": 1, "generation": {}, "labeller": "me"}
LONG_BEGINNING = "Be helpful. " * 8
FOREIGN = (
    "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system text') }}{% endif -%}"
    f"{LONG_BEGINNING}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
)


def item(number: int, replies=("a", "b", "c")) -> Drawn:
    return Drawn(Context((), f"question {number}"), "", replies, (True,) * len(replies))


def broken(number: int, error: Exception):
    yield from map(item, range(number))
    raise error


def first_is_best(drawn: Drawn, seed: int) -> list[int]:
    return list(range(1, len(drawn.replies) + 1))


@pytest.mark.parametrize("error", [UserError("no room"), torch.OutOfMemoryError("full")])
def test_a_draw_that_fails_is_no_end(tmp_path, error):
    session = Session(broken(1, error), Records(tmp_path / "a.jsonl"), 1)
    session.rank([1, 2, 3])
    for _ in range(3):
        with pytest.raises(type(error)):
            session.question()


@pytest.mark.parametrize("error", [UserError("no room"), torch.OutOfMemoryError("full")])
def test_the_page_says_what_failed_and_begins_anew(ranker, tmp_path, error):
    shown = ranker.play(Move(action="show"))
    whole, ranker.ahead.drawn = ranker.ahead.drawn, broken(0, error)
    ranker.prepare()  # in another thread, where nobody reads what it raises
    move = Move(action="rank", id=shown["id"], ranks=[1, 2, 3])
    with pytest.raises(type(error)):
        ranker.play(move)
    assert len(Records(tmp_path / "a.jsonl").rows) == 1
    again = ranker.play(move)
    assert "no longer asked" in again["notice"]
    assert again["question"]["messages"] != shown["question"]["messages"]
    assert "prompts left: 13" in again["status"]
    assert whole is not ranker.ahead.drawn


def test_the_page_begins_anew_with_a_file_that_somebody_has_changed(ranker, tmp_path):
    shown = ranker.play(Move(action="show"))
    row = {"prompt": "question 3", "replies": ["a", "b"], "ranks": [1, 2]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="another program has written there"):
        ranker.play(Move(action="rank", id=shown["id"], ranks=[1, 2, 3]))
    assert "prompts left: 13" in ranker.play(Move(action="show"))["status"]


@pytest.fixture
def foreign(ranker, tokenizer) -> Assistant:
    """A model whose own template refuses a system text and writes far more than ours."""
    return Assistant(ranker.load().model, tokenizer, jinja_template(FOREIGN, tokenizer))


def test_prompts_are_measured_by_the_template_that_asks_them(ranker, foreign, tmp_path):
    def tokens(text: str) -> int:
        return len(foreign.tokenizer.encode(f"{LONG_BEGINNING}<user>{text}<assistant>"))

    room = foreign.model.config.n_positions - ranker.settings.max_new_tokens
    longest = "a"
    while tokens(longest + " b") <= room:
        longest += " b"
    system = [{"role": "system", "content": "Obey."}, {"role": "user", "content": "Who?"}]
    rows = [{"prompt": "short"}, {"prompt": longest}, {"prompt": longest + " b"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": system}]))
    records = Records(tmp_path / "b.jsonl")
    found = collect(ranker.settings, ranker.data, foreign, records, 4)
    assert found.num_prompts == 2
    drawn = list(found.drawn)
    assert {one.context.prompt for one in drawn} == {"short", longest}
    (refused,) = [line for line in found.left_out if "refused" in line]
    assert refused.startswith("1 refused_by_the_chat_template, first prompt 'Who?': ")
    assert "no system text" in refused
    assert any(line.startswith("1 no_room_for_replies") for line in found.left_out)

    path.write_text(json.dumps({"messages": system}) + "\n")
    with pytest.raises(UserError, match=r"no prompt of train can be used: 1 refused_by"):
        collect(ranker.settings, ranker.data, foreign, records, 4)
    path.write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(UserError, match=r"lower rank\.max_new_tokens"):
        collect(ranker.settings, ranker.data, foreign, records, 4)


def test_a_broken_template_is_said_at_once(ranker, tokenizer, tmp_path):
    broken_template = jinja_template("{{ nothing.at.all }}", tokenizer)
    assistant = Assistant(ranker.load().model, tokenizer, broken_template)
    with pytest.raises(UserError, match="template"):
        collect(ranker.settings, ranker.data, assistant, Records(tmp_path / "b.jsonl"), 4)


def test_a_reply_that_is_cut_off_before_its_first_word_is_none(ranker, monkeypatch):
    assistant = ranker.load()
    texts = iter(["yes", " ", "no", "", "\n"])
    monkeypatch.setattr("src.ranking.draws.TextStream", lambda *_: _Stream(next(texts)))
    assistant.end_ids = frozenset()
    prompt = Prompt(Context((), "Who?"), "", [1, 2, 3])
    (drawn,) = draw(assistant, [prompt], 5, greedy(2, temperature=1.0, seed=1), 8)
    assert (drawn.replies, drawn.ended) == (("yes", "no"), (False, False))
    row = Records.columns(drawn, [1, 2]) | {"prompt": "Who?"}
    assert ComparisonReader(list(row), None, "a")(row).replies == ("yes", "no")
    texts = iter(["yes", " ", "", "", "\n", *[""] * 5])
    both = list(draw(assistant, [prompt, prompt], 5, greedy(2, temperature=1.0, seed=1), 8))
    assert [len(one.replies) for one in both] == [1, 0]


class _Stream:
    stopped = False

    def __init__(self, text: str):
        self.text = text

    def push(self, token: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def test_who_has_nothing_to_choose_from_is_not_asked_and_not_again(tmp_path):
    few = [item(0, ()), item(1, ("a",)), item(2, ("a", "a")), item(3)]
    for name in ("person", "program"):
        records = Records(tmp_path / f"{name}.jsonl")
        if name == "person":
            session = Session(iter(few), records, 1)
            assert session.question().item is few[3]
            counts = session.counts
        else:
            counts = rank_all(iter(few), first_is_best, records, 1)
        assert counts.alike == 3
        seen = Records(records.path).seen
        assert len(seen) == 3 + (name == "program")


def test_a_program_that_was_killed_before_a_second_ranking_gives_it_later(tmp_path):
    path = tmp_path / "a.jsonl"
    records = Records(path)
    records.begin(ORIGIN | {"labeller": "mine.score"})
    rank_all(map(item, range(10)), first_is_best, records, 1)
    records.close()
    notes = path.with_name(".a.notes.jsonl")
    whole = notes.read_text()
    lines = whole.splitlines(keepends=True)
    assert '"again"' in lines[-1]
    notes.write_text("".join(lines[:-1]))
    for _ in range(2):
        records = Records(path)
        rank_all(iter([]), first_is_best, records, 1)
        records.close()
        assert notes.read_text() == whole


def test_the_second_time_is_never_soon_after_the_first(tmp_path):
    asked = []
    for seed in range(30):
        records = Records(tmp_path / f"{seed}.jsonl")
        for number in range(40):
            records.rows.append({"prompt": f"question {number}"})
            if (row := again_row(records, seed)) is not None:
                asked.append((seed, row["prompt"], number - records.rows.index(row)))
    assert len(asked) == len({(seed, prompt) for seed, prompt, _ in asked}) == 120
    assert {distance for *_, distance in asked} == set(range(5, 15))
