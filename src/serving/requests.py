"""The bodies of requests, checked strictly: wrong types, ranges and unknown fields are refused.

The names are OpenAI's; a setting that OpenAI lacks has vLLM's name. A field that we do not support
may hold its neutral value, for some clients always send it.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    create_model,
)
from pydantic_core import PydanticCustomError

from src.model.generation_config import KINDS, NUMBERS

MAX_STOP = 4


def only(*neutral: object) -> AfterValidator:
    """Allow the neutral values of a field, and null."""

    def check(value: object) -> object:
        for one in (None, *neutral):
            if value == one and isinstance(value, bool) is isinstance(one, bool):  # 0 == False
                return value
        raise PydanticCustomError("unsupported", "not supported here")

    return AfterValidator(check)


def _whole_characters(value: str) -> str:
    """Refuse half a surrogate pair: JSON can write it, no UTF-8 text can hold it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = "not valid Unicode: character {index} is half a surrogate pair"
        raise PydanticCustomError("unicode", message, {"index": error.start}) from error
    return value


def _limits(name: str) -> Any:
    """Return the least and the greatest value of a setting in a request."""
    setting = NUMBERS[name]
    limits: dict[str, Any] = dict(setting.limits)
    if "ge" in limits:
        outside = () if setting.besides is None else (setting.besides,)
        limits["ge"] = min((limits["ge"], *outside, *setting.off))
    if setting.request_most is not None:
        limits["le"] = setting.request_most
    return Field(**limits)


def _between(name: str) -> AfterValidator:
    """Refuse a value within the limits that the setting cannot have."""
    setting = NUMBERS[name]

    def check(value: float) -> float:
        if not setting.allows(setting.from_number(value)):
            raise PydanticCustomError("range", "should be {must}", {"must": setting.must})
        return value

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(_whole_characters)]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text_of_parts(value: object) -> object:
    """Join the parts of a message that consists of texts."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or set(part) - {"type", "text"}:
            raise PydanticCustomError("unsupported", "only parts of type text are supported")
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("string_type", "a part's text should be a valid string")
    return "\n".join(part["text"] for part in value)


def _prompts(value: object) -> list[str | list[int]]:
    """Return a list of prompts, each a text or token ids."""
    if isinstance(value, str):
        return [_whole_characters(value)]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, list) and all(type(i) is int for i in item) for item in value):
            return value
        if all(isinstance(item, str) for item in value):
            return [_whole_characters(item) for item in value]
    raise PydanticCustomError(
        "prompt_type", "should be a text, a list of texts, a list of token ids, or a list of those"
    )


class Strict(BaseModel):
    """No conversion, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(Strict):
    """The parts of a stream that are no text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, only(False)] = None


REQUEST_NUMBERS = [name for name, setting in NUMBERS.items() if setting.in_requests]
SETTING_FIELDS: dict[str, Any] = {
    name: (Annotated[KINDS[name], _limits(name), _between(name)] | None, None)
    for name in REQUEST_NUMBERS
}
SettingFields: Any = create_model("SettingFields", __base__=Strict, **SETTING_FIELDS)


class GenerationRequest(SettingFields):
    """The fields of both endpoints. None: the server's setting."""

    model: Text
    max_tokens: Annotated[int, _limits("max_new_tokens")] | None = None
    stop: (
        Annotated[
            list[Annotated[Text, Field(min_length=1)]],
            Field(max_length=MAX_STOP, fail_fast=True),  # report the first mistake only
            BeforeValidator(_as_list),
        ]
        | None
    ) = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None  # the name of the client's user: changes nothing

    frequency_penalty: Annotated[Any, only(0)] = None
    presence_penalty: Annotated[Any, only(0)] = None
    logit_bias: Annotated[Any, only({})] = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatMessage(Strict):
    """A text, or a list of parts of type text, and its author."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_text_of_parts)]


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)]
    max_completion_tokens: Annotated[int, _limits("max_new_tokens")] | None = None

    logprobs: Annotated[Any, only(False)] = None
    top_logprobs: Annotated[Any, only(0)] = None
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none")] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    modalities: Annotated[Any, only(["text"])] = None


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Annotated[list[str | list[int]], PlainValidator(_prompts)]

    logprobs: Annotated[Any, only()] = None
    echo: Annotated[Any, only(False)] = None
    best_of: Annotated[Any, only(1)] = None
    suffix: Annotated[Any, only("")] = None
