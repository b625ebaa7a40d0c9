"""The fields of requests that we do not have: neutral, unknown, or a change that we cannot make.

Programs send dozens of fields to every server. One that is unknown, or asks for nothing, is
accepted and named once in the log; one that would change the answer is refused.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from src.model.generation_config import NUMBERS
from src.serving.errors import ApiError

MAX_NAMES = 256  # named in the log; clients choose the names
MAX_LENGTH = 64  # of a name there

ONE, ZERO, OFF = (1,), (0,), (False,)
EMPTY: tuple[object, ...] = ("", [], {})

# Fields that change the answer, and the values (besides null) with which they do not.
NEUTRAL: dict[str, tuple[object, ...]] = {
    # OpenAI's
    "tools": EMPTY,
    "functions": EMPTY,
    "tool_choice": ("none", "auto", *EMPTY),
    "function_call": ("none", "auto", *EMPTY),
    "response_format": ({"type": "text"}, "text", *EMPTY),
    "logit_bias": EMPTY,
    "logprobs": OFF,
    "top_logprobs": ZERO,
    "modalities": (["text"], *EMPTY),
    "audio": EMPTY,
    "web_search_options": (),
    "best_of": ONE,
    "echo": OFF,
    "suffix": EMPTY,
    # vLLM's, llama.cpp's, LM Studio's, text-generation-webui's
    "structured_outputs": EMPTY,
    "guided_json": EMPTY,
    "guided_regex": EMPTY,
    "guided_choice": EMPTY,
    "guided_grammar": EMPTY,
    "grammar": EMPTY,
    "grammar_string": EMPTY,
    "json_schema": EMPTY,
    "chat_template": EMPTY,
    "use_beam_search": OFF,
    "num_beams": ONE,
    "length_penalty": ONE,
    "min_tokens": ZERO,
    "min_length": ZERO,
    "stop_token_ids": EMPTY,
    "bad_words": EMPTY,
    "banned_strings": EMPTY,
    "custom_token_bans": EMPTY,
    "prompt_logprobs": ZERO,
    "n_probs": ZERO,
    "typical": (1, 0),
    "typical_p": (1, 0),
    "tfs": (1, 0),
    "tfs_z": (1, 0),
    "top_a": ZERO,
    "top_n_sigma": (0, -1),
    "nsigma": (0, -1),
    "mirostat": ZERO,
    "mirostat_mode": ZERO,
    "dry_multiplier": ZERO,
    "xtc_probability": ZERO,
    "dynatemp_range": ZERO,
    "dynamic_temperature": OFF,
    "smoothing_factor": ZERO,
    "epsilon_cutoff": ZERO,
    "eta_cutoff": ZERO,
    "no_repeat_ngram_size": ZERO,
    "encoder_repetition_penalty": ONE,
    "penalty_alpha": ZERO,
    "guidance_scale": ONE,
    "negative_prompt": EMPTY,
}
CALLS = {"tools": "tool_choice", "functions": "function_call"}  # whether they may be called


def _foreign_names() -> dict[str, str]:
    """Return our field for each name that others have for it."""
    names = {}
    for name, setting in NUMBERS.items():
        field = name if setting.in_requests else "max_tokens"  # max_new_tokens
        for foreign in (name, setting.hugging_face, setting.ollama):
            if foreign is not None and foreign != field:
                names[foreign] = field
    return {**names, "n_predict": "max_tokens", "ban_eos_token": "ignore_eos"}


FOREIGN_NAMES = _foreign_names()


def translate(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``body`` without nulls, under our names; ours win over others' names.

    Raises:
        ApiError: a field would change the answer in a way that we cannot.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    for foreign, name in FOREIGN_NAMES.items():
        if foreign in fields:
            fields.setdefault(name, fields.pop(foreign))
    for name, neutral in NEUTRAL.items():
        if name in fields and not _is_one_of(fields[name], neutral):
            if name == "best_of" and _is_one_of(fields[name], (fields.get("n"),)):
                continue  # the best n of n are all of them
            if CALLS.get(name) and fields.get(CALLS[name]) == "none":
                continue  # tools that may not be called
            raise ApiError(f"{name}: not supported here", name, "unsupported_parameter")
    return fields


def _is_one_of(value: object, neutral: Iterable[object]) -> bool:
    """Whether ``value`` is one of ``neutral``; false is not 0."""
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in neutral)


class IgnoredFields:
    """Names each field that has no effect once in the log."""

    def __init__(self, log: logging.Logger):
        self.log = log
        self.names: set[str] = set()

    def note(self, fields: Mapping[str, object], where: str = "") -> None:
        """Name the ``fields`` that are new and not null; ``where`` stands before their names."""
        new = []
        for field, value in fields.items():
            if len(self.names) >= MAX_NAMES:
                break
            name = ascii(where + field[:MAX_LENGTH])[1:-1]
            if value is not None and name not in self.names:
                self.names.add(name)
                new.append(name)
        if new:
            self.log.info("accepted without effect, named once: %s", ", ".join(new))
