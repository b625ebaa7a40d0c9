"""What the browser sends with a question, checked strictly."""

import json
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from src.errors import UserError

MOST_MODELS = 2  # answer one question
T = TypeVar("T", bound=BaseModel)


class Text(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["user", "assistant"]
    content: str


class Wanted(BaseModel):
    """A model, and the conversation that it is to answer: a question at its end."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    messages: list[Text] = Field(min_length=1)


class Question(BaseModel):
    """A question to one model or two, and the page's settings; null: as configured."""

    model_config = ConfigDict(extra="forbid", strict=True)
    answers: list[Wanted] = Field(min_length=1, max_length=MOST_MODELS)
    system: str = ""
    numbers: dict[str, FiniteFloat | None] = {}
    stop: list[str] = []
    seed: str = ""


def read_question(body: bytes) -> Question:
    """Return the question of a request; see ``read_as``."""
    return read_as(Question, body)


def read_as(kind: type[T], body: bytes) -> T:
    """Return what a browser sent as ``kind``.

    Raises:
        UserError: it is none; names the field.
    """
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as error:
        raise UserError(first_mistake(error)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request: no JSON: {error}") from error


def first_mistake(error: ValidationError) -> str:
    """Return what is wrong first with what a browser sent; names the field."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the request"
    return f"{where}: {first['msg']}"
