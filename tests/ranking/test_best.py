"""The best reply to each prompt, kept as a row to learn from."""

import json

import pytest
import torch

from src.data.comparison import Context
from src.data.conversation import RowReader
from src.data.tokenizer import train_tokenizer
from src.model.scalar import ScalarGPT2
from src.rank import rank
from src.ranking.best import BestReplies, keep_best
from src.ranking.draws import Drawn
from src.ranking.labellers import exact_labeller, reward_labeller
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import save_model_folder
from src.talk.reward_folder import load_reward_folder, save_reward_folder
from tests.conftest import TEXTS, greedy
from tests.model.conftest import random_model, tiny_config

PLAIN = Context((), "What is 1 + 1?", "", "")
LONG = Context((("Hello", "Hi."),), "And you?", "Be brief.", "")


def longest(drawn: Drawn, seed: int) -> list[int]:
    """A labeller that likes long replies."""
    lengths = [len(reply) for reply in drawn.replies]
    return [1 + sum(other > length for other in lengths) for length in lengths]


@pytest.fixture
def folders(tmp_path):
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=320)
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=96))
    with torch.no_grad():  # so that some replies end
        end = model.wte.weight[tokenizer.end_id]
        model.ln_f.bias += 3 * end / end.norm()
    save_model_folder(tmp_path / "sft", model, tokenizer, greedy(8))
    save_reward_folder(tmp_path / "rm/reward_model", ScalarGPT2.of(model), tokenizer, 0.0)
    rows = [{"prompt": f"What is {i} + {i}?", "response": str(2 * i)} for i in range(12)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    return tmp_path


@pytest.fixture
def started(door, folders):
    def run(*arguments: str):
        usual = [
            f"model_path={folders / 'sft'}",
            "data=file",
            f"data.path={folders / 'rows.jsonl'}",
        ]
        usual += ["data.validation_fraction=0", "data.test_fraction=0", "max_new_tokens=8"]
        usual += ["num_replies=6", "device=cpu", f"output={folders / 'best.jsonl'}", "keep=best"]
        return door(rank, "rank", *usual, *arguments)

    return run


def test_a_row_is_the_best_of_the_replies_that_end(tmp_path):
    records = BestReplies(tmp_path / "best.jsonl")
    drawn = [
        Drawn(PLAIN, "sums", ("two", "it is two, cut off", "it is two"), (True, False, True)),
        Drawn(LONG, "", ("fine", "fine", ""), (True, True, True)),
        Drawn(PLAIN._replace(prompt="Who?"), "", ("I am", ""), (False, True)),
    ]
    line = keep_best(iter(drawn), longest, records, 1)
    assert line.startswith("2 kept, 1 prompts without a reply that comes to its end left out; 2 in")
    rows = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert rows[0] == {"prompt": "What is 1 + 1?", "response": "it is two", "family": "sums"}
    read = RowReader([], None, "best")(rows[1])
    assert read.turns == (("Hello", "Hi."), ("And you?", "fine"))
    assert read.system == "Be brief."
    again = BestReplies(tmp_path / "best.jsonl")
    assert len(again.rows) == 2
    assert len(again.seen) == 3


def test_a_reward_model_chooses_and_the_same_command_goes_on(started, folders):
    choice = f"labeller={folders / 'rm/reward_model'}"
    code, _, errors = started(choice, "max_prompts=5")
    assert code == 0, errors
    output = folders / "best.jsonl"
    first = output.read_text()
    code, _, errors = started(choice, "batch_size=3")
    assert code == 0, errors
    assert f"{len(first.splitlines())} ranked before" in errors
    whole = output.read_text()
    assert whole.startswith(first)
    assert len(whole) > len(first)
    output.unlink()
    (folders / ".best.notes.jsonl").unlink()
    started(choice)
    assert output.read_text() == whole
    ranked = folders / "all.jsonl"
    code, _, errors = started(choice, "keep=all", f"output={ranked}")
    assert code == 0, errors
    rankings = {row["prompt"]: row for row in map(json.loads, ranked.read_text().splitlines())}
    for row in map(json.loads, whole.splitlines()):
        found = rankings[row["prompt"]]
        whole_ones = [
            (rank, reply)
            for rank, reply, ended in zip(
                *(found[k] for k in ("ranks", "replies", "ended")), strict=True
            )
            if ended and reply
        ]
        assert row["response"] == min(whole_ones)[1]


def test_a_reward_models_ranks_are_those_of_each_reply_alone(folders):
    model, tokenizer = load_reward_folder(str(folders / "rm/reward_model"))
    base = random_model(tiny_config(vocab_size=320, n_positions=96))
    assistant = Assistant(base, train_tokenizer(TEXTS * 3, vocab_size=320))
    replies = ("It is 2.", "It is 2.", "Paris", "")
    drawn = Drawn(PLAIN, "", replies, (True, False, True, True))
    prompt = assistant.template([Message("user", PLAIN.prompt)])
    scores = []
    for reply, ended in zip(replies, drawn.ended, strict=True):
        ids = prompt + (tokenizer.encode(f" {reply}") if reply else [])
        ids += [tokenizer.end_id] * ended
        with torch.no_grad():
            scores.append(float(model.values(model(torch.tensor([ids])))[0, -1]))
    expected = [1 + sum(other > score for other in scores) for score in scores]
    assert sorted(expected) == [1, 2, 3, 4]
    rank_of = reward_labeller(str(folders / "rm/reward_model"), assistant)
    assert rank_of(drawn, 1) == expected


def test_exact_match_likes_the_rows_own_reply():
    drawn = Drawn(PLAIN, "", ("2", "2", "3"), (True, False, True))
    assert exact_labeller({PLAIN: " 2 "})(drawn, 1) == [1, 2, 2]


def test_a_wrong_reply_is_not_kept_for_want_of_a_right_one(tmp_path):
    records, others = BestReplies(tmp_path / "best.jsonl"), PLAIN._replace(prompt="Who?")
    drawn = [
        Drawn(PLAIN, "", ("3", "2", "4"), (True, True, True)),
        Drawn(others, "", ("me", "you", "them"), (True, True, False)),
    ]
    line = keep_best(iter(drawn), exact_labeller({PLAIN: "2", others: "them"}), records, 1)
    assert line.startswith("1 kept, 1 prompts without a right reply left out; 1 in")
    assert [row["response"] for row in records.rows] == ["2"]
    assert len(records.seen) == 2


def test_a_persons_function_chooses(started, folders):
    (folders / "long_is_best.py").write_text(
        "def score(prompt, replies): return [len(reply) for reply in replies]"
    )
    code, _, errors = started("labeller=long_is_best.score")
    assert code == 0, errors
    assert "kept" in errors


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("labeller=me",), "keep=best: a program chooses the best: name it with labeller="),
        (("labeller=SFT",), "labeller="),
        (("labeller=nowhere/reward_model",), "labeller=nowhere/reward_model"),
        (("labeller=golf",), "or a function's dotted name"),
        (("keep=some",), "keep=some: must be one of all, best"),
        (("labeller=exact_match", "data.path=ASKED"), "no row of train has a reply of its own"),
        (("labeller=exact_match", "output=RANKED"), "it holds other rows; name a new file"),
    ],
)
def test_a_mistake_is_one_line(started, folders, arguments, what):
    (folders / "asked.jsonl").write_text('{"prompt": "Who?"}\n')
    row = {"prompt": "Who?", "replies": ["I", "you"], "ranks": [1, 2]}
    (folders / "ranked.jsonl").write_text(json.dumps(row) + "\n")
    named = {"SFT": "sft", "ASKED": "asked.jsonl", "RANKED": "ranked.jsonl"}
    for name, file in named.items():
        arguments = [argument.replace(name, str(folders / file)) for argument in arguments]
    code, _, errors = started(*arguments)
    assert code == 2, errors
    assert errors.splitlines()[-1].startswith("error: ")
    assert what in errors.splitlines()[-1]
    assert not (folders / "best.jsonl").exists()
