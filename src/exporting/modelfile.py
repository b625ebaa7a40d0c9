"""Ollama's Modelfile: the weights' file, the chat template and the generation settings.

https://docs.ollama.com/modelfile
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.data.template import PROMPT_HEADER, RESPONSE_HEADER, is_ours
from src.data.tokenizer import END_OF_TEXT
from src.errors import UserError
from src.files.json_file import is_number, read_settings
from src.model.generation_config import NUMBERS
from src.talk.model_folder import GENERATION_SETTINGS

# Our template in Go's language, which cannot trim: white space around a text stays. Its end token
# is the tokenizer's.
GO_TEMPLATE = (
    "{{ range .Messages }}"
    '{{ if eq .Role "system" }}{{ if .Content }}{{ .Content }}\n\n{{ end }}'
    '{{ else if eq .Role "user" }}' + PROMPT_HEADER + "{{ .Content }}\n" + RESPONSE_HEADER + ""
    '{{ else if eq .Role "assistant" }} {{ .Content }}' + END_OF_TEXT + ""
    "{{ end }}{{ end }}"
)


def modelfile(
    weights: str,
    folder: Path,
    template: str | None,
    num_positions: int,
    ends: Sequence[str] = (END_OF_TEXT,),
) -> str:
    """Return the Modelfile of a model folder.

    Args:
        weights: the GGUF's name; the file is beside the Modelfile.
        folder: of the model; its ``generation_config.json`` is optional.
        template: its chat template in Jinja; None: ours. Ollama runs ours only; for any other it
            looks in the GGUF for one that it knows.
        num_positions: the most tokens that the model reads and writes together.
        ends: the texts of the tokens that end an answer, the tokenizer's end token first.

    Raises:
        UserError: ``generation_config.json`` is broken.
    """
    lines = [f"FROM ./{weights}"]
    if template is None or is_ours(template, ends[0]):
        lines.append(f'TEMPLATE """{GO_TEMPLATE.replace(END_OF_TEXT, ends[0])}"""')
    else:
        lines.append("# TEMPLATE: the model's own is Jinja; Ollama wants it in Go's language here")
    lines += [f"PARAMETER stop {_quoted(end)}" for end in ends]
    parameters = {"num_ctx": num_positions, **_parameters(folder)}
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # Between three quotes a text may hold one.
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _parameters(folder: Path) -> dict[str, Any]:
    """Return the folder's settings by Ollama's names; without settings, greedy."""
    path = folder / GENERATION_SETTINGS
    settings = read_settings(path)
    is_sampling = settings.get("do_sample", False)
    if not isinstance(is_sampling, bool | None):
        raise UserError(f"{path}: do_sample={is_sampling!r:.100} is neither true nor false")
    parameters: dict[str, Any] = {} if is_sampling else {"temperature": 0}
    # Every setting is written, for Ollama has other defaults. Its top_k=0 means all tokens, too.
    for setting in NUMBERS.values():
        if setting.ollama is None or (setting.sampling_only and not is_sampling):
            continue
        value = settings.get(setting.hugging_face) if setting.hugging_face else None
        if value is not None and not is_number(value):
            raise UserError(f"{path}: {setting.hugging_face}={value!r:.100} is no number")
        value = setting.to_number(setting.hugging_face_default if value is None else value)
        if value is not None:
            parameters[setting.ollama] = value
    return parameters
