"""What the browser is told when it opens the page: models, questions to start with, settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.model.generation_config import KINDS, NUMBERS, GenerationConfig, Slider
from src.page.answers import SLIDERS
from src.page.record import BROKEN, read_record, record_path
from src.talk.screen import note


def page_options(
    labels: Mapping[str, str],
    chosen: Sequence[str],
    prompts: Sequence[str],
    generation: GenerationConfig,
) -> dict[str, Any]:
    """Return the choices of the page, and what it starts with, as JSON can hold them."""
    return {
        "models": [{"name": name, "label": label} for name, label in labels.items()],
        "chosen": list(chosen),
        "prompts": list(prompts),
        "numbers": [_number(name, slider, generation) for name, slider in SLIDERS.items()],
        "stop": generation.stop,
        "ranked": labels[chosen[0]],
    }


def _number(name: str, slider: Slider, generation: GenerationConfig) -> dict[str, Any]:
    value = NUMBERS[name].to_number(getattr(generation, name))
    assert value is not None, f"{name} has a slider and no number for null"
    return {
        "name": name,
        "value": value,
        "least": min(slider.least, value),
        "most": max(slider.most, value),
        "step": slider.step,
        "info": slider.info or "",
        "whole": KINDS[name] is int,
    }


def sample_prompts(model_path: str) -> list[str]:
    """Return the questions of the model's run, which it asked in training; none without a run."""
    try:
        record = read_record(model_path)
        prompts = record["settings"]["sample_prompts"] if record else []
        if not (isinstance(prompts, list) and all(isinstance(each, str) for each in prompts)):
            raise TypeError("sample_prompts is no list of texts")
    except BROKEN as error:
        path = record_path(model_path)
        note(f"no questions to start with: {path} is no record of a run: {error!r}")
        return []
    return prompts
