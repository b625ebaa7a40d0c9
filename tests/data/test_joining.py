"""Joined rows are whole rows, end to end, as the chat template writes a conversation."""

import numpy as np
import pytest

from src.data.conversation import Conversation
from src.data.corpus import Corpus, build_corpus, corpus_key, read_report
from src.data.joining import Joining, is_single_turn
from src.data.sources import Part, Source
from src.data.template import encode_examples
from src.data.tokenizer import Tokenizer
from src.data.words import WordEncoder

ROWS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
    for i in range(300)
]
SYSTEM = {"role": "system", "content": "be brief"}


def corpus(rows, tokenizer, folder, data_config, joining=None, split="train") -> Corpus:
    parts = [Part("rows", "train", lambda: enumerate(rows, start=1))]
    if split != "train":
        parts.append(Part("others", split, lambda: enumerate(rows, start=1)))
    source = Source(data_config(validation_fraction=0.0, test_fraction=0.0), parts, "x")
    return Corpus.open(build_corpus(source, tokenizer, "responses", folder, joining) / split)


def texts(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(corpus.example(i).input_ids) for i in range(len(corpus))]


def test_prompts_that_train_has_too_are_counted_by_row_before_any_is_joined(
    tokenizer, tmp_path, data_config
):
    corpus(ROWS, tokenizer, tmp_path, data_config, Joining(1.0, 1000), split="test")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert read_report(folder).shared_prompts == {"test": {"exactly": 300, "nearly": 300}}


def test_every_row_is_there_once_in_conversations_of_two_to_four_turns(
    tokenizer, tmp_path, data_config
):
    joined = corpus(ROWS, tokenizer, tmp_path, data_config, Joining(1.0, 1000))
    counts = [text.count("### Prompt: ") for text in texts(joined, tokenizer)]
    assert sum(counts) == len(ROWS)
    assert set(counts) >= {2, 3, 4}
    assert max(counts) == 4
    assert sum(count == 1 for count in counts) <= 1  # the last may find nobody
    told = "".join(texts(joined, tokenizer))
    assert all(f"q{i}\n" in told and f" a{i}<" in told for i in range(len(ROWS)))


def test_a_joined_conversation_has_the_ids_of_the_same_turns_in_the_template(tokenizer):
    conversations = [Conversation(((f"q{i}", f"a{i}"),)) for i in range(20)]
    encoder = WordEncoder(tokenizer)
    examples = encode_examples(conversations, encoder, "responses")
    hashes = np.arange(20, dtype=np.uint64)
    joined, prompts = Joining(1.0, 1000)(examples, hashes, np.ones(20, dtype=bool))
    assert len(joined) == len(prompts) < 20
    for number in range(len(joined)):
        ids = joined.example(number).input_ids
        turns = [
            conversations[int(part.split("\n")[0].removeprefix("q"))].turns[0]
            for part in tokenizer.decode(ids).split("### Prompt: ")[1:]
        ]
        expected = encode_examples([Conversation(tuple(turns))], encoder, "responses")
        assert ids.tolist() == expected.input_ids.tolist()
        assert joined.example(number).supervised.tolist() == expected.supervised.tolist()
        assert turns[0] == conversations[int(prompts[number])].turns[0]


def test_no_conversation_is_longer_than_the_limit(tokenizer, tmp_path, data_config):
    alone = corpus(ROWS, tokenizer, tmp_path, data_config)
    limit = 2 * int(alone.lengths.max())
    joined = corpus(ROWS, tokenizer, tmp_path, data_config, Joining(1.0, limit))
    assert joined.lengths.max() <= limit
    assert joined.lengths.sum() == alone.lengths.sum()
    lonely = corpus(ROWS, tokenizer, tmp_path, data_config, Joining(1.0, 3))
    assert sorted(texts(lonely, tokenizer)) == sorted(texts(alone, tokenizer))


def test_the_share_is_of_rows(tokenizer, tmp_path, data_config):
    half = corpus(ROWS, tokenizer, tmp_path, data_config, Joining(0.5, 1000))
    single = sum(text.count("### Prompt: ") == 1 for text in texts(half, tokenizer))
    assert single / len(ROWS) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_rows_stay_as_they_are(split, tokenizer, tmp_path, data_config):
    joined = corpus(ROWS, tokenizer, tmp_path, data_config, Joining(1.0, 1000), split)
    assert all(text.count("### Prompt: ") == 1 for text in texts(joined, tokenizer))


def test_rows_with_a_system_text_or_several_turns_stay_as_they_are(
    tokenizer, tmp_path, data_config
):
    rows = [{"messages": [SYSTEM, *row["messages"]]} for row in ROWS[:50]]
    rows += [
        {"messages": a["messages"] + b["messages"]}
        for a, b in zip(ROWS[:50], ROWS[50:100], strict=True)
    ]
    alone = corpus(rows, tokenizer, tmp_path, data_config)
    joined = corpus(rows, tokenizer, tmp_path, data_config, Joining(1.0, 1000))
    assert texts(joined, tokenizer) == texts(alone, tokenizer)
    assert is_single_turn(Conversation((("a", "b"),), family="x"))
    assert not is_single_turn(Conversation((("a", "b"),), system="s"))
    assert not is_single_turn(Conversation((("a", "b"), ("c", "d"))))


def test_the_same_rows_are_joined_in_the_same_way_and_the_key_says_how(
    tokenizer, tmp_path, data_config
):
    one, two = (
        corpus(ROWS, tokenizer, tmp_path / name, data_config, Joining(0.7, 60)) for name in "ab"
    )
    assert one.input_ids.tolist() == two.input_ids.tolist()
    source = Source(data_config(), [Part("rows", "train", lambda: ROWS)], "x")
    keys = [
        corpus_key(source, tokenizer, "responses", joining)
        for joining in (None, Joining(0.5, 60), Joining(0.6, 60), Joining(0.5, 61))
    ]
    assert len(set(keys)) == 4
    assert keys[0] == corpus_key(source, tokenizer, "responses")
