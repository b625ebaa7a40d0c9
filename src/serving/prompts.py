"""A request becomes ids and settings, or is refused."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from src.errors import UserError
from src.model.generation_config import NUMBERS, GenerationConfig
from src.serving.config import ServeConfig
from src.serving.errors import ApiError
from src.serving.requests import REQUEST_NUMBERS, ChatRequest, CompletionRequest, GenerationRequest
from src.talk.assistant import Assistant
from src.talk.messages import Message, check_messages


def check_request(request: GenerationRequest, num_prompts: int, settings: ServeConfig) -> None:
    """Check the fields that need no tokens.

    Raises:
        ApiError: another model, too many answers, or fields that contradict each other.
    """
    if request.model != settings.model_name:
        raise ApiError(
            f"there is no model {request.model!r}; there is {settings.model_name}",
            "model",
            "model_not_found",
            404,
        )
    num_answers = num_prompts * (request.n or 1)
    if num_answers > settings.max_answers:
        raise ApiError(
            f"{num_answers} answers in one request: at most {settings.max_answers}",
            "n" if num_prompts == 1 else "prompt",
            "invalid_value",
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError("stream_options: only with stream", "stream_options", "invalid_value")


def chat_prompt(request: ChatRequest, assistant: Assistant, max_bytes: int) -> list[list[int]]:
    """Return a list of one prompt: the ids of the conversation.

    Raises:
        ApiError: no reply can follow the messages, or they are too long for the model.
    """
    positions = assistant.model.config.n_positions
    messages = [Message(message.role, message.content) for message in request.messages]
    _check_size([*(m.content for m in messages), *(request.stop or ())], max_bytes, "messages")
    if len(messages) >= positions:  # each has a token at least
        raise _too_long(f"{len(messages)} messages", positions, "messages")
    try:
        check_messages(messages)
        ids = assistant.template(messages)
    except UserError as error:
        raise ApiError(str(error), "messages", "invalid_value") from error
    return [ids]


def completion_prompts(
    request: CompletionRequest, assistant: Assistant, max_bytes: int
) -> list[list[int]]:
    """Return the ids of each prompt.

    Raises:
        ApiError: a prompt is empty, not valid Unicode or holds ids that are not in the vocabulary.
    """
    texts = [prompt for prompt in request.prompt if isinstance(prompt, str)]
    _check_size([*texts, *(request.stop or ())], max_bytes, "prompt")
    vocab_size = assistant.model.config.vocab_size
    prompts = []
    for prompt in request.prompt:
        ids = assistant.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise ApiError("prompt: is empty", "prompt", "invalid_value")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            message = f"prompt: token ids must be from 0 to {vocab_size - 1}"
            raise ApiError(message, "prompt", "invalid_value")
        prompts.append(ids)
    return prompts


def answer_settings(
    request: GenerationRequest,
    defaults: GenerationConfig,
    num_prompt_tokens: int,
    num_positions: int,
) -> GenerationConfig:
    """Return the settings of an answer: the request's, and ``defaults`` for the others.

    Raises:
        ApiError: the model has too few positions for the prompt and the new tokens, or a value is
            out of range.
    """
    room = num_positions - num_prompt_tokens
    max_tokens, name = _max_tokens(request)
    if room < 1:
        param = "messages" if isinstance(request, ChatRequest) else "prompt"
        raise _too_long(f"{num_prompt_tokens} tokens", num_positions, param)
    if max_tokens is not None and max_tokens > room:
        lengths = f"{num_prompt_tokens} tokens and {name}={max_tokens}"
        raise _too_long(lengths, num_positions, name)
    changes: dict[str, Any] = {"max_new_tokens": max_tokens or min(defaults.max_new_tokens, room)}
    if request.stop is not None:
        changes["stop"] = request.stop
    for name in REQUEST_NUMBERS:
        if (number := getattr(request, name)) is not None:
            changes[name] = NUMBERS[name].from_number(number)
    try:
        return replace(defaults, **changes)
    except UserError as error:
        raise ApiError(str(error), code="invalid_value") from error


def _max_tokens(request: GenerationRequest) -> tuple[int | None, str]:
    if not isinstance(request, ChatRequest) or request.max_completion_tokens is None:
        return request.max_tokens, "max_tokens"
    if request.max_tokens not in (None, request.max_completion_tokens):
        message = "max_tokens and max_completion_tokens differ: give one of them"
        raise ApiError(message, "max_completion_tokens", "invalid_value")
    return request.max_completion_tokens, "max_completion_tokens"


def _check_size(texts: Iterable[str], max_bytes: int, param: str) -> None:
    if sum(len(text.encode()) for text in texts) > max_bytes:
        message = f"{param}: more than {max_bytes} bytes of text"
        raise ApiError(message, param, "text_too_long")


def _too_long(what: str, num_positions: int, param: str) -> ApiError:
    message = f"{what}: the model reads and writes at most {num_positions} tokens together"
    return ApiError(message, param, "context_length_exceeded")
