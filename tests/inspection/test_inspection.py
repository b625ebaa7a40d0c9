"""The figures of a split, and a block's tokens as text that can be seen."""

import json

import numpy as np
import pytest

from src.data.sources import open_source
from src.data.tokenizer import train_tokenizer
from src.inspection.conversations import json_lines
from src.inspection.inspection import END, LengthBin, Piece, length_histogram, length_table, pieces


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


def test_a_conversation_is_one_line_for_every_reader(data_config, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a\\u2028b\\u0085c", "response": "d"}\n', encoding="utf-8")
    config = data_config(source="file", path=str(path))
    conversation, report = list(json_lines(open_source(config)))
    assert conversation.splitlines() == [conversation]
    assert json.loads(conversation)["turns"] == [["a\u2028b\x85c", "d"]]
    assert json.loads(report)["report"]["used"] == {"train": 1}
