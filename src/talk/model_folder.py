"""The model folder: one directory that Hugging Face's tools and ours both open.

``config.json``, ``model.safetensors``, ``tokenizer.json``, ``tokenizer_config.json``,
``chat_template.jinja``, ``generation_config.json``; ``SHA256SUMS`` of all but the weights, which
hold a checksum of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.template import save_template
from src.data.tokenizer import Tokenizer, load_tokenizer
from src.data.tokenizer_files import FILES as TOKENIZER_FILES
from src.errors import UserError
from src.files import atomic
from src.files.checksums import SUMS, warn_of_changes, write_sums
from src.files.json_file import read_settings
from src.files.model_files import VOCABULARIES, check_files
from src.model.generation_config import NUMBERS, GenerationConfig
from src.model.gpt2 import GPT2
from src.model.pretrained import config_text, load_pretrained, num_bytes, save_weights
from src.model.pretrained_config import read_config
from src.model.scalar import OFFSET
from src.model.weights_file import SAFETENSORS_FILES, WEIGHTS, folder_with_weights
from src.talk.chat_template import ChatTemplate, load_chat_template
from src.talk.messages import Message
from src.wording.command_line import command, quickstart

GENERATION_SETTINGS = "generation_config.json"
CARD = "README.md"  # written by src/training/card.py; a person may edit it, so it has no sum
GPT2_END_ID = 50256  # what transformers takes where config.json is silent

# The files that are fetched from the hub, and that an export copies.
FILES = ("config.json", *TOKENIZER_FILES, "*.jinja", GENERATION_SETTINGS, *SAFETENSORS_FILES)
REQUIRED = ("config.json", "|".join(VOCABULARIES))  # in a complete copy of the hub's cache


class ModelFolder(NamedTuple):
    """What a folder holds; any of ``end_ids`` ends a reply."""

    model: GPT2
    tokenizer: Tokenizer
    template: ChatTemplate
    end_ids: frozenset[int]


class Reading(NamedTuple):
    """How the model of a folder reads and ends text, and how much; any of ``end_ids`` ends it."""

    tokenizer: Tokenizer
    template: ChatTemplate
    end_ids: frozenset[int]
    vocab_size: int
    n_positions: int


def save_model_folder(
    folder: Path, model: GPT2, tokenizer: Tokenizer, generation: GenerationConfig
) -> None:
    """Write the folder, or new weights into it.

    A new folder gets its name when it is complete; so does one of another config or tokenizer than
    it has. Else only the weights change, in a single step, and what a person has edited beside them
    stays. So ``folder`` can be read at any moment, and holds parts of one model only.

    Raises:
        disk.Unwritten: the disk refuses; the older folder stays.
    """
    bound = {"config.json": config_text(model, tokenizer.end_id), **tokenizer.files()}
    if all(_holds(folder / name, text) for name, text in bound.items()):
        atomic.sweep(folder.parent)
        save_weights(model, folder)
        return
    with atomic.folder(folder, size=num_bytes(model)) as building:
        for name, text in bound.items():
            atomic.write_text(building / name, text)
        save_template(building, tokenizer.end_token)
        settings = _generation_settings(generation, tokenizer.end_id)
        atomic.write_json(building / GENERATION_SETTINGS, settings)
        save_weights(model, building)
        # The weights, which change, hold a checksum of their own.
        write_sums(building, {path.name for path in building.iterdir()} - {WEIGHTS})


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def load_model_folder(name_or_path: str, key: str = "model_path") -> ModelFolder:
    """Load model, tokenizer, chat template and end tokens of a folder or hub name.

    Raises:
        UserError: there is none, or it is no GPT-2; names ``key``.
    """
    folder = _talking_folder(name_or_path, key)
    model = load_pretrained(str(folder), key=key)
    return ModelFolder(model, *_texts(folder, name_or_path, key, model.config.vocab_size))


def read_model_folder(name_or_path: str, key: str = "model_path") -> Reading:
    """Load what a folder or hub name holds beside its weights.

    Raises:
        UserError: there is none, or it is no GPT-2; names ``key``.
    """
    folder = _talking_folder(name_or_path, key)
    try:
        shape = read_config(folder, 0.0, None).shape
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error
    texts = _texts(folder, name_or_path, key, shape.vocab_size)
    return Reading(*texts, shape.vocab_size, shape.n_positions)


def _talking_folder(name_or_path: str, key: str) -> Path:
    folder = model_folder(name_or_path, key)
    if OFFSET in read_settings(folder / "config.json"):
        raise UserError(
            f"{key}={name_or_path}: a reward model, which gives a reply a number and says nothing: "
            f"name a model that talks"
        )
    return folder


def _texts(
    folder: Path, name_or_path: str, key: str, vocab_size: int
) -> tuple[Tokenizer, ChatTemplate, frozenset[int]]:
    """Return tokenizer, template and end tokens of a model with so many tokens."""
    tokenizer = load_tokenizer(str(folder), key=key)
    template = load_chat_template(folder, tokenizer)
    if tokenizer.vocab_size > vocab_size:
        if not _only_added_tokens_beyond(vocab_size, tokenizer):
            raise UserError(
                f"{key}={name_or_path}: its tokenizer has {tokenizer.vocab_size} tokens, its model "
                f"only {vocab_size}"
            )
        template = _bounded(template, tokenizer, vocab_size)
    return tokenizer, template, end_ids(folder, tokenizer, vocab_size)


def model_folder(name_or_path: str, key: str) -> Path:
    """Return the local folder of a model with all files that we read.

    Raises:
        UserError: it is neither a folder here nor a model that the hub or its cache holds, or one
            of its files is not to be opened.
    """
    folder = folder_with_weights(name_or_path, (*FILES, SUMS), REQUIRED, key)
    try:
        check_files(folder, FILES)
        warn_of_changes(folder, lambda name: name != WEIGHTS)  # which are read later
    except UserError as error:
        raise UserError(f"{key}={name_or_path}: {error}") from error
    return folder


def end_ids(folder: Path, tokenizer: Tokenizer, vocab_size: int) -> frozenset[int]:
    """Return the tokens that end a reply: the tokenizer's end token, and those of the model.

    The model's are in ``generation_config.json``, or else in ``config.json``, as transformers
    takes them. A ``config.json`` is saved with GPT-2's own number for any vocabulary: beside a
    generation config, its token counts only if it is a special one.

    Raises:
        UserError: a file is broken, or names what is no token.
    """
    special = set(tokenizer.special_tokens.values())
    of_generation = _token_ids(folder / GENERATION_SETTINGS)
    of_config = _token_ids(folder / "config.json")
    if of_config is None:
        of_config = {GPT2_END_ID} & special
    elif of_generation is not None:
        of_config &= special
    ids = {tokenizer.end_id} | (of_generation or set()) | of_config
    return frozenset(index for index in ids if 0 <= index < vocab_size)


def _token_ids(path: Path) -> set[int] | None:
    """Return the end tokens that a file names; None: it is silent."""
    settings = read_settings(path)
    if "eos_token_id" not in settings:
        return None
    value = settings["eos_token_id"]
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in ids):
        raise UserError(f"{path}: eos_token_id={value!r:.100} is neither a token's id nor several")
    return set(ids)


def _only_added_tokens_beyond(vocab_size: int, tokenizer: Tokenizer) -> bool:
    """Whether the ids beyond a model's are of added tokens, such as one for padding."""
    added = tokenizer.backend.get_added_tokens_decoder()
    ids = tokenizer.backend.get_vocab(with_added_tokens=True).values()
    return tokenizer.end_id < vocab_size and all(i < vocab_size or i in added for i in ids)


def _bounded(template: ChatTemplate, tokenizer: Tokenizer, vocab_size: int) -> ChatTemplate:
    def encode(messages: Sequence[Message]) -> list[int]:
        ids = template(messages)
        if (largest := max(ids, default=0)) >= vocab_size:
            token = tokenizer.backend.id_to_token(largest)
            raise UserError(f"the model has no weights for {token!r}, which its tokenizer added")
        return ids

    return encode


def model_folders(runs: Path) -> list[Path]:
    """Return the model folders of all runs under ``runs``, the newest first."""
    weights = sorted(
        runs.rglob("model/model.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    return [path.parent for path in weights]


def newest_model_folder(runs: Path) -> Path:
    """Return the model folder of the newest run under ``runs``.

    Raises:
        UserError: no run has written one yet.
    """
    folders = model_folders(runs)
    if not folders:
        raise UserError(
            f"no trained model in {runs}: run `{quickstart()}` or `{command('train')}` first, or "
            f"name one with model_path="
        )
    return folders[0]


def _generation_settings(config: GenerationConfig, end_id: int) -> dict[str, object]:
    settings: dict[str, object] = {
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
        "do_sample": config.temperature > 0,
    }
    for name, setting in NUMBERS.items():
        if setting.hugging_face is None or (setting.sampling_only and config.temperature == 0):
            continue
        value = getattr(config, name)
        # transformers has defaults of its own for what the file leaves out: 50 for top_k.
        if value is not None or setting.hugging_face_default is not None:
            settings[setting.hugging_face] = setting.to_number(value)
    return settings
