"""`python -m src.inspect_data` shows what is taught: every figure here was counted by hand.

The smallest vocabulary, 257, has a token for each byte: "### Prompt: p\\n### Response: r" and its
end token are 28 tokens and the bytes of p and r, of which the bytes of r and 2 are taught.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from rich.cells import cell_len

from src.cli import CONF
from src.data.inspection import END, LengthBin, Piece, length_histogram, length_table, pieces
from src.data.tokenizer import train_tokenizer
from src.data.viewer import document_text, line_ends
from src.errors import UserError
from src.inspect_data import inspect_data

MARKUP = "[bold]x[/bold]"
TRAIN = [
    {"prompt": MARKUP, "response": "yes"},  # 45 tokens, 5 taught
    {"prompt": "", "response": "dropped"},
    {"prompt": "é🙂", "response": "🙂 ok"},  # 41 tokens, 9 taught
    {"prompt": "dropped", "response": ""},
    {"prompt": "", "response": "dropped"},
    {"prompt": "p" * 80, "response": "never"},  # 113 tokens: no room for the response
    {"prompt": "long", "response": "🙂" * 15},  # 92 tokens; cut to 80, 50 taught
    {"prompt": "a", "response": "b"},  # 30 tokens, 3 taught
]
VALIDATION = [{"prompt": "a", "response": "c"}, {"prompt": "z", "response": "c"}]  # 30 + 30


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
    where = ["first:", str(tmp_path / "train.jsonl"), "row"]
    assert numbers(lines, "dropped: empty_prompt") == ["2", *where, "2"]
    assert numbers(lines, "dropped: empty_response") == ["1", *where, "4"]

    assert numbers(lines, "examples") == ["4", "2", "0"]
    assert numbers(lines, "cut to fit a block") == ["1", "0", "0"]
    assert numbers(lines, "dropped: no room for response") == ["1", "0", "0"]
    assert numbers(lines, "with a prompt that train has too") == ["1", "0"]
    assert numbers(lines, "tokens ") == ["196", "60", "0"]  # 80 + 45 + 41 + 30
    assert numbers(lines, "blocks ") == ["3", "1", "0"]  # 80 | 45 + 30 | 41
    assert numbers(lines, "positions that hold a token") == ["81.67%", "75.00%", "0.00%"]
    assert numbers(lines, "tokens that are taught") == ["34.2%", "10.0%", "0.0%"]  # 67 of 196
    assert numbers(lines, "documents a block") == ["1.3", "2.0", "0.0"]

    # 30, 41, 45, 92 and 113 tokens
    described = {name: numbers(lines, name)[0] for name in ("count", "mean", "std", "min", "max")}
    assert described == {"count": "5", "mean": "64.2", "std": "36.2", "min": "30", "max": "113"}
    assert [numbers(lines, name)[0] for name in ("25%", "50%", "75%")] == ["41.0", "45.0", "92.0"]


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


def test_blog_mode_shows_the_scored_header(overrides, capsys, monkeypatch):
    text = "\n".join(shown([*overrides, "data.supervise=blog"], capsys, monkeypatch))
    assert f"⟦###·Response:·yes{END}⟧" in text


def test_the_embedded_corpus_is_shown(tmp_path, capsys, monkeypatch):
    given = ["data=sample", "data.max_rows=60", f"data.corpus_dir={tmp_path}", "model=tiny"]
    lines = shown(given, capsys, monkeypatch)
    assert numbers(lines, "used for train") == ["60"]
    assert numbers(lines, "count")[0] == "60"
    assert sum(line.startswith("  block ") for line in lines) == 3


@pytest.mark.parametrize("given", ["num_blocks=-1", "seed=-1", "data.block_size=1"])
def test_a_mistake_is_named(given, overrides, capsys, monkeypatch):
    with pytest.raises(UserError, match=given):
        shown([*overrides, given], capsys, monkeypatch)


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


def test_length_table_is_that_of_pandas():
    table = length_table(np.array([10, 2, 4, 4]))
    assert table.pop("std") == pytest.approx(12**0.5)  # 25 + 9 + 1 + 1 over 3
    expected = {"count": 4, "mean": 5, "min": 2, "25%": 3.5, "50%": 4, "75%": 5.5, "max": 10}
    assert table == expected
    assert np.isnan(length_table(np.array([7]))["std"])
    with pytest.raises(ValueError, match="no examples"):
        length_table(np.array([], dtype=int))


def test_histogram_has_round_bins_and_an_open_end():
    lengths = np.array([13, 20, 29, 30, 59, *[41] * 995, 4000])
    assert length_histogram(lengths, max_bins=5) == [
        LengthBin(10, 20, 1),
        LengthBin(20, 30, 2),
        LengthBin(30, 40, 1),
        LengthBin(40, None, 997),
    ]
    assert length_histogram(np.array([8, 8])) == [LengthBin(8, None, 2)]
    assert [str(LengthBin(*bounds, 0)) for bounds in ((5, 6), (10, 20), (1000, None))] == [
        "5",
        "10 - 19",
        "1,000 and more",
    ]


def test_pieces_join_only_the_tokens_of_one_character():
    tokenizer = train_tokenizer([], 257)
    ids = np.array([*tokenizer.encode("a 🙂\x1b"), tokenizer.end_id])
    taught = np.arange(len(ids)) >= 2
    assert list(pieces(ids, taught, tokenizer)) == [
        Piece("a", False),
        Piece("·", False),
        Piece("🙂", True, 4),
        Piece("\\x1b", True),
        Piece(END, True),
    ]


def test_lines_fit_and_lose_nothing():
    text = f"###·Prompt:·a[b]·{'w' * 25}·日本語日本語日本語↵↵next⟦··two{END}⟧"
    for width in (2, 7, 12, 40):
        ends = line_ends(text, width)
        lines = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
        assert "".join(lines) == text
        assert max(cell_len(line) for line in lines) <= width
        assert all(lines)
    assert any(line.endswith("↵↵") for line in lines)


def test_colours_replace_the_brackets():
    document = [Piece("[b]", False), Piece("·yes", True), Piece(END, True)]
    assert document_text(document, coloured=True).plain == f"[b]·yes{END}"
    assert document_text(document, coloured=False).plain == f"[b]⟦·yes{END}⟧"
