"""Thirty kinds of folders: a conversation has the ids of transformers, or is refused in one line.

All vocabularies are tiny and made here.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from src.data.template import jinja
from src.data.tokenizer import load_tokenizer, train_tokenizer
from src.errors import UserError
from src.talk.chat_template import load_chat_template, template_source
from src.talk.messages import Message
from tests.conftest import shared_data

try:  # both declare the same messages, and only one may
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece
except ImportError:
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

TEXTS = [
    "### Prompt: What is the capital of France?\n### Response: The capital of France is Paris.",
    "user assistant system: Hello there, how are you? I'm fine: 1 2 3, naïve 日本語.",
    "Be kind. Answer in one word, please! Thank you 2024.",
] * 3
TALKS = [
    [Message("user", "Hello there, who are you?")],
    [
        Message("system", "Be kind."),
        Message("user", "What is 2024 + 17?\n\nIn words  please "),
        Message("assistant", "Two thousand, I'd say: naïve 日本語 🙂"),
        Message("user", "  THANK you\t!"),
    ],
]
TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = (
    "{% if tools is not none %}{{ 'TOOLS' }}{% endif %}"
    "{% for m in messages %}{{ bos_token ~ m['role'] ~ ': ' ~ m['content'] ~ eos_token }}"
    "{% endfor %}{{ unk_token | default('no unk') }}"
)

KINDS: dict[str, Callable[[Path], None]] = {}
REFUSED: dict[str, str] = {}


def kind(build=None, *, refused: str | None = None):
    """Enter a folder's builder under its name; ``refused``: what the one line says."""

    def enter(function):
        KINDS[function.__name__] = function
        if refused:
            REFUSED[function.__name__] = refused
        return function

    return enter(build) if build else enter


def write(folder: Path, **files) -> None:
    """Write JSON files by their names without the ending."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def model_config(folder: Path, **changes) -> None:
    write(folder, config={"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]} | changes)


def gpt2_backend(*added: str, **flags) -> tokenizers.Tokenizer:
    """GPT-2's kind of tokenizer, with further special tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False, **flags) for t in added])
    return backend


def gpt2_files(folder: Path, vocabulary="vocab.json", merges="merges.txt", end=None) -> int:
    """Write vocabulary and merges; return the number of tokens."""
    model = json.loads(gpt2_backend().to_str())["model"]
    vocab = {
        (end or text) if text == "<|endoftext|>" else text: i for text, i in model["vocab"].items()
    }
    (folder / vocabulary).write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / merges).write_text("\n".join(lines), encoding="utf-8", newline="\n")
    model_config(folder)
    return len(vocab)


def saved(folder: Path, backend: tokenizers.Tokenizer, **settings) -> None:
    """Write ``tokenizer.json`` and settings; the class is the generic one, unless changed."""
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | settings
    write(folder, tokenizer_config={k: v for k, v in settings.items() if v is not None})
    model_config(folder)


END = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


@kind
def ours(folder):
    train_tokenizer(TEXTS, 300).save(folder)
    model_config(folder)


@kind
def tokenizer_json_of_gpt2s_class(folder):
    saved(folder, gpt2_backend(), tokenizer_class="GPT2Tokenizer", **END)


@kind
def tokenizer_json_alone(folder):
    saved(folder, gpt2_backend(), tokenizer_class=None)
    (folder / "tokenizer_config.json").unlink()


@kind
def vocabulary_and_merges(folder):
    gpt2_files(folder)


@kind
def added_token_objects_in_the_settings(folder):
    gpt2_files(folder)
    token = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False}
    token |= {"normalized": True, "rstrip": False, "single_word": False}
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), token)
    write(
        folder,
        tokenizer_config=settings | {"tokenizer_class": "GPT2Tokenizer", "errors": "replace"},
    )


@kind
def openais_file_names(folder):
    gpt2_files(folder, "encoder.json", "vocab.bpe")


@kind
def added_tokens_json(folder):
    size = gpt2_files(folder)
    write(folder, added_tokens={"<|im_start|>": size, "<|im_end|>": size + 1, "hello": size + 2})
    write(folder, special_tokens_map={"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    (folder / "chat_template.jinja").write_text(TURNS)


@kind
def added_tokens_json_with_a_lone_padding_token(folder):
    write(folder, added_tokens={"[PAD]": gpt2_files(folder)})
    write(folder, special_tokens_map={"pad_token": "[PAD]"} | END)


@kind
def added_tokens_decoder_beside_merges(folder):
    size = gpt2_files(folder)
    flags = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False}
    decoder = {
        str(size + number): {"content": text, "special": True} | flags
        for number, text in enumerate(("<|im_start|>", "<|im_end|>"))
    }
    settings = {"added_tokens_decoder": decoder, "tokenizer_class": "GPT2Tokenizer"}
    write(folder, tokenizer_config=settings | {"chat_template": TURNS})


@kind
def special_tokens_map_of_objects(folder):
    gpt2_files(folder)
    token = {"content": "<mask>", "lstrip": True, "rstrip": False}
    token |= {"normalized": False, "single_word": False}
    write(folder, special_tokens_map={"mask_token": token, "eos_token": "<|endoftext|>"})
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} <mask> {{ eos_token }}")


@kind
def further_special_tokens_that_only_the_settings_name(folder):
    extra = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    saved(folder, gpt2_backend(), chat_template=TURNS, **extra, **END)


@kind
def template_in_the_settings(folder):
    saved(folder, gpt2_backend("<|im_start|>", "<|im_end|>"), chat_template=TURNS, **END)


@kind
def named_templates(folder):
    both = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": NAMED}]
    saved(folder, gpt2_backend(), chat_template=both, **END)


@kind(refused="several chat templates \\(rag, tool_use\\), none of them called default")
def named_templates_without_a_default(folder):
    both = [{"name": name, "template": "x"} for name in ("rag", "tool_use")]
    saved(folder, gpt2_backend(), chat_template=both, **END)


@kind
def template_file_that_uses_names(folder):
    saved(folder, gpt2_backend("<s>"), **END | {"bos_token": "<s>"})
    (folder / "chat_template.jinja").write_text(NAMED)


@kind
def names_that_are_objects(folder):
    token = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "rstrip": False}
    saved(folder, gpt2_backend("<s>"), chat_template=NAMED, **END | {"bos_token": token})


@kind
def names_of_gpt2s_class(folder):
    saved(folder, gpt2_backend(), tokenizer_class="GPT2TokenizerFast", chat_template=NAMED)


@kind
def special_tokens_that_take_spaces(folder):
    backend = gpt2_backend("<|im_start|>", "<|im_end|>", lstrip=True, rstrip=True)
    saved(folder, backend, chat_template=TURNS, **END)


@kind
def added_words(folder):
    backend = gpt2_backend()
    backend.add_tokens([tokenizers.AddedToken("Hello", lstrip=True), "THANK"])
    saved(folder, backend, **END)


@kind
def another_end_token(folder):
    backend = gpt2_backend("</s>", "<s>")
    saved(folder, backend, eos_token="</s>", bos_token="<s>", unk_token="</s>")


@kind
def another_end_token_in_the_older_file(folder):
    gpt2_files(folder, end="</s>")
    names = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "</s>")
    write(folder, special_tokens_map=names)


@kind
def a_prefix_space(folder):
    gpt2_files(folder)
    write(folder, tokenizer_config={"add_prefix_space": True, "tokenizer_class": "GPT2Tokenizer"})


@kind
def a_normalizer(folder):
    backend = gpt2_backend()
    backend.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()])
    saved(folder, backend, **END)


@kind
def a_normalizer_that_gpt2s_class_ignores(folder):
    backend = gpt2_backend()
    backend.normalizer = normalizers.Lowercase()
    saved(folder, backend, tokenizer_class="GPT2Tokenizer", **END)


@kind
def digits_that_gpt2s_class_does_not_split(folder):
    train_tokenizer(TEXTS, 300).save(folder)
    write(folder, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"} | END)
    model_config(folder)


@kind
def a_regular_expression(folder):
    backend = gpt2_backend()
    pattern = tokenizers.Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    saved(folder, backend, **END)


@kind
def truncation_and_padding(folder):
    backend = gpt2_backend()
    backend.enable_truncation(5)
    backend.enable_padding(length=200)
    saved(folder, backend, **END)


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] # : . , ? ! + 0 1 2 ##0 ##2 ##4 prompt response hello there"
WORDS += (
    " who are you what is be kind in words please thank ##s wor ##ds 日 本 語 Hello There THANK"
)


@kind
def bert_in_small_letters(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n", encoding="utf-8")
    write(folder, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    model_config(folder, vocab_size=len(WORDS.split()))


@kind
def bert_with_capitals_and_only_a_class_in_the_config(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n", encoding="utf-8")
    write(folder, tokenizer_config={"do_lower_case": False})
    model_config(folder, vocab_size=len(WORDS.split()), tokenizer_class="BertTokenizer")


@kind
def word_pieces_in_tokenizer_json(folder):
    vocab = {word: index for index, word in enumerate(WORDS.split())}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(WORDS.split()[:5])
    saved(folder, backend, sep_token="[SEP]", unk_token="[UNK]")
    model_config(folder, vocab_size=len(vocab))


def spm(folder: Path, name: str, model_type: int) -> None:
    """Write a sentencepiece model: 1 is Unigram, 2 is BPE."""
    proto = sentencepiece.ModelProto()
    proto.trainer_spec.model_type = model_type
    for number, piece in enumerate(("<unk>", "<s>", "</s>")):
        kind_of = 2 if number == 0 else 3
        proto.pieces.add(piece=piece, score=0.0, type=kind_of)
    letters = sorted({c for text in TEXTS for c in text if not c.isspace()})
    pieces = ["▁", *letters, "▁t", "he", "▁the", "ou", "yo", "you", "▁H", "el", "▁Hel", "lo"]
    for number, piece in enumerate(pieces):
        proto.pieces.add(piece=piece, score=-float(number + 1), type=1)
    proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id = 0, 1, 2
    proto.normalizer_spec.add_dummy_prefix = True
    (folder / name).write_bytes(proto.SerializeToString())


@kind
def sentencepiece_of_t5s_class(folder):
    spm(folder, "spiece.model", 1)
    write(folder, tokenizer_config={"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    model_config(folder)


@kind
def sentencepiece_of_llamas_class(folder):
    spm(folder, "tokenizer.model", 2)
    write(folder, tokenizer_config={"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"})
    model_config(folder)


@kind
def unigrams_in_tokenizer_json(folder):
    letters = sorted({c for text in TEXTS for c in text if not c.isspace()})
    vocab = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("▁", -2.0),
        *((c, -3.0) for c in letters),
        ("▁the", -1.0),
    ]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "</s>"])
    saved(folder, backend, eos_token="</s>", unk_token="<unk>")


@kind
def robertas_class(folder):
    gpt2_files(folder, end="</s>")
    write(folder, tokenizer_config={"tokenizer_class": "RobertaTokenizer", "eos_token": "</s>"})


@kind
def special_tokens_as_text(folder):
    saved(folder, gpt2_backend(), split_special_tokens=True, chat_template=NAMED, **END)


@kind
def settings_that_nobody_knows(folder):
    saved(folder, gpt2_backend(), strange={"a": 1}, **END)


@kind(refused="is broken|custom code|not built on the tokenizers library")
def code_of_its_own(folder):
    auto = {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
    gpt2_files(folder)
    write(folder, tokenizer_config={"tokenizer_class": "XTokenizer"} | auto)
    (folder / "tokenization_x.py").write_text("raise SystemExit('ran')")


@kind(refused="not built on the tokenizers library")
def bytes_in_python(folder):
    write(folder, tokenizer_config={"tokenizer_class": "ByT5Tokenizer"}, vocab={})
    model_config(folder)


def rendered_by_us(folder: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(str(folder))
    template = load_chat_template(folder, tokenizer)
    return [template(talk) for talk in TALKS]


def rendered_by_transformers(folder: Path) -> list[list[int]]:
    if (folder / "encoder.json").exists():  # which transformers does not open
        theirs = transformers.GPT2Tokenizer(
            vocab=json.loads((folder / "encoder.json").read_text(encoding="utf-8")),
            merges=[
                tuple(line.split(" "))
                for line in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
            ],
        )
    else:
        theirs = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    options = {}
    if template_source(folder) is None:
        options["chat_template"] = jinja(load_tokenizer(str(folder)).end_token)
    return [
        theirs.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in talk],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            padding=False,
            truncation=False,
            **options,
        )["input_ids"]
        for talk in TALKS
    ]


@pytest.mark.parametrize("name", [name for name in KINDS if name not in REFUSED])
def test_a_conversation_has_the_ids_of_transformers(name, tmp_path):
    KINDS[name](tmp_path)
    if not (tmp_path / "tokenizer.json").exists() and list(tmp_path.glob("*.model")):
        pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
    ids = rendered_by_us(tmp_path)
    assert ids == rendered_by_transformers(tmp_path)
    assert len({*ids[1]}) > 5  # not all the same unknown token


@pytest.mark.parametrize("name", REFUSED)
def test_or_it_is_refused_in_one_line(name, tmp_path):
    KINDS[name](tmp_path)
    with pytest.raises(UserError, match=REFUSED[name]) as error:
        rendered_by_us(tmp_path)
    assert "\n" not in str(error.value)


def test_without_the_library_of_sentencepiece_it_says_what_to_install(tmp_path, monkeypatch):
    sentencepiece_of_t5s_class(tmp_path)
    monkeypatch.setattr("src.data.tokenizer_files._has_sentencepiece", lambda: False)
    with pytest.raises(
        UserError, match=r"spiece\.model is a sentencepiece model.*pip install 'gpt2-chat"
    ):
        load_tokenizer(str(tmp_path))


def test_there_are_thirty_kinds():
    assert len(KINDS) >= 30


@pytest.mark.parametrize(
    "extra", [{}, {"[PAD]": 50257, "<|im_start|>": 50258, "<|im_end|>": 50259}]
)
def test_gpt2s_own_vocabulary_with_and_without_added_tokens(extra, tmp_path):
    for path in shared_data("gpt2-tokenizer").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model_config(tmp_path)
    if extra:
        write(tmp_path, added_tokens=extra)
        (tmp_path / "chat_template.jinja").write_text(TURNS)
    ids = rendered_by_us(tmp_path)
    assert ids == rendered_by_transformers(tmp_path)
    assert not extra or 50258 in ids[0]
