"""The model folder: one directory that Hugging Face's tools and ours both open.

``config.json``, ``model.safetensors``, ``tokenizer.json``, ``tokenizer_config.json``,
``chat_template.jinja``, ``generation_config.json``.
"""

from pathlib import Path

from src import atomic
from src.data.template import save_template
from src.data.tokenizer import SETTINGS, Tokenizer, load_tokenizer
from src.errors import UserError
from src.hub import local_folder
from src.model.generation_config import NUMBERS, GenerationConfig
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained, save_pretrained
from src.talk.chat_template import ChatTemplate, load_chat_template

GENERATION_SETTINGS = "generation_config.json"

# What a hub is asked for, and what an export takes along.
FILES = (
    "config.json",
    "*.safetensors*",
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
    "*.jinja",
    GENERATION_SETTINGS,
)
NEEDED = ("config.json", "*.safetensors", SETTINGS)  # a cached copy without them is incomplete


def save_model_folder(
    folder: Path, model: GPT2, tokenizer: Tokenizer, generation: GenerationConfig
) -> None:
    """Write the folder, or new weights into it.

    The first time it appears whole, under a temporary name until then; later only the weights
    change, in a single step. So a folder of this name can be read at any moment.
    """
    if folder.exists():
        save_pretrained(model, folder, tokenizer.end_id)
        return
    with atomic.folder(folder) as building:
        save_pretrained(model, building, tokenizer.end_id)
        tokenizer.save(building)
        save_template(building)
        settings = _generation_settings(generation, tokenizer.end_id)
        atomic.write_json(building / GENERATION_SETTINGS, settings)


def load_model_folder(
    name_or_path: str, key: str = "model_path"
) -> tuple[GPT2, Tokenizer, ChatTemplate]:
    """Load model, tokenizer and chat template of a folder or hub name.

    Raises:
        UserError: there is none, or it is no GPT-2; names ``key``.
    """
    folder = local_folder(name_or_path, FILES, required=NEEDED, key=key)
    model = load_pretrained(str(folder), key=key)
    tokenizer = load_tokenizer(str(folder), key=key)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{key}={name_or_path}: its tokenizer has {tokenizer.vocab_size} tokens, its model "
            f"only {model.config.vocab_size}"
        )
    return model, tokenizer, load_chat_template(folder, tokenizer)


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
            f"no trained model in {runs}: run `make quickstart` or `python -m src.train` first, "
            f"or name one with model_path="
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
