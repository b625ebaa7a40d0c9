"""An export reads a model folder or a checkpoint, and writes a folder for other programs."""

import filecmp
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from src.data.template import is_ours, jinja, save_template
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.exporting.new_folder import new_folder
from src.files import atomic
from src.files.checksums import write_sums
from src.model.gpt2 import GPT2
from src.model.pretrained import num_bytes, save_pretrained
from src.model.weights_file import SAFETENSORS_FILES, WEIGHTS, has_checksum, weights_files
from src.talk.chat_template import template_source
from src.talk.model_folder import CARD, FILES, load_model_folder, model_folder

MODEL = "model.gguf"
BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}  # of a parameter


@dataclass(frozen=True)
class Source:
    """A model in memory, and the folder with its tokenizer and settings."""

    name: str  # of the run, or of the model on the hub, in characters that a file's name may have
    model: GPT2
    tokenizer: Tokenizer
    end_ids: frozenset[int]  # any of them ends a reply
    folder: Path
    weights_in_folder: bool  # whether the folder's weights are the model's

    @property
    def ordered_end_ids(self) -> list[int]:
        """The tokens that end a reply, the tokenizer's first."""
        end_id = self.tokenizer.end_id
        return [end_id, *sorted(self.end_ids - {end_id})]


def open_model_folder(name_or_path: str) -> Source:
    """Load a model folder or hub name, every file of it checked.

    Raises:
        UserError: there is none, it is no GPT-2, or it is broken.
    """
    folder = model_folder(name_or_path, "model_path")
    model, tokenizer, _, end_ids = load_model_folder(name_or_path)
    here = Path(name_or_path).expanduser().is_dir()
    name = _name(folder.resolve()) if here else name_or_path.rsplit("/", 1)[-1]
    return Source(_plain(name), model, tokenizer, end_ids, folder, bool(weights_files(folder)))


def open_checkpoint(path: Path, step: int, weights: Mapping[str, Tensor]) -> Source:
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
    model, tokenizer, _, end_ids = load_model_folder(str(folder), "checkpoint")
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if wrong := sorted(set(expected.items()) ^ set(shapes.items())):
        raise UserError(
            f"checkpoint={path}: its weights are not those of {folder}, for example {wrong[0][0]}"
        )
    model.load_state_dict(weights)
    return Source(_plain(f"{run.name}-step{step}"), model, tokenizer, end_ids, folder, False)


def write_hugging_face_folder(source: Source, folder: Path, overwrite: bool) -> None:
    """Write a model folder.

    Files of the source are copied and compared; a source without a chat template gets ours, which
    ``src.chat`` uses for it.

    Raises:
        UserError: ``folder`` cannot be written.
    """
    with new_folder(folder, overwrite, size=num_bytes(source.model)) as building:
        if not source.weights_in_folder:
            first, *others = source.ordered_end_ids
            save_pretrained(source.model, building, first, others)
        for path in _files(source):
            shutil.copyfile(path, building / path.name)
            if not filecmp.cmp(path, building / path.name, shallow=False):
                raise UserError(f"output={folder}: {path.name} was not written as it was read")
        if template_source(building) is None:
            save_template(building, source.tokenizer.end_token)
        names = {path.name for path in building.iterdir()}
        weights = {path.name for path in building.glob(WEIGHTS) if has_checksum(path)}
        write_sums(building, names - weights - {CARD})


def write_gguf_folder(source: Source, folder: Path, dtype: str, overwrite: bool) -> None:
    """Write ``model.gguf`` for llama.cpp, and a ``Modelfile`` for Ollama.

    Raises:
        UserError: ``folder`` cannot be written, or llama.cpp has no such tokenizer.
    """
    from src.exporting.gguf_file import write_gguf
    from src.exporting.modelfile import modelfile

    size = int(BYTES[dtype] * source.model.num_parameters)
    with new_folder(folder, overwrite, size=size) as building:
        template = template_source(source.folder)
        if template is None or is_ours(template, source.tokenizer.end_token):
            template = jinja(source.tokenizer.end_token)
        ends = [source.tokenizer.decode([index]) for index in source.ordered_end_ids]
        text = modelfile(MODEL, source.folder, template, source.model.config.n_positions, ends)
        atomic.write_text(building / "Modelfile", text)
        try:
            write_gguf(
                building / MODEL,
                source.model,
                source.tokenizer,
                template,
                dtype,
                source.name,
                source.ordered_end_ids,
            )
        except UserError as error:
            raise UserError(f"{source.folder}: {error}") from error


def _files(source: Source) -> list[Path]:
    """Return the files of a folder that belong to its model, and no others.

    Raises:
        UserError: one is a link that leads out of the folder.
    """
    folder = source.folder
    settings = (pattern for pattern in FILES if pattern not in SAFETENSORS_FILES)
    paths = {path for pattern in settings for path in folder.glob(pattern)}
    if source.weights_in_folder:
        paths |= weights_files(folder) | {folder / CARD}
    else:
        paths.discard(folder / "config.json")
    files = sorted(path for path in paths if path.is_file() and not path.name.startswith("."))
    root = folder.resolve()
    if root.parent.name == "snapshots":  # in the hub's cache a snapshot's files are links to blobs
        root = root.parents[1]
    for path in files:
        if not path.resolve().is_relative_to(root):
            raise UserError(
                f"{path} is a link that leads out of its folder, to {path.resolve()}: put the "
                f"file itself there"
            )
    return files


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == "model" else folder.name


def _plain(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", name).strip("._") or "model"
