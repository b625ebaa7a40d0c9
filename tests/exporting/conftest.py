from pathlib import Path

import pytest

from src.data.tokenizer import Tokenizer, train_tokenizer
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

# Digits, letters, spaces and signs in every neighbourhood that splits a text in two.
TEXTS = (
    "What is 2024 + 17? It's 2041, isn't it?",
    "  2  spaces   three\n\n\nlines\t\ttabs \n end ",
    "naïve café — “quoted” … 日本語 한국어 العربية हिन्दी 🙂👍🏽👨‍👩‍👧",
    "x² ½ Ⅷ ٣٤ ৩ 1st 2nd 3.14 1,000,000 0x1F a1b2 ¼½¾",
    "they've we'll I'm he'd 'tis 'RE don'T",
    "<|endoftext|> ### Response: <|endoftext|>### Prompt: and now?",
    "!!!??? ... --- ((())) #hash @at $5 50% a_b_c C++ C# path/to/file.txt",
    "\x00\x07\x1b[31m control \r\n windows \u2028 line \u00a0 space \u3000 wide",
    "",
    " ",
    "\n",
    "é é a\u0301\u0302\u0303 ﬁ ß ẞ İ ı",
)


# Teaches a piece of two spaces, which stands before a digit only where digits are split off first.
SPACED = "one  1  two  2  three  3"


@pytest.fixture(scope="session")
def digits_tokenizer() -> Tokenizer:
    """As the quickstart's: numbers are split into digits."""
    return train_tokenizer(
        ["Hello there, how are you? I am fine: 1 2 3. It's naïve.", SPACED] * 3, 300
    )


@pytest.fixture(scope="session")
def model_folder(digits_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as a run leaves it, with random weights: outputs of a run called some_run."""
    folder = tmp_path_factory.mktemp("runs") / "some_run" / "model"
    # 256 positions, as llama.cpp wants it, and 32 wide, as Q8_0 does
    config = tiny_config(vocab_size=digits_tokenizer.vocab_size + 3, n_positions=256)
    folder.parent.mkdir()
    save_model_folder(folder, random_model(config), digits_tokenizer, greedy(12))
    return folder
