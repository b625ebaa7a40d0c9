import json

import numpy as np
import pytest

from src.data.datamodule import ChatDataModule, open_data
from src.data.mixture import copies
from src.data.order import Batching
from tests.data.conftest import corpus_of


def corpus(num_examples: int, prompts=None):
    made = corpus_of(*[([1, 2], [0, 1])] * num_examples)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, num_examples, dtype=np.uint64) if prompts is None else prompts
    object.__setattr__(made, "prompts", hashes)
    return made


def test_weights_of_one_copy_nothing():
    assert copies(corpus(3), [1.0], seed=0) is None


@pytest.mark.parametrize("weight", [0.25, 2.5, 3.0, 0.001])
def test_a_weight_is_epochs_and_its_fraction_a_share_of_the_rows(weight):
    counts = copies(corpus(4000), [weight], seed=1)
    assert set(counts.tolist()) <= {int(weight), int(weight) + 1}
    assert counts.mean() == pytest.approx(weight, abs=0.03)
    assert (copies(corpus(4000), [weight], seed=1) == counts).all()
    if weight != int(weight):
        assert (copies(corpus(4000), [weight], seed=2) != counts).any()


def test_rows_of_one_prompt_are_chosen_apart():
    counts = copies(corpus(4000, np.full(4000, 7, dtype=np.uint64)), [0.5], seed=0)
    assert counts.mean() == pytest.approx(0.5, abs=0.03)


def test_a_row_is_chosen_whatever_other_rows_there_are():
    whole = corpus(1000)
    fewer = corpus(500, whole.prompts[::2])
    assert (copies(whole, [0.5], seed=3)[::2] == copies(fewer, [0.5], seed=3)).all()


@pytest.fixture
def data(tmp_path, data_config, tokenizer) -> ChatDataModule:
    for name, count in (("a", 200), ("b", 60)):
        rows = [{"prompt": f"{name} asks {i}", "response": f"{i} {name}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entries = [
        {"path": str(tmp_path / "a.jsonl")},
        {"path": str(tmp_path / "b.jsonl"), "weight": 3},
    ]
    config = data_config(source="file", sources=entries, validation_fraction=0.2)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    source, loaded = open_data(config, str(tmp_path / "tokenizer"), 300)
    made = ChatDataModule(config, loaded, source, block_size=64, batching=Batching(4, 1, 2), seed=0)
    made.setup()
    return made


def test_the_shares_count_rows_as_often_as_they_are_seen(data):
    train = data.splits["train"]
    origins = train.corpus.sources[train.corpus_index]
    a, b = data.shares()
    assert (a.label, a.weight, b.label, b.weight) == ("a", 1.0, "b", 3.0)
    assert a.rows == data.report.used["train"] - len(set(train.corpus_index[origins == 1]))
    assert b.rows == 3 * len(set(train.corpus_index[origins == 1]))
    assert a.tokens + b.tokens == train.num_tokens
    assert a.supervised_tokens + b.supervised_tokens == train.num_targets
    held_out = data.shares("validation")
    assert sum(share.rows for share in held_out) == data.report.used["validation"]


def test_each_source_is_validated_by_itself_and_all_of_them_are_all(data):
    loaders = data.val_dataloader()
    blocks = data.by_source("validation")
    assert list(blocks) == ["a", "b"]
    assert len(loaders) == 2
    whole = data.splits["validation"]
    assert sum(part.num_targets for part in blocks.values()) == whole.num_targets
    labels = [sum(len(batch["labels"]) for batch in loader) for loader in loaders]
    assert labels == [part.num_targets for part in blocks.values()]
