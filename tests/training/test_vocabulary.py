import json
import logging

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from src.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from src.errors import UserError
from src.training.vocabulary import check_pieces, check_vocabulary
from tests.conftest import TEXTS


@pytest.fixture
def folder(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    return tmp_path


@pytest.fixture
def warnings(caplog):
    with caplog.at_level(logging.WARNING):
        yield caplog


def test_the_tokenizer_of_the_weights_is_taken_without_a_word(folder, tokenizer, warnings):
    check_vocabulary(str(folder), "elsewhere", tokenizer)
    check_vocabulary("same", "same", tokenizer)  # no folder of this name is looked for
    check_vocabulary("openai-community/gpt2-xl", "gpt2", tokenizer)
    assert not warnings.records


def test_one_of_another_family_is_refused(folder, warnings):
    other = train_tokenizer([text.upper() for text in TEXTS] * 3, 300)
    with pytest.raises(UserError, match=r"model\.tokenizer=other is not the tokenizer of") as error:
        check_vocabulary(str(folder), "other", other)
    assert f"set model.tokenizer={folder}" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_with_the_same_vocabulary_is_warned_of(folder, warnings, tmp_path):
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    (tmp_path / "other").mkdir()
    whole["pre_tokenizer"]["pretokenizers"].pop(0)
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(whole))
    check_vocabulary(str(folder), "other", load_tokenizer(str(tmp_path / "other")))
    assert "has its vocabulary" in warnings.text


def test_weights_without_a_tokenizer_are_warned_of(tmp_path, tokenizer, warnings):
    check_vocabulary(str(tmp_path), "other", tokenizer)
    assert "cannot be checked" in warnings.text


@pytest.mark.parametrize(("scheme", "is_refused"), [("always", False), ("first", True)])
def test_a_tokenizer_to_which_the_beginning_of_a_text_matters_is_not_trained(scheme, is_refused):
    letters = sorted({*"### Prompt: Response: a b"} - {" "})
    vocab = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    backend = Backend(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens(["</s>"])
    tokenizer = Tokenizer(backend, {"eos_token": "</s>"})
    if is_refused:
        with pytest.raises(UserError, match="other ids in pieces than as a whole"):
            check_pieces("name", tokenizer)
    else:
        check_pieces("name", tokenizer)
