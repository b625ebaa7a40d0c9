"""Messages become the ids that a model was taught to answer, by our template or the model's."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from src.data.messages import read_messages
from src.data.template import TEMPLATE_FILE, encode_prompt, is_ours, jinja
from src.data.tokenizer import SETTINGS, Tokenizer
from src.errors import UserError
from src.files.json_file import read_settings
from src.files.model_files import read_file
from src.hub import first_line
from src.talk.messages import Message
from src.talk.rendering import Renderer

ChatTemplate = Callable[[Sequence[Message]], list[int]]

MAX_TEMPLATE = 2**20  # bytes; the longest known have 20,000

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


def our_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Return the template that we train with, as text is encoded by any tokenizer."""
    # Other tokenizers than GPT-2's may treat the beginning of a piece of text in their own way.
    if tokenizer.is_byte_level:
        return default_template(tokenizer)
    return jinja_template(jinja(tokenizer.end_token), tokenizer)


# A question alone, after another, and after a system text.
PROBES = (
    (Message("user", "One?"),),
    (Message("user", "One?"), Message("assistant", "Yes."), Message("user", "Two?")),
    (Message("system", "Be brief."), Message("user", "One?")),
)


def asks_as_we_do(template: ChatTemplate, tokenizer: Tokenizer) -> bool:
    """Whether a template gives the ids that ours gives; one that refuses messages does not."""
    ours = our_template(tokenizer)
    try:
        return all(template(probe) == ours(probe) for probe in PROBES)
    except UserError:
        return False


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """Return the chat template of a model folder; ours, if it has none.

    Raises:
        UserError: it is broken.
    """
    source = template_source(folder)
    if source is None or is_ours(source, tokenizer.end_token):
        return our_template(tokenizer)
    return jinja_template(source, tokenizer, folder)


def template_source(folder: Path) -> str | None:
    """Return the chat template of a model folder, in Jinja; None: it has none.

    Raises:
        UserError: it has several, none of them the default, or it is no text.
    """
    path = folder / TEMPLATE_FILE
    if os.path.lexists(path):
        try:
            return read_file(path, MAX_TEMPLATE).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    source = read_settings(folder / SETTINGS).get("chat_template")
    if isinstance(source, list):
        source = _default_of(source, folder)
    if source is not None and not isinstance(source, str):
        raise UserError(f"{folder / SETTINGS} is broken: its chat_template is no text")
    if source is not None and len(source) > MAX_TEMPLATE:
        raise UserError(f"{folder / SETTINGS}: its chat_template is longer than any that is known")
    return source


def _default_of(named: list[Any], folder: Path) -> Any:
    """Return the template called default, which transformers takes too."""
    templates = {each["name"]: each.get("template") for each in named if _is_named(each)}
    if "default" not in templates:
        names = ", ".join(map(str, templates)) or "none with a name"
        raise UserError(
            f"{folder / SETTINGS} holds several chat templates ({names}), none of them called "
            f"default: put the one to use into {TEMPLATE_FILE}"
        )
    return templates["default"]


def _is_named(template: Any) -> bool:
    return isinstance(template, dict) and isinstance(template.get("name"), str)


def jinja_template(source: str, tokenizer: Tokenizer, owner: Path | None = None) -> ChatTemplate:
    """Return a template written in Jinja, as ``transformers`` runs it; ``owner`` is its folder.

    Only the template writes special tokens; one that a person typed is text.

    Raises:
        UserError: it is not valid Jinja, or, when called, refuses the messages.
    """
    renderer = Renderer(source, owner)
    special = tokenizer.special_tokens
    longest_first = sorted(special, key=len, reverse=True)
    splitter = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
    values: dict[str, Any] = {"tools": None, "documents": None, **tokenizer.names}

    def encode(messages: Sequence[Message]) -> list[int]:
        is_typed = any(splitter.search(message.content) for message in messages)
        if is_typed:
            messages = [replace(m, content=_as_text(m.content, splitter)) for m in messages]
        texts = [asdict(message) for message in messages]
        text = renderer.render({"messages": texts, "add_generation_prompt": True, **values})
        ids = [] if is_typed else tokenizer.encode_special(text)
        for piece in splitter.split(text) if is_typed else ():
            if piece in special:
                ids.append(special[piece])
            elif piece:
                ids += tokenizer.encode(piece.replace(BREAK, ""))
        if not ids:
            raise UserError(
                f"the model's chat template is broken{renderer.where}: it writes nothing"
            )
        return ids

    return encode


def _as_text(text: str, splitter: re.Pattern[str]) -> str:
    return splitter.sub(lambda match: match[0][0] + BREAK + match[0][1:], text.replace(BREAK, ""))
