import json

import numpy as np
import pytest

from src.data.comparison import Context
from src.data.content import UnusableRow
from src.data.prompts import NO_ROOM, Prompts, context_row
from src.data.sources import open_source
from src.data.template import encode_prompt
from src.errors import UserError

U, A = (lambda t: {"role": "user", "content": t}), (lambda t: {"role": "assistant", "content": t})
S = {"role": "system", "content": "Be brief."}

ROWS = [
    ({"prompt": "one"}, ((), "one", "", "")),
    ({"prompt": "two", "response": "x"}, ((), "two", "", "")),
    ({"messages": [S, U("three")]}, ((), "three", "Be brief.", "")),
    ({"messages": [U("a"), A("b"), U("four")]}, ((("a", "b"),), "four", "", "")),
    ({"messages": [U("a"), A("b"), U("five"), A("x")]}, ((("a", "b"),), "five", "", "")),
    ({"prompt": "six", "chosen": "a", "rejected": "b"}, ((), "six", "", "")),
    ({"chosen": [U("seven"), A("a")], "rejected": [U("seven"), A("b")]}, ((), "seven", "", "")),
    ({"prompt": "eight", "replies": ["a", "b"], "ranks": [1, 2]}, ((), "eight", "", "")),
    ({"messages": [A("Hello."), U("nine")]}, ((), "nine", "", "Hello.")),
    ({"instruction": "ten", "input": "more", "output": "x"}, ((), "ten\nmore", "", "")),
    (
        {"chosen": "\n\nHuman: eleven\n\nAssistant: a", "rejected": "\n\nHuman: eleven"},
        ((), "eleven", "", ""),
    ),
]


@pytest.fixture
def prompts(tmp_path, data_config, tokenizer):
    def make(rows, split="train", max_length=60, **changes) -> Prompts:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = data_config(source="file", path=str(path), **changes)

        def encode(context: Context) -> list[int]:
            turns, prompt, system, opening = context
            if prompt == "refused":
                raise UnusableRow("refused", "by the template")
            return encode_prompt(tokenizer, prompt, turns, system, opening)

        return Prompts.of(open_source(config), split, encode, max_length)

    return make


def test_a_prompt_is_taken_out_of_every_layout(prompts, tokenizer):
    found = prompts([row for row, _ in ROWS])
    assert [tuple(context) for context in found.contexts] == [context for _, context in ROWS]
    assert not found.report.unused
    for context, ids in zip(found.contexts, found.input_ids, strict=True):
        turns, prompt, system, opening = context
        assert ids.tolist() == encode_prompt(tokenizer, prompt, turns, system, opening)
    assert found.lengths.tolist() == [len(ids) for ids in found.input_ids]


def test_a_context_is_written_as_it_is_read(prompts):
    found = prompts([row for row, _ in ROWS])
    assert prompts([context_row(context) for context in found.contexts]).contexts == found.contexts


def test_equal_prompts_are_one_and_long_ones_are_counted(prompts):
    rows = [{"prompt": "a"}, {"prompt": "a ", "response": "x"}, {"prompt": "b " * 90}]
    found = prompts(rows)
    assert [context.prompt for context in found.contexts] == ["a"]
    assert found.report.dropped == {NO_ROOM: 1}
    with pytest.raises(UserError, match="no prompt of train has 3 tokens"):
        prompts(rows, max_length=3)


def test_a_prompt_that_the_model_does_not_take_is_counted(prompts):
    found = prompts([{"prompt": "a"}, {"prompt": "refused"}])
    assert [context.prompt for context in found.contexts] == ["a"]
    assert found.report.explain() == ["1 refused, first prompt 'refused': by the template"]
    with pytest.raises(UserError, match="no prompt of train can be used: 1 refused, first prompt"):
        prompts([{"prompt": "refused"}])


def test_the_order_is_a_function_of_seed_and_iteration(prompts):
    found = prompts([{"prompt": f"question {i}"} for i in range(10)])
    orders = [found.order(1, iteration, 4) for iteration in range(10)]
    together = np.concatenate(orders)
    for first in range(0, 40, 10):
        assert sorted(together[first : first + 10]) == list(range(10))
    assert not np.array_equal(together[:10], together[10:20])
    assert np.array_equal(found.order(1, 7, 4), orders[7])
    assert not np.array_equal(found.order(2, 0, 10), found.order(1, 0, 10))


def test_prompts_of_a_part_and_of_a_split(prompts):
    rows = [{"prompt": f"question {i}"} for i in range(200)]
    parts = [prompts(rows, share=[0.5, 0.5], part=part, validation_fraction=0.2) for part in (1, 2)]
    held_out = prompts(rows, "validation", validation_fraction=0.2)
    texts = [{context.prompt for context in found.contexts} for found in (*parts, held_out)]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 200
