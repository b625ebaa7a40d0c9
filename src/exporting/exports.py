"""A trained model on its way elsewhere: from a model folder or a checkpoint to other folders."""

import filecmp
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from src import atomic
from src.data.template import save_template
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.exporting.new_folder import new_folder
from src.hub import local_folder
from src.model.gpt2 import GPT2
from src.model.pretrained import save_pretrained
from src.talk.chat_template import template_source
from src.talk.model_folder import FILES, NEEDED, load_model_folder

WEIGHTS = "*.safetensors"
MODEL = "model.gguf"


@dataclass(frozen=True)
class Trained:
    """A model in memory, and the folder that the files beside its weights come from."""

    name: str  # of the run, or of the model on the hub: fit for a file's name
    model: GPT2
    tokenizer: Tokenizer
    folder: Path
    weights_in_folder: bool  # the folder's own weights are the model's


def open_model_folder(name_or_path: str) -> Trained:
    """Load a model folder or hub name, every file of it checked.

    Raises:
        UserError: there is none, it is no GPT-2, or it is broken.
    """
    folder = local_folder(name_or_path, FILES, required=NEEDED, key="model_path")
    model, tokenizer, _ = load_model_folder(name_or_path)
    here = Path(name_or_path).expanduser().is_dir()
    name = _name(folder.resolve()) if here else name_or_path.rsplit("/", 1)[-1]
    return Trained(_plain(name), model, tokenizer, folder, any(folder.glob(WEIGHTS)))


def open_checkpoint(path: Path, step: int, weights: Mapping[str, Tensor]) -> Trained:
    """Return a run's model with the ``weights`` of its checkpoint at ``path``.

    Shape, tokenizer and template are those of the run's model folder.

    Raises:
        UserError: the run has no model folder, or the weights are not of that model.
    """
    run = path.resolve().parents[1]
    folder = run / "model"
    if not folder.is_dir():
        raise UserError(
            f"checkpoint={path}: {folder}, which holds its tokenizer, is not there: leave the "
            f"checkpoint in its run folder"
        )
    model, tokenizer, _ = load_model_folder(str(folder), "checkpoint")
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if wrong := sorted(set(expected.items()) ^ set(found.items())):
        raise UserError(
            f"checkpoint={path}: its weights are not those of {folder}, for example {wrong[0][0]}"
        )
    model.load_state_dict(weights)
    return Trained(_plain(f"{run.name}-step{step}"), model, tokenizer, folder, False)


def write_hugging_face_folder(trained: Trained, folder: Path, overwrite: bool) -> None:
    """Write a model folder.

    Files that are there already are copied as they are, and compared; a folder without a chat
    template gets ours, with which it is spoken to here.

    Raises:
        UserError: ``folder`` cannot be written.
    """
    with new_folder(folder, overwrite) as building:
        if not trained.weights_in_folder:
            save_pretrained(trained.model, building, trained.tokenizer.end_id)
        for path in _files(trained):
            shutil.copyfile(path, building / path.name)
            if not filecmp.cmp(path, building / path.name, shallow=False):
                raise UserError(f"output={folder}: {path.name} was not written as it was read")
        if template_source(building) is None:
            save_template(building)


def write_gguf_folder(trained: Trained, folder: Path, dtype: str, overwrite: bool) -> None:
    """Write ``model.gguf`` for llama.cpp, and a ``Modelfile`` that makes it Ollama's.

    Raises:
        UserError: ``folder`` cannot be written, or llama.cpp has nothing like the tokenizer.
    """
    from src.exporting.gguf_file import write_gguf
    from src.exporting.modelfile import modelfile

    with new_folder(folder, overwrite) as building:
        source = template_source(trained.folder)
        text = modelfile(MODEL, trained.folder, source, trained.model.config.n_positions)
        atomic.write_text(building / "Modelfile", text)
        try:
            write_gguf(
                building / MODEL, trained.model, trained.tokenizer, source, dtype, trained.name
            )
        except UserError as error:
            raise UserError(f"{trained.folder}: {error}") from error


def _files(trained: Trained) -> list[Path]:
    found = {path for pattern in FILES for path in trained.folder.glob(pattern)}
    if not trained.weights_in_folder:
        found -= set(trained.folder.glob(f"{WEIGHTS}*"))
    return sorted(found)


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == "model" else folder.name


def _plain(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", name).strip("._") or "model"
