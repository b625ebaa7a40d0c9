"""A request becomes ids and settings, or is refused."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.model.generation_config import NUMBERS, GenerationConfig
from src.serving.config import ServeConfig
from src.serving.errors import ApiError
from src.serving.requests import REQUEST_NUMBERS, ChatRequest, CompletionRequest, GenerationRequest
from src.talk.assistant import Assistant
from src.talk.messages import fit, read_question

UNNAMED = ("", "dummy", "tgi")  # huggingface_hub's, where a person names no model
UNLIMITED = -1  # max_tokens of LM Studio and llama.cpp
MOST = 2**31
RANDOM = -1  # a seed in vLLM and llama.cpp: any


@dataclass(frozen=True)
class Prompts:
    """What to read for a request.

    Attributes:
        ids: of each prompt.
        strip: leave out white space at the beginning of an answer.
        num_dropped_turns: the oldest turns of the conversation that had no room.
        unused: names of what the messages hold and nobody reads.
    """

    ids: list[list[int]]
    strip: bool = False
    num_dropped_turns: int = 0
    unused: tuple[str, ...] = ()


def check_request(request: GenerationRequest, num_prompts: int, settings: ServeConfig) -> None:
    """Check the fields that need no tokens.

    Raises:
        ApiError: another model, or too many answers.
    """
    if (request.model or "") not in (*UNNAMED, settings.model_name):
        raise ApiError(
            f"there is no model {request.model!r}; there is {settings.model_name}",
            "model",
            "model_not_found",
            404,
        )
    num_each = request.n or 1
    if num_each > settings.max_answers:
        message = f"n: {num_each} answers to a prompt: at most {settings.max_answers}"
        raise ApiError(message, "n", "invalid_value")
    most = settings.num_slots + settings.max_queue
    if num_prompts * num_each > most:
        message = f"{num_prompts} prompts, {num_each} answers each: at most {most} in one request"
        raise ApiError(message, "prompt" if num_prompts > 1 else "n", "invalid_value")


def chat_prompt(request: ChatRequest, assistant: Assistant, settings: ServeConfig) -> Prompts:
    """Return the one prompt of a conversation, without the oldest turns if they have no room.

    Raises:
        ApiError: no reply can follow the messages, or the last one is too long for the model.
    """
    positions = assistant.model.config.n_positions
    try:
        question = read_question(request.messages)
        system = [m.content for m in question.messages[:1] if m.role == "system"]
        # What is read however many turns are left out.
        texts = [*system, question.messages[-1].content, question.beginning]
        _check_size([*texts, *(request.stop or ())], settings.max_text_bytes, "messages")
        beginning = assistant.tokenizer.encode(f" {question.beginning}".rstrip())
        wanted = max_tokens(request, settings.generation.max_new_tokens)
        prompt = fit(question.messages, assistant.template, positions - len(beginning), wanted)
    except UserError as error:
        code = "context_length_exceeded" if "no room" in str(error) else "invalid_value"
        raise ApiError(str(error), "messages", code) from error
    ids = prompt.ids + _continued(prompt.ids, question.beginning, assistant.tokenizer)
    return Prompts([ids], not beginning, prompt.num_dropped_turns, question.unused)


def completion_prompts(
    request: CompletionRequest, assistant: Assistant, settings: ServeConfig
) -> Prompts:
    """Return each prompt; ``parse_special`` says whether special tokens in a text are read as such.

    Raises:
        ApiError: a prompt is empty, not valid Unicode or holds ids that are not in the vocabulary.
    """
    texts = [prompt for prompt in request.prompt if isinstance(prompt, str)]
    _check_size([*texts, *(request.stop or ())], settings.max_text_bytes, "prompt")
    vocab_size = assistant.model.config.vocab_size
    parse_special = request.parse_special
    encode: Callable[[str], list[int]] = assistant.tokenizer.encode
    if settings.parse_special if parse_special is None else parse_special:
        encode = special_encoder(assistant.tokenizer)
    prompts = []
    for prompt in request.prompt:
        ids = encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise ApiError("prompt: is empty", "prompt", "invalid_value")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            message = f"prompt: token ids must be from 0 to {vocab_size - 1}"
            raise ApiError(message, "prompt", "invalid_value")
        prompts.append(ids)
    return Prompts(prompts)


def special_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Return an encoder that reads special tokens in a text as such."""
    special = tokenizer.special_tokens
    longest_first = sorted(special, key=len, reverse=True)
    splitter = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(text: str) -> list[int]:
        pieces = (piece for piece in splitter.split(text) if piece)
        ids = ([special[p]] if p in special else tokenizer.encode(p) for p in pieces)
        return [token for piece in ids for token in piece]

    return encode if special else tokenizer.encode


def answer_settings(
    request: GenerationRequest,
    defaults: GenerationConfig,
    num_prompt_tokens: int,
    num_positions: int,
) -> GenerationConfig:
    """Return the settings of an answer: the request's, and ``defaults`` for the others.

    An answer is as long as there is room for, at most.

    Raises:
        ApiError: the prompt leaves no position for an answer, or a value is out of range.
    """
    room = num_positions - num_prompt_tokens
    if room < 1:
        param = "messages" if isinstance(request, ChatRequest) else "prompt"
        message = (
            f"{num_prompt_tokens} tokens: the model reads and writes at most {num_positions} tokens"
        )
        raise ApiError(f"{message} together", param, "context_length_exceeded")
    changes: dict[str, Any] = {
        "max_new_tokens": min(max_tokens(request, defaults.max_new_tokens), room)
    }
    if request.stop is not None:
        changes["stop"] = request.stop
    for name in REQUEST_NUMBERS:
        if (number := getattr(request, name)) is not None:
            changes[name] = NUMBERS[name].from_number(number)
    if request.seed == RANDOM:
        del changes["seed"]
    try:
        return replace(defaults, **changes)
    except UserError as error:
        raise ApiError(str(error), code="invalid_value") from error


def max_tokens(request: GenerationRequest, default: int) -> int:
    """Return the most tokens of an answer, whatever the room.

    Raises:
        ApiError: two fields contradict each other.
    """
    asked = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        if asked not in (None, request.max_completion_tokens):
            message = "max_tokens and max_completion_tokens differ: give one of them"
            raise ApiError(message, "max_completion_tokens", "invalid_value")
        asked = request.max_completion_tokens
    if asked is None:
        return default
    return MOST if asked == UNLIMITED else asked


def _continued(ids: list[int], beginning: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of ``beginning`` behind a prompt: after a blank, as in our template.

    No blank follows one that the prompt ends with, or a special token.
    """
    end = ids[-1]
    follows = end in tokenizer.special_tokens.values() or tokenizer.bytes_of(end)[-1:].isspace()
    return tokenizer.encode(beginning if follows else f" {beginning}") if beginning else []


def _check_size(texts: Iterable[str], max_bytes: int, param: str) -> None:
    if sum(len(text.encode()) for text in texts) > max_bytes:
        message = f"{param}: more than {max_bytes} bytes of text"
        raise ApiError(message, param, "text_too_long")
