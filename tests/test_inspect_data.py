"""`python -m src.inspect_data` shows what is taught: every figure here was counted by hand.

The smallest vocabulary, 257, has a token for each byte: "### Prompt: p\\n### Response: r" and its
end token are 28 tokens and the bytes of p and r, of which the bytes of r and 2 are taught.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src.command.cli import CONF
from src.data.datamodule import ChatDataModule
from src.errors import UserError
from src.inspect_data import inspect_data
from src.inspection.inspection import END
from src.model.pretrained import save_pretrained
from src.training.start import start_run
from tests.conftest import SHARED_DATA
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import settings

GPT2_TOKENIZER = SHARED_DATA / "gpt2-tokenizer"

MARKUP = "[bold]x[/bold]"
TRAIN = [
    {"prompt": MARKUP, "response": "yes", "topic": "[red]"},  # 45 tokens, 5 taught
    {"prompt": "", "response": "dropped"},
    {"prompt": "é🙂", "response": "🙂 ok"},  # 41 tokens, 9 taught
    {"prompt": "dropped", "response": ""},
    {"prompt": "", "response": "dropped"},
    {"prompt": "p" * 80, "response": "never"},  # 113 tokens: no room for the response
    {"prompt": "long", "response": "🙂" * 15},  # 92 tokens; cut to 80, 50 taught
    {"prompt": "a", "response": "b"},  # 30 tokens, 3 taught
]
VALIDATION = [{"prompt": "a", "response": "c"}, {"prompt": "A", "response": "c"}]  # 30 + 30


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    files = {"train": TRAIN, "validation": VALIDATION}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "data=file",
        f"data.path={tmp_path / 'train.jsonl'}",
        f"data.validation_split={tmp_path / 'validation.jsonl'}",
        "data.test_fraction=0",
        f"data.corpus_dir={tmp_path / 'corpora'}",
        "data.block_size=80",
        "model=tiny",
        "model.vocab_size=257",
    ]


def shown(overrides: list[str], capsys: pytest.CaptureFixture, monkeypatch) -> list[str]:
    """Return the lines that the door prints, white space at their ends left out."""
    monkeypatch.setenv("COLUMNS", "160")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("inspect_data", overrides)
    inspect_data(config)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def numbers(lines: list[str], name: str) -> list[str]:
    """Return what stands behind ``name`` in the first line that begins with it."""
    return next(line for line in lines if line.strip().startswith(name)).split(name)[1].split()


def test_all_figures_of_a_small_file_are_right(overrides, capsys, monkeypatch, tmp_path):
    lines = shown(overrides, capsys, monkeypatch)

    assert numbers(lines, "read") == ["10"]  # both files
    assert numbers(lines, "used for train") == ["5"]
    assert numbers(lines, "used for validation") == ["2"]
    assert numbers(lines, "used for test") == ["0"]
    where = ["first:", f"{tmp_path / 'train.jsonl'},", "line"]
    assert numbers(lines, "dropped: empty_prompt") == [
        "2",
        *where,
        "2:",
        *'before "dropped"'.split(),
    ]
    assert numbers(lines, "dropped: empty_response") == [
        "1",
        *where,
        "4:",
        *'after "dropped"'.split(),
    ]
    assert numbers(lines, "not used: column topic") == ["1", *where, "1"]

    assert numbers(lines, "examples") == ["4", "2", "0"]
    assert numbers(lines, "cut to fit a block") == ["1", "0", "0"]
    assert numbers(lines, "dropped: no room for response") == ["1", "0", "0"]
    assert numbers(lines, "with a prompt that train has too") == ["1", "0"]
    assert numbers(lines, "... but for case, spaces and signs") == ["2", "0"]
    assert numbers(lines, "tokens ") == ["196", "60", "0"]  # 80 + 45 + 41 + 30
    assert numbers(lines, "blocks ") == ["3", "1", "0"]  # 80 | 45 + 30 | 41
    assert numbers(lines, "positions that hold a token") == ["81.67%", "75.00%", "0.00%"]
    assert numbers(lines, "tokens that are taught") == ["34.2%", "10.0%", "0.0%"]  # 67 of 196
    assert numbers(lines, "documents a block") == ["1.3", "2.0", "0.0"]

    # 30, 41, 45, 92 and 113 tokens
    described = {name: numbers(lines, name)[0] for name in ("count", "mean", "std", "min", "max")}
    assert described == {"count": "5", "mean": "64.2", "std": "36.2", "min": "30", "max": "113"}
    assert [numbers(lines, name)[0] for name in ("25%", "50%", "75%")] == ["41.0", "45.0", "92.0"]


def test_prompts_are_shown_as_scored_at_their_weight(overrides, capsys, monkeypatch):
    """Of 196 tokens 67 are taught; nothing predicts the first token of each of four examples."""
    lines = shown([*overrides, "data.prompt_loss_weight=0.1"], capsys, monkeypatch)
    assert numbers(lines, "tokens that are taught")[0] == f"{67 / 196:.1%}"
    assert numbers(lines, "tokens of prompts at weight 0.1") == [
        f"{125 / 196:.1%}",
        *("not scored not scored".split()),
    ]
    text = "\n".join(lines)
    assert "⟨prompt at weight 0.1⟩" in text
    assert "#⟨##·Prompt:·a↵" in text
    assert "###·Response:⟩⟦·b" in text
    off = shown([*overrides, "data.isolate_documents=false"], capsys, monkeypatch)
    assert "  each document of a block attends to all before it (isolate_documents=false)" in off
    assert not [line for line in lines if "isolate_documents" in line]


def test_blocks_show_what_is_taught_without_colours(overrides, capsys, monkeypatch):
    lines = shown(overrides, capsys, monkeypatch)
    text = "\n".join(lines)

    assert "⟦taught⟧" in text  # the legend
    assert f"###·Prompt:·{MARKUP}↵" in text
    assert f"###·Response:⟦·yes{END}⟧" in text
    assert "###·Prompt:·é🙂↵" in text
    assert f"###·Response:⟦·🙂·ok{END}⟧" in text
    assert f"###·Response:⟦·{'🙂' * 12}\ufffd⟧" in text  # cut inside a character
    assert {line.strip() for line in lines if "padding" in line} == {
        "│ · 5 padding",
        "│ · 39 padding",
    }
    assert "2 documents, 75 tokens, 8 taught" in text
    assert "never" not in text


def test_num_blocks_decides_how_many_blocks_are_shown(overrides, capsys, monkeypatch):
    for given, expected in (("0", 0), ("2", 2), ("9", 3)):
        lines = shown([*overrides, f"num_blocks={given}"], capsys, monkeypatch)
        assert sum(line.startswith("  block ") for line in lines) == expected


def test_unpacked_blocks_hold_one_document(overrides, capsys, monkeypatch):
    lines = shown([*overrides, "data.packing=false", "num_blocks=9"], capsys, monkeypatch)
    assert numbers(lines, "documents a block")[0] == "1.0"
    assert sum(" 1 document, " in line for line in lines) == 4


def test_article_mode_shows_the_scored_header(overrides, capsys, monkeypatch):
    text = "\n".join(shown([*overrides, "data.supervise=article"], capsys, monkeypatch))
    assert f"⟦###·Response:·yes{END}⟧" in text


def test_the_embedded_corpus_is_shown(tmp_path, capsys, monkeypatch):
    given = ["data=sample", "data.max_rows=60", f"data.corpus_dir={tmp_path}", "model=tiny"]
    lines = shown(given, capsys, monkeypatch)
    assert numbers(lines, "used for train") == ["60"]
    assert numbers(lines, "count")[0] == "60"
    assert sum(line.startswith("  block ") for line in lines) == 3


def test_json_holds_what_is_read_and_the_report(overrides, capsys, monkeypatch, tmp_path):
    lines = shown([*overrides, "format=json", "data.max_rows=2"], capsys, monkeypatch)
    *conversations, last = map(json.loads, lines)
    expected = {"system": "", "opening": "", "taught": [True]}
    assert conversations[:2] == [
        {**expected, "turns": [[MARKUP, "yes"]], "split": "train"},
        {**expected, "turns": [["é🙂", "🙂 ok"]], "split": "train"},
    ]
    report = last["report"]
    assert report["read"] == 10
    assert report["used"] == {"train": 2, "validation": 2}
    assert report["dropped"] == {"empty_prompt": 2, "empty_response": 1, "over_max_rows": 3}
    assert report["first_dropped"]["empty_response"].startswith(
        f"{tmp_path / 'train.jsonl'}, line 4"
    )
    assert report["unused"] == {"column topic": 1}
    assert report["shared_prompts"] == {"validation": {"exactly": 0, "nearly": 0}}


@pytest.mark.parametrize("given", ["num_blocks=-1", "seed=-1", "data.block_size=1", "format=xml"])
def test_a_mistake_is_named(given, overrides, capsys, monkeypatch):
    with pytest.raises(UserError, match=given):
        shown([*overrides, given], capsys, monkeypatch)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(overrides):
    command = [sys.executable, "-m", "src.inspect_data", *overrides]
    door = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CONF.parent
    )
    assert door.stdout is not None
    door.stdout.close()
    assert door.stderr is not None
    assert door.stderr.read() == ""
    assert door.wait() == 141


@pytest.mark.parametrize("block_size", ["null", "64"])
def test_its_blocks_are_those_of_a_training_from_a_model_of_other_positions(
    block_size, overrides, tmp_path, gpt2_tokenizer, monkeypatch, capsys
):
    """Positions and blocks are the folder's, whatever ``model.n_positions`` says."""
    folder = tmp_path / "base"
    folder.mkdir()
    shape = {"vocab_size": 50257, "n_layer": 1, "n_embd": 16, "n_head": 2}
    save_pretrained(random_model(tiny_config(**shape, n_positions=40)), folder, 50256)
    gpt2_tokenizer.save(folder)
    model = [f"model.pretrained={folder}", f"model.tokenizer={folder}"]
    own = [o for o in overrides if not o.startswith(("model", "data.block_size"))]
    own += [*model, f"data.block_size={block_size}"]
    asked = {}

    def keep(cls, *args, **options):
        asked.setdefault(cls, []).append((options["block_size"], options["max_length"]))
        raise UserError("enough")

    monkeypatch.setattr(ChatDataModule, "__init__", lambda self, *a, **o: keep("data", *a, **o))
    with pytest.raises(UserError, match="enough"):
        shown(own, capsys, monkeypatch)
    with pytest.raises(UserError, match="enough"):
        start_run(*settings(*own, "max_steps=1"), tmp_path / "run", [])
    assert asked["data"] == [(40 if block_size == "null" else 64, 40)] * 2


def test_a_block_far_longer_than_the_models_positions_is_refused(overrides, capsys, monkeypatch):
    with pytest.raises(UserError, match="64 times the 256 positions"):
        shown([*overrides, "data.block_size=100000"], capsys, monkeypatch)


def test_a_model_that_the_hub_does_not_give_is_said(overrides, capsys, monkeypatch):
    own = [*overrides, "model.pretrained=nobody/has-this", f"model.tokenizer={GPT2_TOKENIZER}"]
    if not GPT2_TOKENIZER.exists():
        pytest.skip(f"{GPT2_TOKENIZER} is not here")
    monkeypatch.setenv("COLUMNS", "160")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        inspect_data(compose("inspect_data", own))
    assert "warning: these are blocks for model.n_positions=256: " in capsys.readouterr().err


RANKED = [
    {"prompt": "a", "chosen": "yes", "rejected": "no", "margin": 2},
    {"prompt": "b", "replies": ["x", "y", "z"], "ranks": [2, 2, 1], "ended": [False, True, True]},
    {"prompt": "c", "replies": ["x", "y"], "ranks": [1, 1]},
]


@pytest.fixture
def ranked(overrides, tmp_path) -> list[str]:
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in RANKED))
    kept = [o for o in overrides if not o.startswith(("data.path", "data.validation_split"))]
    return [*kept, f"data.path={path}", "data.validation_fraction=0", "rows=comparisons"]


def test_comparisons_are_shown_by_prompt_with_their_ranks(ranked, capsys, monkeypatch):
    lines = shown([*ranked, "data.block_size=200"], capsys, monkeypatch)
    text = "\n".join(lines)
    assert "dropped: no_preference" in text
    assert "not used: column margin" in text
    assert next(line for line in lines if "replies are compared" in line).split()[-3:] == [
        *("2", "0", "0"),
    ]
    start = next(i for i, line in enumerate(lines) if "by rank" in line)
    block = [line.strip() for line in lines[start:]]
    first, second = (i for i, line in enumerate(block) if "by rank" in line)
    assert "prompt 1" in block[first]
    assert "prompt 2" in block[second]
    ranks = [line[:2] for line in block if line[:1].isdigit() and "│" in line]
    assert ranks in (["2.", "2.", "1.", "1.", "2."], ["1.", "2.", "2.", "2.", "1."])
    assert "⟦·x⟧" in text
    assert f"⟦·z{END}⟧" in text


def test_comparisons_as_json(ranked, capsys, monkeypatch):
    *rows, report = map(json.loads, shown([*ranked, "format=json"], capsys, monkeypatch))
    assert rows == [
        {
            **{"prompt": "a", "replies": ["yes", "no"], "ranks": [1, 2]},
            **{"ended": [True, True], "split": "train"},
        },
        {**RANKED[1], "split": "train"},
    ]
    assert report["report"]["dropped"] == {"no_preference": 1}
