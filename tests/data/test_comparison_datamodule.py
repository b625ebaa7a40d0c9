import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.data.comparison_datamodule import ComparisonDataModule
from src.data.comparison_reader import ComparisonReader
from src.data.conversation import Conversation
from src.data.datamodule import ChatDataModule
from src.data.opening import open_data
from src.data.order import Batching
from src.data.report import RowReport
from src.data.sources import open_source
from src.data.template import encode_examples
from src.data.words import WordEncoder
from src.errors import UserError


def rows(count: int) -> list[dict]:
    """Rankings of two to four replies; every third has one that was cut off."""
    rng = np.random.default_rng(count)
    found = []
    for i in range(count):
        size = 2 + i % 3
        found.append(
            {
                "prompt": f"question {i}",
                "replies": [
                    f"answer {k} {'more ' * int(n)}end"
                    for k, n in enumerate(rng.integers(0, 4, size))
                ],
                "ranks": [1, *rng.integers(2, 4, size - 1).tolist()],
                "ended": [True, *[i % 3 > 0] * (size - 1)],
            }
        )
    return found


@pytest.fixture
def make(tmp_path, data_config, tokenizer):
    def data_module(written, batch_size=4, micro=2, kind=ComparisonDataModule, **changes):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in written))
        config = data_config(**{"source": "file", "path": str(path), "block_size": 256} | changes)
        data = kind(
            config,
            tokenizer,
            open_source(config),
            block_size=config.block_size or 64,
            max_length=64,
            batching=Batching.of(batch_size, 1, micro),
            seed=1,
        )
        data.setup()
        return data

    return data_module


def test_each_reply_is_rendered_by_the_one_template(make, tokenizer):
    """A reply that was cut off has no end token."""
    written = rows(12)
    written[5] = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me."},
            {"role": "user", "content": "Hi"},
        ],
        "replies": ["a", ""],
        "ranks": [2, 1],
        "ended": [True, True],
    }
    data = make(written)
    corpus = data.splits["train"].corpus
    number = 0
    for row in written:
        for reply, rank, ended in zip(row["replies"], row["ranks"], row["ended"], strict=True):
            example = corpus.example(number)
            context = f"### Prompt: {row.get('prompt')}\n### Response:"
            if "messages" in row:
                context = (
                    "Be brief.\n\n### Prompt: Who?\n### Response: Me.<|endoftext|>"
                    "### Prompt: Hi\n### Response:"
                )
            text = context + (f" {reply}" if reply else "") + "<|endoftext|>" * ended
            assert tokenizer.decode(example.input_ids.tolist()) == text
            taught = tokenizer.decode(example.input_ids[example.supervised].tolist())
            assert taught == (f" {reply}" if reply else "") + "<|endoftext|>" * ended
            assert corpus.firsts[number] == (reply is row["replies"][0])
            assert corpus.ranks[number] == 1 + sum(other < rank for other in row["ranks"])
            number += 1
    assert number == len(corpus) == corpus.units[-1]


def test_a_conversation_is_encoded_as_before(tokenizer):
    """The ids of a reply that ended are those of the same row of fine-tuning."""
    row = Conversation((("Hi", "Ho"),))
    ids = encode_examples([row], WordEncoder(tokenizer), "responses").input_ids
    assert tokenizer.decode(ids.tolist()) == "### Prompt: Hi\n### Response: Ho<|endoftext|>"


def test_the_report_counts_rows_and_groups(make):
    written = [*rows(30), {"prompt": "x", "replies": ["a", "b"], "ranks": [1, 1]}]
    written.append({"prompt": "long", "chosen": "word " * 100, "rejected": "short"})
    data = make(written)
    train = data.splits["train"]
    assert data.report.used == {"train": 31}
    assert data.report.dropped == {"no_preference": 1}
    assert (train.num_targets, train.num_without_room, train.num_cut) == (30, 1, 0)
    assert train.num_examples == sum(len(row["replies"]) for row in rows(30))
    pairs = [len(blocks_pairs(train, b)) for b in range(len(train))]
    assert data.num_pairs("train") == sum(pairs)
    share = data.shares()[0]
    assert (share.rows, share.tokens) == (30, train.num_tokens)


def blocks_pairs(blocks, block: int) -> torch.Tensor:
    return blocks.batch(np.array([block]), 1)["pairs"]


def test_without_a_block_size_the_largest_group_fits(make):
    written = rows(10)
    written.append(
        {"prompt": "wide", "replies": [f"{i} " + "word " * 4 for i in range(9)], "best": 3}
    )
    assert make(written, block_size=256).splits["train"].num_without_room == 1
    data = make(written, block_size=None)
    assert data.splits["train"].num_without_room == 0
    assert data.block_size == data.splits["train"].block_size > 256
    assert data.block_size % 64 == 0
    assert (
        make([{"prompt": "a", "replies": ["b", "c"], "best": 0}], block_size=None).block_size == 64
    )


def test_prompts_are_counted_once_in_each_global_batch_on_one_or_two_ranks(make):
    data = make(rows(40))
    loader = data.train_dataloader()
    parts = list(loader)
    assert loader.position == len(parts)
    groups = [len(part["group"].unique()) for part in parts]
    size = data.batching.num_micro_batches
    for first in range(0, len(parts), size):
        assert {p["denominator"] for p in parts[first : first + size]} == {
            sum(groups[first : first + size])
        }
    assert sum(groups) == 40
    two = []
    for rank in range(2):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)
        data.batching = Batching.of(4, 2, 1)
        two += [sorted(part["reply_number"].tolist()) for part in data.train_dataloader()]
    one = [number for part in parts for number in part["reply_number"].tolist()]
    assert sorted(one) == sorted(number for part in two for number in part)


def test_a_loader_goes_on_where_it_was(make):
    data = make(rows(40))
    whole = list(data.train_dataloader())
    rest = data.train_dataloader()
    rest.load_state_dict({"position": 3})
    for one, other in zip(whole[3:], rest, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one if torch.is_tensor(one[k]))
    blocks = pickle.loads(pickle.dumps(data.splits["train"]))  # as workers get them
    assert torch.equal(blocks_pairs(blocks, 0), blocks_pairs(data.splits["train"], 0))


def test_a_bounded_validation_scores_whole_groups(make):
    data = make(rows(200), validation_fraction=0.3)
    data.limits["validation"] = 2
    (part,) = data.by_source("validation").values()
    assert len(part) <= 2
    assert part.num_targets == len(data.conversations("validation"))
    firsts = part.corpus.firsts[part.corpus_index]
    assert firsts.sum() == part.num_targets
    sizes = np.diff([*np.flatnonzero(firsts), len(firsts)])
    whole = np.diff(part.corpus.units)
    assert sorted(sizes) == sorted(whole[part.corpus_units])


def test_prompts_are_split_as_those_of_conversations(make, tmp_path):
    data = make(rows(300), validation_fraction=0.2, test_fraction=0.1)
    splits = ("train", "validation", "test")
    ours = {split: [row.first_prompt for row in data.conversations(split)] for split in splits}
    as_chat = [{"prompt": row["prompt"], "response": row["replies"][0]} for row in rows(300)]
    chat = make(as_chat, kind=ChatDataModule, validation_fraction=0.2, test_fraction=0.1)
    for split in splits:
        assert ours[split] == [row.first_prompt for row in chat.conversations(split)]
        assert len(ours[split]) > 10


@pytest.mark.parametrize("kind", [ChatDataModule, ComparisonDataModule])
def test_the_parts_of_a_corpus_share_no_prompt(make, kind):
    written = rows(400)
    for i, row in enumerate(written):
        row["prompt"] = f"{'Question' if i % 2 else 'question'} {i // 2}"  # the same but for case
        row["response"] = "A"
    parts = []
    keys = set()
    for part in (1, 2, 3):
        data = make(written, kind=kind, share=[0.2, 0.4, 0.4], part=part, validation_fraction=0.1)
        parts.append([row.first_prompt.lower() for row in data.conversations("train")])
        keys.add(data.key)
        assert data.report.dropped["of_another_part"] > 100
        assert data.report.read == data.report.used.total() + data.report.dropped.total()
        assert data.report.used["validation"] > 20
    whole = make(written, kind=kind, validation_fraction=0.1)
    assert whole.key not in keys
    assert len(keys) == 3
    assert sorted(prompt for part in parts for prompt in part) == sorted(
        row.first_prompt.lower() for row in whole.conversations("train")
    )
    assert not any(set(one) & set(other) for one in parts for other in parts if one is not other)
    shares = [len(part) / sum(map(len, parts)) for part in parts]
    assert np.allclose(shares, [0.2, 0.4, 0.4], atol=0.07)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": [0.2, 0.8]}, r"data\.part is not"),
        ({"part": 1}, r"data\.share is not"),
        ({"share": [0.2, 0.8], "part": 3}, r"data\.part=3: data\.share has 2 parts"),
        ({"share": [0.2, 0.9], "part": 1}, r"data\.share=.*at most 1 together"),
        ({"share": [], "part": 1}, r"data\.share=\[\]: must be"),
        ({"share": 0.5, "part": 1}, r"data\.share=0\.5: must be"),
        ({"share": ["a"], "part": 1}, r"data\.share=.*must be"),
        ({"share": [True], "part": 1}, r"data\.share=.*must be"),
        ({"share": [0.5, 0.5], "part": 0}, r"data\.part"),
    ],
)
def test_a_mistake_in_the_parts_is_one_line(data_config, changes, message):
    with pytest.raises(UserError, match=message):
        data_config(**changes)


def test_rows_of_both_kinds_have_corpora_of_their_own(make):
    written = [{"prompt": f"q {i}", "chosen": f"a {i}", "rejected": "b"} for i in range(20)]
    pairs, chat = make(written), make(written, kind=ChatDataModule)
    assert pairs.key != chat.key
    assert len(chat.splits["train"].corpus) == 20
    assert len(pairs.splits["train"].corpus) == 40
    written[0]["rejected"] = "c"
    assert make(written).key != pairs.key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt_loss_weight", 0.1),
        ("join_turns", 0.5),
        ("isolate_documents", False),
        ("reset_positions", False),
    ],
)
def test_what_comparisons_do_not_have_is_refused(make, key, value):
    with pytest.raises(UserError, match=rf"data\.{key}"):
        make(rows(3), **{key: value})


def test_a_tokenizer_is_trained_on_all_replies(tmp_path, data_config):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(30)))
    config = data_config(source="file", path=str(path))
    source, tokenizer = open_data(config, None, 300, ComparisonReader)
    found = [row for _, row in source.read(RowReport())]
    assert len(found) == 30
    assert len(tokenizer.encode(found[0].replies[1])) < len(found[0].replies[1])


def test_weights_repeat_whole_groups(make, tmp_path, tokenizer, data_config):
    paths = []
    for name, written in (("a", rows(10)), ("b", rows(12)[10:])):
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in written))
    sources = [{"path": str(paths[0]), "weight": 2}, {"path": str(paths[1])}]
    config = data_config(source="file", sources=sources, block_size=256)
    data = ComparisonDataModule(
        config,
        tokenizer,
        open_source(config),
        block_size=256,
        max_length=64,
        batching=Batching(1, 1, 1),
        seed=1,
    )
    data.setup()
    train = data.splits["train"]
    assert train.num_targets == 2 * 10 + 2
    assert [share.rows for share in data.shares()] == [20, 2]
    assert train.num_without_room == 0
