import random

import numpy as np
import pytest

from src.data.conversation import Conversation
from src.data.template import (
    Example,
    encode_examples,
    encode_prompt,
    save_template,
    with_prompts,
)
from src.data.tokenizer import END_OF_TEXT, Tokenizer
from src.data.words import WordEncoder
from tests.conftest import TEXTS

HELLO = Conversation((("Hello", "Hi"),))
SYSTEM = Conversation((("Hello", "Hi"), ("Bye", "See you")), system="Be kind.")


def encode(conversation: Conversation, tokenizer: Tokenizer, supervise="responses") -> Example:
    examples = encode_examples([conversation], WordEncoder(tokenizer), supervise)
    assert len(examples) == 1
    return examples.example(0)


def table(conversation: Conversation, tokenizer: Tokenizer) -> list[tuple[str, int, int, int]]:
    """One line a token: text, id, is it supervised in mode responses, in mode article?"""
    responses, article = (
        encode(conversation, tokenizer, mode) for mode in ("responses", "article")
    )
    assert responses.input_ids.tolist() == article.input_ids.tolist()
    ids = responses.input_ids.tolist()
    flags = (example.supervised.astype(int).tolist() for example in (responses, article))
    return list(zip((tokenizer.decode([i]) for i in ids), ids, *flags, strict=True))


def test_one_turn_with_gpt2s_tokenizer(gpt2_tokenizer):
    assert table(HELLO, gpt2_tokenizer) == [
        ("###", 21017, 0, 0),
        (" Prompt", 45965, 0, 0),
        (":", 25, 0, 0),
        (" Hello", 18435, 0, 0),
        ("\n", 198, 0, 0),
        ("###", 21017, 0, 1),
        (" Response", 18261, 0, 1),
        (":", 25, 0, 1),
        (" Hi", 15902, 1, 1),
        (END_OF_TEXT, 50256, 1, 1),
    ]


def test_two_turns_after_a_system_text_with_gpt2s_tokenizer(gpt2_tokenizer):
    assert table(SYSTEM, gpt2_tokenizer) == [
        ("Be", 3856, 0, 0),
        (" kind", 1611, 0, 0),
        (".", 13, 0, 0),
        ("\n", 198, 0, 0),
        ("\n", 198, 0, 0),
        ("###", 21017, 0, 0),
        (" Prompt", 45965, 0, 0),
        (":", 25, 0, 0),
        (" Hello", 18435, 0, 0),
        ("\n", 198, 0, 0),
        ("###", 21017, 0, 1),
        (" Response", 18261, 0, 1),
        (":", 25, 0, 1),
        (" Hi", 15902, 1, 1),
        (END_OF_TEXT, 50256, 1, 1),
        ("###", 21017, 0, 0),
        (" Prompt", 45965, 0, 0),
        (":", 25, 0, 0),
        (" Bye", 47843, 0, 0),
        ("\n", 198, 0, 0),
        ("###", 21017, 0, 1),
        (" Response", 18261, 0, 1),
        (":", 25, 0, 1),
        (" See", 4091, 1, 1),
        (" you", 345, 1, 1),
        (END_OF_TEXT, 50256, 1, 1),
    ]


def test_one_turn_with_a_trained_tokenizer(tokenizer):
    """Ids are left out: they hang on the few lines it was trained on."""
    conversation = Conversation((("Hello", "Hi 24"),))
    assert [(text, *flags) for text, _, *flags in table(conversation, tokenizer)] == [
        ("###", 0, 0),
        (" Prompt", 0, 0),
        (":", 0, 0),
        (" H", 0, 0),
        ("el", 0, 0),
        ("lo", 0, 0),
        ("\n", 0, 0),
        ("###", 0, 1),
        (" Response", 0, 1),
        (":", 0, 1),
        (" H", 1, 1),
        ("i", 1, 1),
        (" ", 1, 1),
        ("2", 1, 1),
        ("4", 1, 1),
        (END_OF_TEXT, 1, 1),
    ]


@pytest.mark.parametrize(
    ("conversation", "text", "marks"),
    [
        (
            HELLO,
            "### Prompt: Hello↵### Response: Hi■",
            "                  aaaaaaaaaaaaa++++",
        ),
        (
            SYSTEM,
            "Be kind.↵↵### Prompt: Hello↵### Response: Hi■### Prompt: Bye↵### Response: See you■",
            "                            aaaaaaaaaaaaa++++                aaaaaaaaaaaaa+++++++++",
        ),
        (
            Conversation((("a↵b", "c↵↵### Prompt: d"),)),
            "### Prompt: a↵b↵### Response: c↵↵### Prompt: d■",
            "                aaaaaaaaaaaaa++++++++++++++++++",
        ),
        (
            Conversation((("a", "b"), ("c", "d")), "S", "Hi", (False, True)),
            "S↵↵### Prompt: ↵### Response: Hi■"
            "### Prompt: a↵### Response: b■### Prompt: c↵### Response: d■",
            "                                 "
            "                              "
            "              aaaaaaaaaaaaa+++",
        ),
    ],
    ids=["one turn", "two turns and system", "the template inside a row", "read, not taught"],
)
def test_what_is_taught_drawn_under_the_text(any_tokenizer, conversation, text, marks):
    """+ is always taught, a in mode article only. ↵ is a line break, ■ the end token."""
    turns = tuple((p.replace("↵", "\n"), r.replace("↵", "\n")) for p, r in conversation.turns)
    conversation = conversation._replace(turns=turns)
    for mode, taught in (("responses", "+"), ("article", "+a")):
        example = encode(conversation, any_tokenizer, mode)
        ids = example.input_ids.tolist()
        pieces = ["■" if i == any_tokenizer.end_id else any_tokenizer.decode([i]) for i in ids]
        assert "".join(pieces).replace("\n", "↵") == text
        flags = [f for f, piece in zip(example.supervised, pieces, strict=True) for _ in piece]
        assert flags == [mark in taught for mark in marks]


def test_prompt_and_response_are_encoded_apart(any_tokenizer):
    """So the boundary is exact even where a tokenizer would merge across it."""
    for prompt, response in [("Hello", "Hi"), ("1 + 1 =", "2"), ("a", "..."), ("a b", "日本")]:
        example = encode(Conversation(((prompt, response),)), any_tokenizer)
        context = any_tokenizer.encode(f"### Prompt: {prompt}\n### Response:")
        reply = [*any_tokenizer.encode(f" {response}"), any_tokenizer.end_id]
        assert example.input_ids.tolist() == context + reply
        assert example.supervised.tolist() == [False] * len(context) + [True] * len(reply)


@pytest.mark.parametrize("mode", ["responses", "article"])
def test_a_literal_end_token_in_a_row_is_text(any_tokenizer, mode):
    conversation = Conversation(((f"Say {END_OF_TEXT}", f"{END_OF_TEXT}!"),), END_OF_TEXT)
    example = encode(conversation, any_tokenizer, mode)
    ids = example.input_ids.tolist()
    assert ids.count(any_tokenizer.end_id) == 1
    assert ids[-1] == any_tokenizer.end_id
    assert any_tokenizer.decode(ids).count(END_OF_TEXT) == 4


@pytest.mark.parametrize("mode", ["responses", "article"])
def test_prompts_are_marked_apart_from_responses_and_from_what_is_only_read(any_tokenizer, mode):
    """A response that a row says not to teach, and the assistant's opening, are no prompts."""
    for conversation in (
        SYSTEM,
        HELLO,
        Conversation((("a", "b"), ("c", "d"), ("e", "f")), "be kind", "Hi!", (True, False, True)),
    ):
        plain = encode(conversation, any_tokenizer, mode)
        marked = encode(conversation, any_tokenizer, with_prompts(mode))
        assert marked.input_ids.tolist() == plain.input_ids.tolist()
        assert marked.supervised.dtype == np.uint8
        assert (marked.supervised == 1).tolist() == plain.supervised.tolist()
        prompts = any_tokenizer.decode(marked.input_ids[marked.supervised == 2].tolist())
        read = any_tokenizer.decode(marked.input_ids[marked.supervised == 0].tolist())
        header = "" if mode == "article" else "### Response:"
        asked = "".join(f"### Prompt: {prompt}\n{header}" for prompt, _ in conversation.turns)
        opening = f"### Prompt: \n{header}" if conversation.opening else ""
        system = f"{conversation.system}\n\n" if conversation.system else ""
        assert prompts == system + opening + asked
        constant = "### Response:" if mode == "article" else ""
        replies = [conversation.opening] if conversation.opening else []
        replies += ["d"] if conversation.taught else []
        assert read == "".join(f"{constant} {reply}{END_OF_TEXT}" for reply in replies)


@pytest.mark.parametrize("mode", ["responses", "article", with_prompts("responses")])
def test_examples_are_the_same_together_and_alone(tokenizer, mode):
    read = Conversation((("a", "b"),) * 3, opening="c", taught=(True, False, True))
    conversations = [SYSTEM, HELLO, read] * 3
    together = encode_examples(conversations, WordEncoder(tokenizer), mode)
    odd = np.arange(9) % 2 == 1
    some = together.take(odd)
    assert together.lengths.sum() == together.offsets[-1] == len(together.input_ids)
    for index, conversation in enumerate(conversations):
        alone = encode(conversation, tokenizer, mode)
        found = [together.example(index), *([some.example(index // 2)] if odd[index] else [])]
        for example in found:
            assert example.input_ids.tolist() == alone.input_ids.tolist()
            assert example.supervised.tolist() == alone.supervised.tolist()
    assert len(some) == 4
    assert len(encode_examples([], WordEncoder(tokenizer), mode)) == 0


def test_a_question_is_asked_as_it_was_trained(any_tokenizer):
    """The ids of a chat's prompt are the training example up to the response."""
    last = len(any_tokenizer.encode(" See you")) + 1
    trained = encode(SYSTEM, any_tokenizer).input_ids.tolist()
    asked = encode_prompt(any_tokenizer, "Bye", history=SYSTEM.turns[:1], system=SYSTEM.system)
    assert asked == trained[:-last]
    first = encode(Conversation(SYSTEM.turns[:1], SYSTEM.system), any_tokenizer)
    asked = encode_prompt(any_tokenizer, "Hello", system=SYSTEM.system)
    assert asked == first.input_ids[~first.supervised].tolist()


def test_a_chat_is_stripped_as_rows_are(any_tokenizer):
    clean = encode_prompt(any_tokenizer, "Bye", history=[("Hello", "Hi")])
    assert encode_prompt(any_tokenizer, " Bye\n", history=[("\nHello ", " Hi\n")]) == clean


@pytest.fixture
def transformers_ids(any_tokenizer, tmp_path):
    """Render messages as transformers does with our saved folder; return the ids."""
    from transformers import AutoTokenizer

    any_tokenizer.save(tmp_path)
    save_template(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)

    def render(conversation: Conversation | list, *prompt: str) -> list[int]:
        if isinstance(conversation, list):
            return theirs.apply_chat_template(conversation, tokenize=True)["input_ids"]
        messages = [{"role": "system", "content": conversation.system}] * bool(conversation.system)
        if conversation.opening:
            messages.append({"role": "assistant", "content": conversation.opening})
        for user, assistant in conversation.turns:
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": assistant})
        messages += [{"role": "user", "content": text} for text in prompt]
        return theirs.apply_chat_template(messages, tokenize=True)["input_ids"]

    return render


def test_the_exported_template_gives_the_same_ids(any_tokenizer, transformers_ids):
    rng = random.Random(0)
    alphabet = [*"ab09 .:#'\n\té日", "### Response:", "### Prompt: ", "{{ x }}", "{% if %}"]

    def text() -> str:
        return "x" + "".join(rng.choices(alphabet, k=rng.randrange(12))).strip()

    conversations = [HELLO, SYSTEM, Conversation((("Hello", "Hi"),), "Be kind.")]
    conversations += [Conversation(((prompt, "12"),)) for prompt in (*TEXTS, "12")]
    conversations += [
        Conversation(
            tuple((text(), text()) for _ in range(rng.randint(1, 3))),
            text(),
            rng.choice(["", text()]),
        )
        for _ in range(50)
    ]
    for conversation in conversations:
        ours = encode(conversation, any_tokenizer).input_ids.tolist()
        assert transformers_ids(conversation) == ours, conversation


def test_the_exported_template_asks_as_chat_does(any_tokenizer, transformers_ids):
    ours = encode_prompt(any_tokenizer, "Bye", history=[("Hello", "Hi")], system="Be kind.")
    assert transformers_ids(Conversation((("Hello", "Hi"),), "Be kind."), "Bye") == ours
    untidy = Conversation(((" Hello\n", "\tHi "),), " Be kind.\n")
    assert transformers_ids(untidy, "  Bye ") == ours
    # An empty system text is none.
    assert transformers_ids(Conversation((), " "), "Bye") == encode_prompt(any_tokenizer, "Bye")


def test_the_exported_template_reads_messages_in_any_order(any_tokenizer, transformers_ids):
    """As the one reader of messages does: joined, system texts at the front, parts, nothing."""
    from src.data.messages import read_messages

    rng = random.Random(1)
    contents = ["Hi", " x\n", "", None, "12", [{"type": "text", "text": "a"}, {"text": "b"}]]
    for _ in range(200):
        messages = [
            {"role": rng.choice(["system", "user", "assistant"]), "content": rng.choice(contents)}
            for _ in range(rng.randint(0, 6))
        ]
        messages.append({"role": "user", "content": "last"})
        reading = read_messages(messages, skip_empty=True)
        ours = encode_prompt(
            any_tokenizer, reading.question, reading.turns, reading.system, reading.opening
        )
        assert transformers_ids(messages) == ours, messages
