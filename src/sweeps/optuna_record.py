"""What ``sweep.json`` holds of a search, and the command line that goes on with one.

The jobs of a search are not known beforehand, so its command line is composed again, unlike that of
a grid. The folder may be a stranger's: only plain values of our own keys are read from it, and of
Hydra's settings those below, each by its type.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from src.command.overrides import CONF
from src.errors import UserError
from src.sweeps.state import SWEEP, Sweep
from src.wording.command_line import quoted

OPTUNA = "optuna"  # the kind of a sweep
SWEEPER = "hydra_plugins.gpt2_chat.PruningSweeper"  # under this name Hydra knows ours
SQLITE = "sqlite:///"
SAMPLER = "hydra/sweeper/sampler"
NAME = re.compile(r"[\w.-]+")
KEY = re.compile(r"\+{0,2}[\w/]+([.@][\w]+)*")


def _whole(value: Any) -> str | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return "null" if value is None else str(value) if is_whole else None


def _words(value: Any) -> str | None:
    return "null" if value is None else quoted(value) if isinstance(value, str) else None


# Keys of ``hydra.sweeper`` that a sweep goes on with, and how each is written; None: it is damaged.
SETTINGS: Mapping[str, Callable[[Any], str | None]] = {
    "n_trials": _whole,
    "n_jobs": _whole,
    "sampler.seed": _whole,
    "pruning.startup_trials": _whole,
    "pruning.warmup_percent": _whole,
    "study_name": _words,
    "storage": _words,
}


def sqlite_file(url: str) -> Path | None:
    """Return the file of a study in sqlite; None: it is elsewhere."""
    name = url.removeprefix(SQLITE).partition("?")[0]
    return Path(name) if url.startswith(SQLITE) and name else None


def is_in(url: str, sweep: Path) -> bool:
    """Whether a storage is a file in the sweep folder, so that no other sweep has a part in it."""
    file = sqlite_file(url)
    return file is not None and file.resolve().parent == sweep.resolve()


def describe(overrides: Sequence[Override], hydra: DictConfig, fixed: tuple[str, ...]) -> Sweep:
    """Return the search that a command line asks for.

    Args:
        overrides: the command line's.
        hydra: Hydra's part of the sweep's config.
        fixed: the overrides that all jobs share.

    Raises:
        UserError: it asks for no job.
    """
    sweeper = hydra.sweeper
    if sweeper.n_trials < 1:
        raise UserError(f"hydra.sweeper.n_trials={sweeper.n_trials}: must be at least 1")
    settings: dict[str, Any] = {"sampler": str(hydra.runtime.choices[SAMPLER])}
    for key in SETTINGS:
        group, _, name = key.rpartition(".")
        place = sweeper[group] if group else sweeper
        if place is not None and name in place:
            settings[key] = place[name]
    if sweeper.pruning is None:
        settings["pruning"] = None
    if is_in(sweeper.storage, Path(str(hydra.sweep.dir))):
        del settings["storage"]  # it is found in the folder, wherever that is moved
    typed = [str(o.input_line) for o in overrides if not o.key_or_group.startswith("hydra")]
    extra = {"overrides": typed, "sweeper": settings}
    return Sweep(OPTUNA, int(sweeper.n_trials), fixed=fixed, extra=extra)


def arguments_of(folder: Path, sweep: Sweep) -> list[str]:
    """Return the overrides that go on with a search.

    Raises:
        UserError: ``sweep.json`` is damaged, or holds more than settings.
    """
    overrides, settings = sweep.extra.get("overrides"), sweep.extra.get("sweeper")
    path = folder / SWEEP
    if not isinstance(overrides, list) or not isinstance(settings, dict):
        raise UserError(f"{path} is damaged, or not of a search: no settings in it")
    check_overrides(overrides, path)
    arguments = list(overrides)
    sampler = settings.get("sampler")
    if isinstance(sampler, str) and re.fullmatch(r"\w+", sampler):
        arguments.append(f"{SAMPLER}={sampler}")
    if settings.get("pruning", "") is None:
        arguments.append("hydra.sweeper.pruning=null")
    for key, write in SETTINGS.items():
        if key not in settings:
            continue
        text = write(settings[key])
        if text is None:
            raise UserError(f"{path} is damaged, or not of a search: {key}={settings[key]!r:.60}")
        arguments.append(f"hydra.sweeper.{key}={text}")
    return arguments


def check_overrides(overrides: Sequence[Any], path: Path) -> None:
    """Check that overrides from a file set plain values of our own keys, and do nothing else.

    Raises:
        UserError: one does; names it.
    """
    parser = OverridesParser.create()
    for text in overrides:
        try:
            is_ours = isinstance(text, str) and _is_ours(parser.parse_override(text), text)
        except HydraException:
            is_ours = False
        if not is_ours:
            raise UserError(
                f"{path}: {text!r:.80} is not a plain value of a setting, and a sweep goes on with "
                f"nothing else: start a new one"
            )


def _is_ours(override: Override, text: str) -> bool:
    """Whether an override sets a key of ours to a value, a range or a preset of ours."""
    key, _, value = text.partition("=")
    if override.is_delete() or not KEY.fullmatch(key) or "${" in value:
        return False
    if key.lstrip("+").startswith("hydra") or "_target_" in key:
        return False
    is_preset = (CONF / override.key_or_group).is_dir()
    return not is_preset or all(NAME.fullmatch(name.strip()) for name in value.split(","))
