"""The tokenizer files of a model folder.

The ``tokenizers`` library alone reads a folder that holds nothing but what it takes as
transformers does. Every other folder goes to transformers' ``AutoTokenizer``, which takes seconds
to import: ``added_tokens.json``, WordPiece, sentencepiece, tokens that only a setting names.
"""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from src.data.auto_tokenizer import auto_tokenizer
from src.data.byte_alphabet import BYTES
from src.data.tokenizer_limits import check_lines, check_numbers, check_pieces, check_state
from src.errors import UserError
from src.files.checksums import warn_of_changes
from src.files.json_file import read_settings, refuse_pointer
from src.files.model_files import VOCABULARIES, check_files, read_file
from src.hub import first_line

END_OF_TEXT = "<|endoftext|>"
TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
NAMES = "special_tokens_map.json"
ADDED = "added_tokens.json"
BPE_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # the latter: OpenAI's
LINES = ("vocab.txt", "merges.txt", "vocab.bpe")  # of one entry a line

# All files that decide the ids, as patterns; config.json names a class.
FILES = (
    *("tokenizer*.json", NAMES, ADDED, "vocab.json", "merges.txt", "vocab.txt", "*.model"),
    *("encoder.json", "vocab.bpe", "config.json", "generation_config.json"),
)

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # they read tokenizer.json as it is
GPT2 = ("GPT2Tokenizer", "GPT2TokenizerFast")  # builds GPT-2's from vocabulary and merges alone
GPT2_NAMES = dict.fromkeys(("unk_token", "bos_token", "eos_token"), END_OF_TEXT)

# Settings that do not change the ids of a text. Names of tokens end in "_token".
HARMLESS = {
    *("tokenizer_class", "model_max_length", "clean_up_tokenization_spaces", "errors"),
    *("padding_side", "truncation_side", "name_or_path", "special_tokens_map_file", "backend"),
    *("chat_template", "is_local", "local_files_only", "model_input_names", "processor_class"),
    *("add_bos_token", "add_eos_token", "tokenizer_file", "use_fast", "trim_offsets"),
    *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"),
}
MANY_TOKENS = 100_000  # from here on transformers may replace the pre-tokenizer


class TokenizerFiles(NamedTuple):
    """A tokenizer and its special tokens by their names, such as ``eos_token``."""

    backend: tokenizers.Tokenizer
    names: dict[str, str]


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Return the tokenizer of a folder; its ids are those of transformers.

    Among the names is always an ``eos_token`` in the vocabulary. Where the tokenizer has none, it
    is what the model's config says, ``sep_token`` or ``<|endoftext|>``.

    Raises:
        UserError: there is none, it is broken, or it is not one of the ``tokenizers`` library.
    """
    found = [path for pattern in VOCABULARIES for path in sorted(folder.glob(pattern))]
    if not found:
        raise UserError(
            f"holds neither {TOKENIZER} nor {' + '.join(BPE_FILES[0])}, nor another vocabulary"
        )
    check_files(folder, FILES)
    for path in found:
        refuse_pointer(path)
    for name in LINES:
        check_lines(folder / name)
    for path in folder.glob("*.model"):
        check_pieces(path)
    warn_of_changes(folder, lambda name: name in (TOKENIZER, SETTINGS))
    settings = read_settings(folder / SETTINGS)
    check_numbers(settings)
    check_state(read_settings(folder / TOKENIZER))
    config = read_settings(folder / "config.json")
    try:
        own = _by_tokenizers(folder, settings, config)
        backend, names = own or _by_transformers(folder, has_config=bool(config))
        return TokenizerFiles(backend, names | {"eos_token": _end_token(backend, names, config)})
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        # The libraries raise bare Exception for a file they cannot parse; a panic of Rust is none.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UserError(f"the tokenizer is broken: {first_line(error)}") from error
        raise


def _end_token(backend: tokenizers.Tokenizer, names: dict[str, str], config: dict[str, Any]) -> str:
    size = config.get("vocab_size")
    most = size if isinstance(size, int) else 2**32
    index = config.get("eos_token_id")
    index = index[0] if isinstance(index, list) and index else index
    of_config = backend.id_to_token(index) if isinstance(index, int) and 0 <= index < most else None
    for token in (names.get("eos_token"), of_config, names.get("sep_token"), END_OF_TEXT):
        found = None if token is None else backend.token_to_id(token)
        if token is not None and found is not None and found < most:
            return token
    raise UserError(f"the tokenizer names no end token, and has no {END_OF_TEXT} token")


def byte_level(
    model: models.Model, splits: list[pre_tokenizers.PreTokenizer]
) -> tokenizers.Tokenizer:
    """Return a byte-level tokenizer with the end token ``<|endoftext|>``."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = splits[0] if len(splits) == 1 else pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.ByteLevel()
    end = tokenizers.AddedToken(END_OF_TEXT, special=True, normalized=False)
    backend.add_special_tokens([end])
    return backend


def _by_tokenizers(
    folder: Path, settings: dict[str, Any], config: dict[str, Any]
) -> TokenizerFiles | None:
    """Return what transformers would, without it; None: that is not certain."""
    kind = settings.get("tokenizer_class") or config.get("tokenizer_class")
    is_gpt2 = kind in GPT2 or (kind is None and config.get("model_type") in (None, "gpt2"))
    names = _token_names(folder, settings)
    others = {key for key in settings if key not in HARMLESS and not key.endswith("_token")}
    if names is None or others - {"add_prefix_space"} or settings.get("add_prefix_space"):
        return None
    if (folder / ADDED).exists() or not (is_gpt2 or kind in GENERIC):
        return None
    if (folder / TOKENIZER).exists():
        state = read_settings(folder / TOKENIZER)
        as_it_is = kind in GENERIC or (kind is None and not config)
        names = names if as_it_is else GPT2_NAMES | names
        if not _holds(state, settings, names) or not (as_it_is or _is_gpt2(state)):
            return None
        text = read_file(folder / TOKENIZER).decode("utf-8-sig")
        return TokenizerFiles(tokenizers.Tokenizer.from_str(text), _single(names))
    for vocabulary, merges in BPE_FILES:
        if not ((folder / vocabulary).exists() and (folder / merges).exists()):
            continue
        ids = read_settings(folder / vocabulary)
        texts = {text for value in names.values() for text in _texts(value)}
        if not is_gpt2 or texts - {END_OF_TEXT} or settings.get("added_tokens_decoder"):
            return None
        bpe = models.BPE(ids, _merges(folder / merges))
        backend = byte_level(bpe, [pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return TokenizerFiles(backend, GPT2_NAMES | _single(names))
    return None


def _merges(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a file of merges, one a line; a line may hold rare line separators."""
    try:
        lines = read_file(path).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is broken: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#version") or (not line and number == len(lines)):
            continue
        left, blank, right = line.partition(" ")
        if not (left and blank and right) or " " in right:
            raise UserError(f"{path} is broken: line {number} is no pair of tokens")
        pairs.append((left, right))
    return pairs


def _token_names(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the special tokens that the settings name, one or several each; None: unclear."""
    values = dict(settings)
    if "added_tokens_decoder" not in settings:  # transformers reads the older file only then
        values |= read_settings(folder / NAMES)
    names: dict[str, Any] = {}
    for key, value in values.items():
        is_list = key in ("additional_special_tokens", "extra_special_tokens")
        if value is None or not (key.endswith("_token") or is_list):
            continue
        if key in ("add_bos_token", "add_eos_token"):
            continue
        texts = _texts(value)
        if None in texts or (isinstance(value, list) and not is_list):
            return None
        names[key] = texts if is_list else texts[0]
    return names


def _texts(value: Any) -> list[Any]:
    """Return the texts of a token or of a list; None for what is neither."""
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    if isinstance(value, dict):
        value = value.get("content")
    return [value if isinstance(value, str) else None]


def _single(names: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in names.items() if isinstance(value, str)}


def _holds(state: dict[str, Any], settings: dict[str, Any], names: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` holds all added tokens that the settings speak of."""
    model, added = state.get("model"), state.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(added, list):
        return False
    if not isinstance(vocabulary := model.get("vocab"), dict | list):
        return False
    if len(vocabulary) + len(added) > MANY_TOKENS:
        return False
    by_id = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    decoder = settings.get("added_tokens_decoder")
    if decoder is not None and decoder != by_id:
        return False
    texts = {token["content"] for token in added if token["special"]}
    return {text for value in names.values() for text in _texts(value)} <= texts


def _is_gpt2(state: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` is what GPT2Tokenizer builds from its vocabulary and merges."""
    model, splitter = state["model"], state.get("pre_tokenizer")
    changes = (
        *("dropout", "continuing_subword_prefix", "end_of_word_suffix"),
        *("byte_fallback", "ignore_merges"),
    )
    if model.get("type", "BPE") != "BPE" or any(model.get(key) for key in changes):
        return False
    if state.get("normalizer") is not None or not isinstance(splitter, dict):
        return False
    expected = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    found = {"use_regex": True} | {k: v for k, v in splitter.items() if k != "trim_offsets"}
    vocabulary = model["vocab"]
    if found != expected or not isinstance(vocabulary, dict) or not BYTES.keys() <= set(vocabulary):
        return False
    new = [token for token in state["added_tokens"] if token["content"] not in vocabulary]
    known = [token for token in state["added_tokens"] if token["content"] in vocabulary]
    return all(vocabulary[token["content"]] == token["id"] for token in known) and all(
        token["id"] == len(vocabulary) + number for number, token in enumerate(new)
    )


def _has_sentencepiece() -> bool:
    return importlib.util.find_spec("sentencepiece") is not None


def _by_transformers(folder: Path, has_config: bool) -> TokenizerFiles:
    models_of_sentencepiece = sorted(folder.glob("*.model"))
    if models_of_sentencepiece and not (folder / TOKENIZER).exists() and not _has_sentencepiece():
        raise UserError(
            f"{models_of_sentencepiece[0].name} is a sentencepiece model, which needs its library: "
            f"pip install 'gpt2-chat[sentencepiece]'"
        )

    theirs = auto_tokenizer(folder, FILES, has_config)
    backend = getattr(theirs, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UserError(
            f"its {type(theirs).__name__} is not built on the tokenizers library: save it as "
            f"{TOKENIZER} first"
        )
    if not backend.get_vocab_size(with_added_tokens=False):
        raise UserError("the tokenizer is broken: transformers finds no vocabulary in it")
    names = {key: str(value) for key, value in theirs.special_tokens_map.items()}
    return TokenizerFiles(backend, names)
