"""What data.join_turns is for: a model of single-turn rows that can be asked a second question.

The figures: ``python -m pytest -m whole -s tests/training/test_second_turns.py``.
"""

import gzip
import json
from itertools import islice

import pytest
import torch

from src.data.conversation import Conversation
from src.data.template import encode_examples
from src.data.words import WordEncoder
from src.talk.model_folder import load_model_folder
from src.training.start import start_run
from tests.conftest import shared_data
from tests.training.conftest import settings

pytestmark = pytest.mark.whole

NUM_TRAIN, NUM_PAIRS = 6_000, 200
RUN = (
    "experiment=quickstart",
    "hardware=auto",
    "data=file",
    "data.validation_fraction=0.01",
    "exact_match=false",
    "sample_prompts=[]",
    "max_steps=400",
    "batch_size=4",
    "micro_batch_size=4",
)
LONGEST = 200  # characters of a held-out row, so that a pair fits


def loss(folder, pairs: list[Conversation]) -> tuple[float, float]:
    """Return the loss of first and of second responses, in nats a token."""
    model, tokenizer, *_ = load_model_folder(str(folder / "model"))
    encoder = WordEncoder(tokenizer)
    sums, counts = [0.0, 0.0], [0, 0]
    for pair in pairs:
        example = encode_examples([pair], encoder, "responses")
        ids = torch.from_numpy(example.input_ids.astype("int64"))
        with torch.no_grad():
            scores = model.logits(model(ids[None]))[0, :-1]
        losses = torch.nn.functional.cross_entropy(scores, ids[1:], reduction="none")
        taught = torch.from_numpy(example.supervised)[1:]
        first = (
            len(
                encode_examples(
                    [pair._replace(turns=pair.turns[:1])], encoder, "responses"
                ).input_ids
            )
            - 1
        )
        for turn, part in enumerate((slice(0, first), slice(first, None))):
            sums[turn] += losses[part][taught[part]].sum().item()
            counts[turn] += int(taught[part].sum())
    return sums[0] / counts[0], sums[1] / counts[1]


def test_joined_rows_teach_the_second_turn_and_cost_the_first_little(tmp_path):
    with gzip.open(shared_data("alpaca.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, NUM_TRAIN + 4000)]
    train = tmp_path / "train.jsonl"
    train.write_text("\n".join(map(json.dumps, rows[:NUM_TRAIN])), encoding="utf-8")
    held_out = [
        (" ".join(filter(None, (row["instruction"], row["input"]))), row["output"])
        for row in rows[NUM_TRAIN:]
        if row["output"] and len(row["instruction"] + row["input"] + row["output"]) < LONGEST
    ]
    pairs = [Conversation((held_out[i], held_out[i + NUM_PAIRS])) for i in range(NUM_PAIRS)]
    figures = {}
    for share in (0.0, 0.5):
        folder = tmp_path / f"share_{share}"
        folder.mkdir()
        overrides = [
            *RUN,
            f"data.path='{train}'",
            f"data.corpus_dir='{tmp_path / 'corpora'}'",
            f"data.join_turns={share}",
        ]
        start_run(*settings(*overrides), folder, overrides)
        figures[share] = loss(folder, pairs)
        first, second = figures[share]
        print(f"\njoin_turns={share}: loss of first turns {first:.3f}, of second {second:.3f}")
    assert figures[0.5][1] < figures[0.0][1]
    assert figures[0.5][0] < figures[0.0][0] + 0.05
