"""llama.cpp, through llama-cpp-python, does with the GGUF what we do with the folder."""

import random
import sys
from pathlib import Path

import pytest

from src.data.sample import sample_rows
from src.data.tokenizer import Tokenizer
from src.exporting.exports import open_model_folder, write_gguf_folder
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder, save_model_folder
from tests.conftest import greedy
from tests.exporting.conftest import TEXTS
from tests.model.conftest import random_model, tiny_config

pytestmark = pytest.mark.engines

NUM_QUESTIONS = 60
MAX_NEW_TOKENS = 64
FLOAT32 = 0  # ggml's number for it; llama.cpp's own choice for the cache is float16


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Write the GGUF of a model folder and load it."""
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: make test-engines"
    )

    def load(folder: Path, dtype: str = "f32", **options) -> "llama_cpp.Llama":
        out = tmp_path_factory.mktemp("gguf") / "out"
        write_gguf_folder(open_model_folder(str(folder)), out, dtype, overwrite=False)
        return llama_cpp.Llama(str(out / "model.gguf"), n_ctx=0, verbose=False, **options)

    return load


def fuzz(seed: int, num: int) -> list[str]:
    """Texts of characters from all of Unicode, rare beside frequent ones."""
    generator = random.Random(seed)
    frequent = "abcXYZ 0189'.,!?\n\t-_éüß½²٣日本"
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x600, 0x700), (0x900, 0xE00)]
    blocks += [(0x2000, 0x2C00), (0x3040, 0x3100), (0x4E00, 0x5000), (0x1F300, 0x1F700)]

    def character() -> str:
        if generator.random() < 0.5:
            return generator.choice(frequent)
        return chr(generator.randrange(*generator.choice(blocks)))

    return ["".join(character() for _ in range(generator.randint(1, 40))) for _ in range(num)]


def assert_same_ids(engine, tokenizer: Tokenizer) -> None:
    for text in (*TEXTS, *fuzz(0, 1000)):
        theirs = engine.tokenize(text.encode(), add_bos=False, special=False)
        assert theirs == tokenizer.encode(text), repr(text)
        assert engine.detokenize(theirs).decode() == text


def test_a_tokenizer_that_splits_digits_gives_the_same_ids(llama, model_folder, digits_tokenizer):
    assert_same_ids(llama(model_folder), digits_tokenizer)


def test_gpt2s_own_tokenizer_gives_the_same_ids(llama, gpt2_tokenizer, tmp_path):
    config = tiny_config(vocab_size=gpt2_tokenizer.vocab_size, n_positions=256, n_layer=1)
    save_model_folder(tmp_path / "model", random_model(config), gpt2_tokenizer, greedy(12))
    engine = llama(tmp_path / "model")
    assert_same_ids(engine, gpt2_tokenizer)
    assert engine.token_eos() == gpt2_tokenizer.end_id
    assert engine.metadata["tokenizer.ggml.add_bos_token"] == "false"


@pytest.fixture(scope="module")
def questions() -> list[str]:
    """Test prompts of the embedded corpus, which the model never saw."""
    rows = [row["messages"] for row in sample_rows() if row["split"] == "test"]
    prompts = [messages[0]["content"] for messages in rows if len(messages) == 2]
    return prompts[:: len(prompts) // NUM_QUESTIONS]


def ask(engine, *said: str) -> str:
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)
    ]
    out = engine.create_chat_completion(
        messages, temperature=0.0, repeat_penalty=1.0, max_tokens=MAX_NEW_TOKENS
    )
    return out["choices"][0]["message"]["content"].lstrip()


def ours(assistant: Assistant, *said: str) -> str:
    messages = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said)]
    return assistant.reply(messages, greedy(MAX_NEW_TOKENS)).read_all()


def test_greedy_answers_are_the_same_text(llama, quickstart_run, questions):
    folder = quickstart_run / "model"
    engine = llama(folder, type_k=FLOAT32, type_v=FLOAT32)
    assistant = Assistant(*load_model_folder(str(folder)))
    answers = {question: ours(assistant, question) for question in questions}
    assert len(answers) >= 20
    assert len(set(answers.values())) > len(answers) / 2
    for question, answer in answers.items():
        assert ask(engine, question) == answer, question


def test_a_conversation_is_told_in_the_same_words(llama, quickstart_run, questions):
    folder = quickstart_run / "model"
    engine = llama(folder, type_k=FLOAT32, type_v=FLOAT32)
    assistant = Assistant(*load_model_folder(str(folder)))
    for first, second in zip(questions[:10], questions[10:20], strict=True):
        answer = ours(assistant, first)
        assert ask(engine, first, answer, second) == ours(assistant, first, answer, second)


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_smaller_files_give_nearly_the_same_answers(llama, quickstart_run, questions, dtype):
    folder = quickstart_run / "model"
    engine = llama(folder, dtype)
    assistant = Assistant(*load_model_folder(str(folder)))
    same = [ask(engine, question) == ours(assistant, question) for question in questions]
    print(f"{dtype}: {sum(same)} of {len(same)} answers are the same", file=sys.stderr)
    assert sum(same) >= 0.9 * len(same)
