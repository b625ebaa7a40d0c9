"""Messages become the ids that a model was taught to answer, by our template or the model's."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from src.data.messages import read_messages
from src.data.template import JINJA, TEMPLATE_FILE, encode_prompt
from src.data.tokenizer import SETTINGS, Tokenizer
from src.errors import UserError
from src.hub import first_line
from src.talk.json_file import read_settings
from src.talk.messages import Message

ChatTemplate = Callable[[Sequence[Message]], list[int]]

# A private character of Unicode, put into a special token that a person typed: it remains text.
BREAK = "\ue000"


def default_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Return the template that we train with."""

    def encode(messages: Sequence[Message]) -> list[int]:
        reading = read_messages([asdict(message) for message in messages], skip_empty=True)
        return encode_prompt(
            tokenizer, reading.question or "", reading.turns, reading.system, reading.opening
        )

    return encode


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """Return the chat template of a model folder; ours, if it has none.

    Raises:
        UserError: it is broken.
    """
    source = template_source(folder)
    if source is None or source == JINJA:
        return default_template(tokenizer)
    return jinja_template(source, tokenizer, read_settings(folder / SETTINGS))


def template_source(folder: Path) -> str | None:
    """Return the chat template of a model folder, in Jinja; None: it has none.

    Raises:
        UserError: it has several.
    """
    path = folder / TEMPLATE_FILE
    if path.exists():
        return path.read_text()
    source = read_settings(folder / SETTINGS).get("chat_template")
    if source is not None and not isinstance(source, str):
        raise UserError(f"{folder}: several chat templates in one folder are not supported")
    return source


def jinja_template(source: str, tokenizer: Tokenizer, settings: dict[str, object]) -> ChatTemplate:
    """Return a template written in Jinja, as ``transformers`` runs it.

    Only the template writes special tokens; one that a person typed is text.

    Raises:
        UserError: it is not valid Jinja, or, when called, refuses the messages.
    """
    from src.talk.jinja import ERRORS, chat_environment

    def refuse(reason: str) -> None:
        raise UserError(f"the model's chat template refuses this conversation: {reason}")

    try:
        compiled = chat_environment(refuse).from_string(source)
    except ERRORS as error:
        raise UserError(f"the model's chat template is broken: {first_line(error)}") from error
    special = tokenizer.special_tokens
    splitter = re.compile("(" + "|".join(map(re.escape, special)) + ")")
    names = {key: value for key, value in settings.items() if key.endswith("_token")}

    def encode(messages: Sequence[Message]) -> list[int]:
        texts = [asdict(replace(m, content=_as_text(m.content, splitter))) for m in messages]
        try:
            text = compiled.render(messages=texts, add_generation_prompt=True, **names)
        except UserError:  # the template refuses
            raise
        except ERRORS as error:
            raise UserError(f"the model's chat template is broken: {first_line(error)}") from error
        ids: list[int] = []
        for piece in splitter.split(text):
            if piece in special:
                ids.append(special[piece])
            elif piece:
                ids += tokenizer.encode(piece.replace(BREAK, ""))
        return ids

    return encode


def _as_text(text: str, splitter: re.Pattern[str]) -> str:
    return splitter.sub(lambda match: match[0][0] + BREAK + match[0][1:], text.replace(BREAK, ""))
