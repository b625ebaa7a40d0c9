"""The bodies of requests: wrong types and ranges are refused, null is a field's default.

The names are OpenAI's; a setting that OpenAI lacks has vLLM's name. ``fields.py`` has the others.
"""

from typing import Annotated, Any

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

MAX_STOP = 64  # OpenAI takes 4; programs with characters to play send more


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
    """Return a list of the stop strings; an empty one stops nothing."""
    if isinstance(value, str):
        value = [value]
    return [item for item in value if item != ""] if isinstance(value, list) else value


def _max_tokens(value: int) -> int:
    if value < 1 and value != -1:
        raise PydanticCustomError("range", "should be at least 1, or -1 for all that have room")
    return value


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
    """No conversion, no NaN. Fields that are not declared are kept for the log."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(Strict):
    """The parts of a stream that are no text."""

    include_usage: bool | None = None


REQUEST_NUMBERS = [name for name, setting in NUMBERS.items() if setting.in_requests]
SETTING_FIELDS: dict[str, Any] = {
    name: (Annotated[KINDS[name], _limits(name), _between(name)] | None, None)
    for name in REQUEST_NUMBERS
}
SettingFields: Any = create_model("SettingFields", __base__=Strict, **SETTING_FIELDS)
MaxTokens = Annotated[int, AfterValidator(_max_tokens)]


class GenerationRequest(SettingFields):
    """The fields of both endpoints. None: the server's setting."""

    model: Text | None = None
    max_tokens: MaxTokens | None = None
    stop: (
        Annotated[
            list[Text],
            Field(max_length=MAX_STOP, fail_fast=True),  # report the first mistake only
            BeforeValidator(_as_list),
        ]
        | None
    ) = None
    n: Annotated[int, Field(ge=1)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``; the reader of rows reads its messages."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: MaxTokens | None = None


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Annotated[list[str | list[int]], PlainValidator(_prompts)]
    parse_special: bool | None = None  # llama.cpp's name; None: the server's setting
