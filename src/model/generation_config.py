"""The values of ``conf/generation``: types, ranges and what others call them, no defaults.

A number is declared once, beside its field. The checks here, the keys of ``src.chat``, the page's
sliders, the API's fields, ``generation_config.json`` and Ollama's Modelfile read it from there.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf

from src.checks import AUTO
from src.errors import UserError
from src.wording.nearest import choice_question

WEIGHTS = ("auto", "fp32", "fp16", "bf16", "int8")
INT64 = 2**63  # seeds are below it


@dataclass(frozen=True)
class Slider:
    """How the page shows a setting; a configured value beyond its ends moves them."""

    least: float
    most: float
    step: float
    info: str | None = None


@dataclass(frozen=True)
class Setting:
    """What is known of a number.

    Attributes:
        must: what it must be, in words.
        limits: the same in numbers, by their names in ``operator`` and pydantic: gt, ge, lt, le.
        besides: one value outside the limits that is allowed too.
        off: numbers that mean null in a request; the page and the exports use the first. A setting
            without any cannot be null.
        in_requests: whether the API has a field of this name.
        request_most: the most that a request may ask for; None: as ``limits`` say.
        hugging_face: its name in ``generation_config.json``; None: it has none there.
        hugging_face_default: what transformers takes where the file is silent; None: nothing.
        ollama: its name in a Modelfile; None: it has none there.
        sampling_only: whether it changes nothing at temperature 0.
        slider: how the page shows it; None: not as a slider.
    """

    must: str
    limits: Mapping[str, float]
    besides: float | None = None
    off: tuple[float, ...] = ()
    in_requests: bool = True
    request_most: float | None = None
    hugging_face: str | None = None
    hugging_face_default: float | None = None
    ollama: str | None = None
    sampling_only: bool = False
    slider: Slider | None = None

    def allows(self, value: float | None) -> bool:
        """Whether a config may hold ``value``."""
        if value is None:
            return bool(self.off)
        within = (getattr(operator, name)(value, limit) for name, limit in self.limits.items())
        return value == self.besides or all(within)

    def from_number(self, value: float) -> float | None:
        """Return what a config holds for a number of the page or of a request: null for off."""
        return None if value in self.off else value

    def to_number(self, value: float | None) -> float | None:
        """Return what others are told: a number for null too, if there is one."""
        return self.off[0] if value is None and self.off else value


@dataclass
class GenerationConfig:
    """The values of ``conf/generation``; its comments say what each value means."""

    max_new_tokens: int = field(
        metadata={
            "setting": Setting(
                must="at least 1",
                limits={"ge": 1},
                in_requests=False,  # OpenAI has two names for it
                hugging_face="max_new_tokens",
                ollama="num_predict",
                slider=Slider(1, 1024, 1),
            )
        }
    )
    temperature: float = field(
        metadata={
            "setting": Setting(
                must="0 (greedy), or from 0.0001",  # scores divided by less are infinite
                limits={"ge": 1e-4, "lt": inf},
                besides=0,
                request_most=2,
                hugging_face="temperature",
                hugging_face_default=1.0,
                ollama="temperature",
                sampling_only=True,
                slider=Slider(0, 2, 0.05, "0: greedy"),
            )
        }
    )
    top_k: int | None = field(
        metadata={
            "setting": Setting(
                must="at least 1, or null",
                limits={"ge": 1},
                off=(0, -1),
                hugging_face="top_k",
                hugging_face_default=50,
                ollama="top_k",
                sampling_only=True,
                slider=Slider(0, 200, 1, "0: all tokens"),
            )
        }
    )
    top_p: float | None = field(
        metadata={
            "setting": Setting(
                must="in (0, 1], or null",
                limits={"gt": 0, "le": 1},
                off=(1.0,),
                hugging_face="top_p",
                hugging_face_default=1.0,
                ollama="top_p",
                sampling_only=True,
                slider=Slider(0.05, 1, 0.05),
            )
        }
    )
    min_p: float | None = field(
        metadata={
            "setting": Setting(
                must="in [0, 1], or null",
                limits={"ge": 0, "le": 1},
                off=(0.0,),
                hugging_face="min_p",
                ollama="min_p",
                sampling_only=True,
                slider=Slider(0, 1, 0.01, "0: all tokens"),
            )
        }
    )
    repetition_penalty: float = field(
        metadata={
            "setting": Setting(
                must="in [0.01, 100]; 1 is none",  # as far as scores stay finite
                limits={"ge": 0.01, "le": 100.0},
                hugging_face="repetition_penalty",
                hugging_face_default=1.0,
                ollama="repeat_penalty",
                slider=Slider(1, 2, 0.05),
            )
        }
    )
    frequency_penalty: float = field(
        metadata={
            "setting": Setting(
                must="in [-2, 2]; 0 is none",  # OpenAI's range
                limits={"ge": -2, "le": 2},
                slider=Slider(-2, 2, 0.05, "of a token, for each time that the reply has it"),
            )
        }
    )
    presence_penalty: float = field(
        metadata={
            "setting": Setting(
                must="in [-2, 2]; 0 is none",
                limits={"ge": -2, "le": 2},
                slider=Slider(-2, 2, 0.05, "of a token that the reply has already"),
            )
        }
    )
    stop: list[str]
    seed: int = field(
        metadata={"setting": Setting(must="in [-2^63, 2^63)", limits={"ge": -INT64, "lt": INT64})}
    )
    weights: str

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: names the key and what it may be.
        """
        for name, setting in NUMBERS.items():
            value = getattr(self, name)
            if not setting.allows(value):
                raise UserError(f"{name}={value}: must be {setting.must}")
        if not all(self.stop):
            raise UserError("stop: a stop string is empty; leave it out")
        if self.weights not in WEIGHTS:
            hint = choice_question(self.weights, WEIGHTS)
            raise UserError(f"weights={self.weights}: must be one of {', '.join(WEIGHTS)}{hint}")

    def unpacked(self) -> "GenerationConfig":
        """Return the same for a model that learns: ``auto`` takes its weights as they are.

        They would be packed anew for a few replies, which takes longer than those.
        """
        return replace(self, weights="fp32") if self.weights == AUTO else self


# The numbers, in the order of their fields, and whether each is an int or a float.
NUMBERS: dict[str, Setting] = {
    each.name: each.metadata["setting"] for each in fields(GenerationConfig) if each.metadata
}
KINDS: dict[str, type] = {
    each.name: int if each.type in (int, int | None) else float
    for each in fields(GenerationConfig)
    if each.metadata
}
