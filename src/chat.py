"""Talk to a trained model: ``python -m src.chat``; with ``prompt="..."`` or a pipe, one answer.

Standard output gets answers and nothing else.
"""

import json
import sys
from dataclasses import dataclass, fields, make_dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from omegaconf import DictConfig

from src.checks import at_least, check, one_of, within
from src.command.cli import RUNS, run_door, typed
from src.errors import UserError
from src.model.generation_config import GenerationConfig
from src.talk.messages import Message, check_messages
from src.talk.screen import Answer, note, waiting
from src.terminal.keys import unseen_keys

if TYPE_CHECKING:  # otherwise imported after the config is checked
    from src.talk.assistant import Assistant

FREE_TEXT = ("prompt", "system", "model_path")
FORMATS = ("text", "json")
MAX_PIPED = 2**18  # characters: GPT-2 reads 1,024 tokens, of at most 128 characters each


# The keys of the generation preset; null leaves a value as the preset says.
GenerationKeys: Any = make_dataclass(
    "GenerationKeys",
    [(name, kind | None) for name, kind in get_type_hints(GenerationConfig).items()],
)


@dataclass
class ChatConfig(GenerationKeys):
    """The values of ``conf/chat.yaml``."""

    generation: GenerationConfig
    prompt: str | None
    system: str | None
    model_path: str | None
    device: str
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]
    num_answers: Annotated[int, at_least(1)]
    format: Annotated[str, one_of(FORMATS)]

    def __post_init__(self) -> None:
        """Put the keys that are not null over the generation preset, and check the rest.

        Raises:
            UserError: names the key and what it may be.
        """
        names = (field.name for field in fields(self.generation))
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        self.generation = replace(self.generation, **changes)
        check(self)
        if self.num_answers > 1 and not self.generation.temperature:
            raise UserError(
                f"num_answers={self.num_answers}: temperature=0 gives the same answer each time; "
                f"add temperature=0.7 or generation=sampling"
            )


def chat(config: DictConfig, **text: str) -> None:
    """Hold a conversation at a terminal, or answer one prompt."""
    settings = typed(ChatConfig, config, **text)
    if settings.prompt is None and not (sys.stdin and sys.stdin.isatty()):
        settings.prompt = _read_standard_input()
    if settings.prompt is not None:
        check_messages([Message("user", settings.prompt)])
    elif settings.format != "text" or settings.num_answers > 1:
        raise UserError("format and num_answers are for one prompt: add prompt=... or pipe it in")

    model_path, assistant = _load(settings)
    from src.shared_cores import shared_cores

    with shared_cores(settings.threads, assistant.model.wte.weight.device.type):
        if settings.prompt is None:
            _talk(assistant, settings, model_path)
        else:
            _answer(assistant, settings, model_path, settings.prompt)


def _load(settings: ChatConfig) -> "tuple[str, Assistant]":
    with waiting("loading the model"):
        from src.model.device import choose_device
        from src.talk.assistant import load_assistant
        from src.talk.model_folder import newest_model_folder

        model_path = settings.model_path or str(newest_model_folder(RUNS))
        return model_path, load_assistant(model_path, choose_device(settings.device))


def _talk(assistant: "Assistant", settings: ChatConfig, model_path: str) -> None:
    from src.terminal.session import Session
    from src.terminal.terminal import converse, line_editor, open_history

    session = Session(assistant, settings.generation, settings.system)
    model = assistant.model
    note(
        f"{model_path}: {model.num_parameters:,} parameters on {model.wte.weight.device}\n"
        f"/help lists the commands, Ctrl-D leaves"
    )
    converse(session, line_editor(open_history()))


def _answer(assistant: "Assistant", settings: ChatConfig, model_path: str, prompt: str) -> None:
    from src.talk.opening import opening

    messages = [*opening(assistant, settings.system), Message("user", prompt)]
    for number in range(settings.num_answers):
        seed = settings.generation.seed + number
        reply = assistant.reply(messages, replace(settings.generation, seed=seed))
        if settings.format == "json":
            facts = {
                "text": reply.read_all(),
                "prompt": prompt,
                "model": model_path,
                "seed": seed,
                "num_prompt_tokens": reply.num_prompt_tokens,
                "num_new_tokens": reply.num_new_tokens,
                "tokens_per_second": round(reply.tokens_per_second, 1),
                "stop_reason": reply.stop_reason,
            }
            print(json.dumps(facts), flush=True)
            continue
        if settings.num_answers > 1:
            note(f"answer {number + 1} of {settings.num_answers}, seed={seed}")
        answer, pieces = Answer(), iter(reply)
        with waiting("reading"):
            first = next(pieces, "")
        for piece in chain([first], pieces):
            answer.show(piece)
        answer.end()


def check_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments as they are.

    Raises:
        UserError: one is neither ``key=value`` nor a flag; it may be meant as the prompt.
    """
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        is_text = "=" not in argument and not argument.startswith(("-", "~"))
        if is_text and not previous.startswith("-"):  # "job" is a flag's value in: --cfg job
            raise UserError(f'{argument}: arguments are key=value; a question is prompt="..."')
    return arguments


def _read_standard_input() -> str:
    if sys.stdin is None:  # closed
        return ""
    try:
        text = sys.stdin.read(MAX_PIPED + 1)
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text: {error.reason}") from error
    if len(text) > MAX_PIPED:
        raise UserError(f"standard input has more than {MAX_PIPED:,} characters: shorten it")
    return text


if __name__ == "__main__":
    with unseen_keys():
        run_door(chat, "chat", free_text=FREE_TEXT, rewrite=check_arguments)
