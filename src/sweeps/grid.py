"""The runs that a command line asks for: all combinations of the values it lists.

Hydra starts them. Here they are known before: each has a name, values and settings.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from src.command.overrides import CONF, MULTIRUN
from src.errors import UserError
from src.sweeps.names import folder_names
from src.sweeps.optuna_record import SWEEPER, describe
from src.sweeps.state import GRID, Job, Sweep

BASIC = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
RESOLVER = "job_folder"  # by which ``conf/train.yaml`` names a run's folder
NOT_RUN = ("help", "hydra_help", "version", "cfg", "info", "shell_completion")  # flags of Hydra


@dataclass(frozen=True)
class Asked:
    """What a command line asks Hydra for.

    Attributes:
        sweep: the runs.
        folder: where they go.
        sweeper: Hydra's settings of what chooses the values.
    """

    sweep: Sweep
    folder: Path
    sweeper: DictConfig


def may_be_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command line may ask for many runs; composing it tells."""
    return bool(MULTIRUN & set(arguments)) or any(a.startswith("sweep=") for a in arguments)


def asked(config_name: str, arguments: Sequence[str]) -> Asked | None:
    """Return the sweep that ``arguments`` ask for; None: it is no sweep.

    Raises:
        HydraException: a preset or a key does not exist.
    """
    flags = get_args_parser().parse_args(list(arguments))
    if any(getattr(flags, name, None) for name in NOT_RUN):
        return None
    name, parser = flags.config_name or config_name, OverridesParser.create()
    with _composing(flags.config_dir):
        given = parser.parse_overrides(flags.overrides)
        plain = [str(o.input_line) for o in given if not o.is_sweep_override()]
        whole = compose(name, [*plain, *_search(flags)], return_hydra_config=True)
        hydra = whole.hydra
        if not flags.multirun and hydra.mode != RunMode.MULTIRUN:
            return None
        folder, sweeper = Path(str(hydra.sweep.dir)), hydra.sweeper
        swept = {o.key_or_group for o in given if o.is_sweep_override()}
        fixed = tuple(_text(o) for o in given if o.key_or_group not in swept)
        if OmegaConf.to_container(sweeper)["_target_"] != BASIC:  # type: ignore[index,call-overload]
            if sweeper._target_ == SWEEPER:
                return Asked(describe(given, hydra, fixed), folder, sweeper)
            return Asked(Sweep(kind=str(sweeper._target_), fixed=fixed), folder, sweeper)
        listed = [f"{key}={values}" for key, values in (sweeper.params or {}).items()]
        every = parser.parse_overrides([*listed, *flags.overrides])
        keys = [o.key_or_group for o in every if o.is_sweep_override()]
        runs = [
            parser.parse_overrides(run)
            for run in BasicSweeper.split_arguments(every, max_batch_size=None)[0]
        ]
        configs = list(_configs(name, runs, _search(flags)))
        folders = _typed_folders(whole, runs, configs)
    sweep = _grid(list(dict.fromkeys(keys)), runs, configs, fixed)
    if folders is not None:
        jobs = (replace(job, folder=n) for job, n in zip(sweep.jobs, folders, strict=True))
        sweep = replace(sweep, jobs=tuple(jobs))
    return Asked(sweep, folder, sweeper)


def _typed_folders(
    whole: DictConfig, runs: Sequence[Sequence[Override]], configs: Sequence[DictConfig]
) -> list[str] | None:
    """Return the folders' names by a ``hydra.sweep.subdir`` that a person typed; None: by ours.

    Raises:
        UserError: two runs would share a folder.
    """
    raw: Any = OmegaConf.to_container(whole.hydra.sweep, resolve=False)
    if RESOLVER in raw["subdir"]:
        return None
    before, names = HydraConfig.instance().cfg, []
    try:
        for number, (run, config) in enumerate(zip(runs, configs, strict=True)):
            one = config.copy()
            with open_dict(one):
                one.hydra = whole.hydra.copy()
                one.hydra.job.num, one.hydra.job.id = number, str(number)
                one.hydra.overrides.task = [_text(o) for o in run]
            HydraConfig.instance().set_config(one)
            names.append(str(OmegaConf.select(one, "hydra.sweep.subdir")))
    finally:
        HydraConfig.instance().cfg = before
    if len(set(names)) < len(names):
        raise UserError(f"hydra.sweep.subdir={raw['subdir']}: two runs would share a folder")
    return names


@contextmanager
def _composing(config_dir: str | None) -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def _search(flags: Any) -> list[str]:
    """Return ``--config-dir`` as an override."""
    if flags.config_dir is None:
        return []
    return [f"hydra.searchpath=[{Path(flags.config_dir).absolute().as_uri()!r}]"]


def _configs(
    name: str, runs: Sequence[Sequence[Override]], search: Sequence[str]
) -> Iterator[DictConfig]:
    """Yield the config of each run; runs with the same presets are composed once."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    base = compose(name, list(search))
    for run in runs:
        plain = [o for o in run if _is_plain(o, base)]
        others = tuple(str(o.input_line) for o in run if not _is_plain(o, base))
        if others not in composed:
            composed[others] = compose(name, [*others, *search])
        config = composed[others].copy()
        for override in plain:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        yield config


def _is_plain(override: Override, base: DictConfig) -> bool:
    """Whether an override sets one value that every config has."""
    key = override.key_or_group
    is_change = override.type == OverrideType.CHANGE and override.package is None
    return is_change and _has(base, key)


def _has(config: DictConfig, key: str) -> bool:
    """Whether a dotted key holds a value, and no group of them."""
    *groups, name = key.split(".")
    place: Any = config
    for group in groups:
        is_known = isinstance(place, DictConfig) and group in set(place.keys())
        place = place._get_node(group) if is_known else None
    if not isinstance(place, DictConfig) or name not in set(place.keys()):
        return False
    return not isinstance(place._get_node(name), DictConfig)


def _grid(
    keys: Sequence[str],
    runs: Sequence[Sequence[Override]],
    configs: Sequence[DictConfig],
    fixed: tuple[str, ...],
) -> Sweep:
    values = [
        {key: value_of(key, run, config) for key in keys}
        for run, config in zip(runs, configs, strict=True)
    ]
    swept = [
        key for key in keys if any(comparable(v[key]) != comparable(values[0][key]) for v in values)
    ]
    values = [{key: run[key] for key in swept} for run in values]
    settings = [_settings(config) for config in configs]
    jobs = tuple(
        Job(name, swept_values, {k: v for k, v in own.items() if settings[0].get(k) != v})
        for name, swept_values, own in zip(folder_names(values), values, settings, strict=True)
    )
    return Sweep(GRID, len(jobs), jobs, settings[0] if settings else {}, fixed)


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return plain values; where an interpolation leads nowhere, the run itself will say so."""
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        values = OmegaConf.to_container(config, resolve=False)
    return values


def value_of(key: str, run: Sequence[Override], config: DictConfig) -> Any:
    """Return the value that a run has under a key; of a preset, its name."""
    if _has(config, key):
        try:
            value = OmegaConf.select(config, key)
        except OmegaConfBaseException:
            value = None
        else:
            return OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    override = next((o for o in reversed(run) if o.key_or_group == key), None)
    return None if override is None else _plain(override.value())


def _plain(value: Any) -> Any:
    return (
        value if isinstance(value, bool | int | float | str | list) or value is None else str(value)
    )


def comparable(value: Any) -> Any:
    """Return what two values have in common if they mean the same: 5e-3, 0.005 and '0.005'."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return tuple(comparable(item) for item in value)
    if isinstance(value, str) and re.fullmatch(
        r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.I
    ):
        return float(value.replace("_", ""))
    return value


def _text(override: Override) -> str:
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"
