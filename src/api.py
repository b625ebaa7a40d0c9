"""Three calls that do what the doors do, with the defaults of ``conf``.

    load("outputs/train/.../model").reply("Who are you?")
    open_run("outputs/train/...").curves["val/loss"]
    train(experiment="quickstart", max_steps=60)["test/accuracy"]

A mistake raises ``UserError`` with the line that a door would print.
"""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from src import streams
from src.checks import within
from src.command.arguments import as_arguments
from src.command.cli import MISTAKES, RUNS, composable, one_line, register_resolvers, typed
from src.command.overrides import CONF, of_its_objective, readable
from src.command.run_folder import Unused
from src.errors import UserError
from src.files import atomic
from src.files.json_file import read_settings
from src.free_threads import FreeThreads
from src.model.device import choose_device
from src.model.generation_config import GenerationConfig
from src.records.opened import MODEL, OpenRun
from src.records.runs import METRICS
from src.talk.assistant import load_assistant
from src.talk.chat_model import ChatModel
from src.talk.model_folder import newest_model_folder
from src.train import check_names, worker_command
from src.train import read_settings as read_train_settings
from src.training import lock
from src.training import resume as resuming
from src.training.config import TrainConfig
from src.training.start import start_run

LOG = "train.log"


class Figures(dict[str, Any]):
    """The figures of a finished run, as in its ``metrics.json``.

    Attributes:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        super().__init__(read_settings(folder / METRICS))
        self.folder = folder


def load(
    model_path: str | Path | None = None,
    device: str = "auto",
    generation: str = "greedy",
    threads: int | str = "auto",
) -> ChatModel:
    """Return a model to talk to: ``load(path).reply("Who are you?")``.

    Args:
        model_path: a run or model folder, or a name of the hub; None: the newest run.
        device: auto, cpu, cuda or mps.
        generation: how it answers, unless a call says otherwise: greedy or sampling.
        threads: that compute on a CPU; auto: as many as cores are free, for each reply.

    Raises:
        UserError: ``threads`` is no such number; there is no such model, or it is no GPT-2.
    """
    within("[1, 1024]").or_auto().check("threads", threads)
    config = _composed("chat", as_arguments({"generation": generation}))
    name = str(model_path or newest_model_folder(RUNS))
    if (Path(name).expanduser() / MODEL / "config.json").is_file():
        name = str(Path(name) / MODEL)
    assistant = load_assistant(name, choose_device(device))
    on = FreeThreads(threads, assistant.model.wte.weight.device.type)
    return ChatModel(assistant, typed(GenerationConfig, config.generation), name, on)


def open_run(folder: str | Path | None = None) -> OpenRun:
    """Return a run to look at: its ``metrics``, ``curves``, ``settings``, ``data`` and ``model``.

    Args:
        folder: of the run; None: the newest that is finished.

    Raises:
        UserError: it holds no run, or a damaged one.
    """
    path = _newest() if folder is None else Path(folder).expanduser()
    if not (path / resuming.RECORD).exists():
        raise UserError(f"{path}: not a run folder (no {resuming.RECORD} in it)")
    arguments = as_arguments({"resume": path})
    config = _composed("train", arguments)
    settings, objective = _checked(config, arguments)
    return OpenRun(path, settings, objective, load)


def _newest() -> Path:
    finished = [run for run in resuming.newest_first(RUNS) if resuming.is_finished(run)]
    if not finished:
        raise UserError(f"no finished run in {RUNS}: train one first, or name a folder")
    return finished[0]


def train(**settings: Any) -> Figures:
    """Train as ``python -m src.train`` does, and return the figures of the run.

    Settings are keywords: ``experiment="quickstart", max_steps=60``. Those of a group are an
    object, ``optimizer={"learning_rate": 1e-3}``, or have dots in their names:
    ``**{"optimizer.learning_rate": 1e-3}``. ``resume=FOLDER`` goes on with a run.

    Raises:
        UserError: a setting cannot be used, or the run stopped by a mistake.
        KeyboardInterrupt: Ctrl-C stopped it, in good order; ``train(resume=FOLDER)`` goes on.
    """
    arguments = readable(composable(as_arguments(settings)))
    for key in ("sweep", "hydra.mode"):
        if settings.get(key) is not None:
            raise UserError(f"{key}={settings[key]}: a sweep is started at a shell, with -m")
    check_names(arguments)
    if settings.get("resume") is None:
        return _train(arguments)
    folder = resuming.find_run(str(settings["resume"]), RUNS)
    if folder is not None and resuming.is_finished(folder):
        return Figures(folder)
    if folder is not None:  # otherwise auto begins a new one
        arguments = of_its_objective(arguments)
    return _train([a for a in arguments if not a.startswith("resume=")], folder)


def train_in(folder: Path, arguments: list[str]) -> int | None:
    """Train in ``folder``, or go on with the run in it; a finished one is left as it is.

    Args:
        folder: of the run.
        arguments: a command line of ``src.train``, without flags.

    Returns:
        The number of the signal that stopped it early, or None.

    Raises:
        UserError: a setting cannot be used, or the run stopped by a mistake.
    """
    if not (folder / resuming.RECORD).exists():
        return _run(composable(arguments), folder)
    if resuming.is_finished(folder):
        return None
    return _run(composable(arguments), resuming.find_run(str(folder), RUNS) or folder, True)


def check_arguments(arguments: list[str]) -> TrainConfig:
    """Return the settings of a command line of ``src.train``, without flags.

    Raises:
        UserError: one cannot be used.
    """
    return _checked(_composed("train", composable(arguments)), arguments)[0]


def _train(arguments: list[str], resumed: Path | None = None) -> Figures:
    """Train in a new folder, or go on in that of a run; see ``train``."""
    folder = resumed or Path(_composed("train", arguments, with_hydra=True).hydra.run.dir)
    try:
        stopped_by = _run(arguments, folder, resumed is not None)
    except KeyboardInterrupt:
        if (folder / resuming.RECORD).exists():
            _say_how_to_go_on(folder)
        raise
    if stopped_by is None:
        return Figures(folder)
    _say_how_to_go_on(folder)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + stopped_by)


def _run(arguments: list[str], folder: Path, is_resumed: bool = False) -> int | None:
    """Train in ``folder``; return the number of the signal that stopped it, or None."""
    overrides = [a for a in arguments if not a.startswith("hydra")]
    if not is_resumed:
        return _start(overrides, folder, True)
    try:
        return _start([*overrides, *as_arguments({"resume": folder})], folder, False)
    finally:
        lock.release(folder)


def _start(overrides: list[str], folder: Path, is_new: bool) -> int | None:
    config = _composed("train", overrides)
    settings, objective = _checked(config, overrides)
    joining = worker_command([], overrides, folder)
    unused = Unused(folder, LOG)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _log_file(folder / LOG):
            if is_new:
                _write_config(folder, config, overrides)
            return start_run(settings, objective, folder, overrides, joining)
    except BaseException:
        unused.remove()
        raise


def _say_how_to_go_on(folder: Path) -> None:
    print(f"go on with: train(resume={str(folder)!r})", file=sys.stderr)


def _checked(config: DictConfig, arguments: list[str]) -> tuple[TrainConfig, Any]:
    with _hydra():
        try:
            return read_train_settings(config, arguments)
        except MISTAKES as error:
            raise UserError(one_line(error)) from error


def _composed(door: str, arguments: list[str], with_hydra: bool = False) -> DictConfig:
    """Return the config of a door; raise UserError if it cannot be composed."""
    register_resolvers()
    with _hydra():
        try:
            return compose(door, arguments, return_hydra_config=with_hydra)
        except MISTAKES as error:
            raise UserError(one_line(error)) from error


@contextmanager
def _hydra() -> Iterator[None]:
    """Let Hydra compose from our ``conf``; a person's own use of it goes on afterwards."""
    instance = GlobalHydra.instance()
    before = instance.hydra
    instance.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def _write_config(folder: Path, config: DictConfig, overrides: list[str]) -> None:
    """Write what the doors write into ``.hydra``."""
    place = folder / ".hydra"
    place.mkdir(exist_ok=True)
    atomic.write_text(place / "config.yaml", OmegaConf.to_yaml(config))
    atomic.write_text(place / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Show what is logged on standard error and write it into the run's log, as the door does."""
    logger = logging.getLogger("src")
    shown, written = logging.StreamHandler(sys.stderr), streams.LogFile(path, encoding="utf-8")
    written.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a notebook's own handlers would show each line again
    for handler in (shown, written):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (shown, written):
            logger.removeHandler(handler)
        written.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]
