"""Ollama's Modelfile: the weights' file, the chat template and the generation settings.

https://docs.ollama.com/modelfile
"""

from pathlib import Path
from typing import Any

from src.data.template import JINJA, PROMPT_HEADER, RESPONSE_HEADER
from src.data.tokenizer import END_OF_TEXT
from src.json_file import read_settings
from src.model.generation_config import NUMBERS
from src.talk.model_folder import GENERATION_SETTINGS

# Our template in Go's language, which cannot trim: white space around a text stays.
GO_TEMPLATE = (
    "{{ range .Messages }}"
    '{{ if eq .Role "system" }}{{ if .Content }}{{ .Content }}\n\n{{ end }}'
    '{{ else if eq .Role "user" }}' + PROMPT_HEADER + "{{ .Content }}\n" + RESPONSE_HEADER + ""
    '{{ else if eq .Role "assistant" }} {{ .Content }}' + END_OF_TEXT + ""
    "{{ end }}{{ end }}"
)


def modelfile(weights: str, folder: Path, template: str | None, num_positions: int) -> str:
    """Return the Modelfile of a model folder.

    Args:
        weights: the GGUF's name; the file is beside the Modelfile.
        folder: of the model; its ``generation_config.json`` is optional.
        template: its chat template in Jinja; None: ours. Ollama runs ours only; for any other it
            looks in the GGUF for one that it knows.
        num_positions: the most tokens that the model reads and writes together.

    Raises:
        UserError: ``generation_config.json`` is broken.
    """
    lines = [f"FROM ./{weights}"]
    if template in (None, JINJA):
        lines.append(f'TEMPLATE """{GO_TEMPLATE}"""')
    else:
        lines.append("# TEMPLATE: the model's own is Jinja; Ollama wants it in Go's language here")
    parameters = {"stop": f'"{END_OF_TEXT}"', "num_ctx": num_positions, **_parameters(folder)}
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def _parameters(folder: Path) -> dict[str, Any]:
    """Return the folder's settings by Ollama's names; without settings, greedy."""
    settings = read_settings(folder / GENERATION_SETTINGS)
    is_sampling = settings.get("do_sample", False)
    parameters: dict[str, Any] = {} if is_sampling else {"temperature": 0}
    # Every setting is written, for Ollama has other defaults. Its top_k=0 means all tokens, too.
    for setting in NUMBERS.values():
        if setting.ollama is None or (setting.sampling_only and not is_sampling):
            continue
        value = settings.get(setting.hugging_face) if setting.hugging_face else None
        value = setting.to_number(setting.hugging_face_default if value is None else value)
        if value is not None:
            parameters[setting.ollama] = value
    return parameters
