"""Ask a trained model: ``python -m src.chat prompt="..."``; the answer goes to standard output."""

import sys
from dataclasses import dataclass, fields, replace

from omegaconf import DictConfig

from src.cli import RUNS, run_door, typed
from src.errors import UserError
from src.model.generation_config import GenerationConfig


@dataclass
class ChatConfig:
    """The values of ``conf/chat.yaml``."""

    generation: GenerationConfig
    prompt: str | None
    model_path: str | None
    device: str
    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    stop: list[str] | None
    seed: int | None
    weights: str | None

    def __post_init__(self) -> None:
        """Put what is given here over the generation preset."""
        names = (field.name for field in fields(self.generation))
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        self.generation = replace(self.generation, **given)


def chat(config: DictConfig, **text: str) -> None:
    """Stream the reply to one prompt."""
    settings = typed(ChatConfig, config, **text)
    prompt = settings.prompt if settings.prompt is not None else _read_standard_input()

    from src.model.device import choose_device
    from src.talk.assistant import load_assistant
    from src.talk.messages import Message
    from src.talk.model_folder import newest_model_folder

    folder = settings.model_path or str(newest_model_folder(RUNS))
    assistant = load_assistant(folder, choose_device(settings.device))
    for piece in assistant.reply([Message("user", prompt)], settings.generation):
        print(piece, end="", flush=True)
    print()


def _read_standard_input() -> str:
    if sys.stdin.isatty():
        print("Your question, then Ctrl-D:", file=sys.stderr)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text: {error.reason}") from error


if __name__ == "__main__":
    run_door(chat, "chat", free_text=("prompt", "model_path"))
