"""Take a trained model elsewhere: ``python -m src.export format=gguf dtype=q8_0``.

It writes a folder: Hugging Face's files, or a GGUF with a Modelfile; ``checkpoint=`` takes the
newest weights of a run instead of its best.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig

from src.checks import check, one_of
from src.command.cli import RUNS, require, run_door, typed
from src.errors import UserError
from src.streams import say
from src.wording.command_line import command

if TYPE_CHECKING:
    from src.exporting.exports import Source

EXPORTS = Path("outputs/export")
FORMATS = ("huggingface", "gguf")
DTYPES = ("f32", "f16", "q8_0")


@dataclass
class ExportConfig:
    """The values of ``conf/export.yaml``."""

    format: Annotated[str, one_of(FORMATS)]
    model_path: str | None
    checkpoint: str | None
    output: str | None
    dtype: Annotated[str, one_of(DTYPES)]
    overwrite: bool

    def __post_init__(self) -> None:
        """Check the values; raise UserError naming the key."""
        check(self)
        if self.format != "gguf" and self.dtype != DTYPES[0]:
            raise UserError(
                f"dtype={self.dtype} is for format=gguf: a Hugging Face folder keeps its weights "
                f"as they are"
            )


def export(config: DictConfig, **text: str) -> None:
    """Write the export and say what to do with it."""
    settings = typed(ExportConfig, config, **text)
    if settings.model_path is not None and settings.checkpoint is not None:
        raise UserError("model_path and checkpoint are both given: name one of them")
    if settings.format == "gguf":
        require("gguf", "gguf", "format=gguf")

    from src.exporting.exports import write_gguf_folder, write_hugging_face_folder

    source = _open(settings)
    kind = settings.dtype if settings.format == "gguf" else settings.format
    folder = Path(settings.output or EXPORTS / f"{source.name}-{kind}").expanduser()
    if settings.format == "gguf":
        write_gguf_folder(source, folder, settings.dtype, settings.overwrite)
    else:
        write_hugging_face_folder(source, folder, settings.overwrite)
    size = sum(path.stat().st_size for path in folder.iterdir())
    parameters = source.model.num_parameters
    say(f"wrote {folder}: {parameters:,} parameters, {kind}, {size / 1e6:,.1f} MB")
    for line in _next_commands(settings.format, folder):
        say(line)


def _open(settings: ExportConfig) -> "Source":
    from src.exporting.exports import open_checkpoint, open_model_folder
    from src.talk.model_folder import newest_model_folder

    if settings.checkpoint is None:
        return open_model_folder(settings.model_path or str(newest_model_folder(RUNS)))

    from src.training.checkpoints import read_weights, resolve_checkpoint  # imports Lightning

    path = resolve_checkpoint(settings.checkpoint)
    step, weights = read_weights(path)
    return open_checkpoint(path, step, weights)


def _next_commands(kind: str, folder: Path) -> list[str]:
    path = shlex.quote(str(folder))
    if kind == "gguf":
        return [
            f"llama.cpp:     llama-cli -m {path}/model.gguf --jinja --temp 0",
            f"Ollama:        ollama create gpt2-chat -f {path}/Modelfile && ollama run gpt2-chat",
        ]
    return [
        f'here:          {command("chat", model_path=folder)} prompt="Who are you?"',
        f"transformers:  transformers serve {path}",
    ]


if __name__ == "__main__":
    run_door(export, "export", free_text=("model_path", "checkpoint", "output"))
