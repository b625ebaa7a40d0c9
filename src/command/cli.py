"""The frame of every door: Hydra composes, the job runs, a person's mistake becomes one line.

Exit codes: 0 done, 2 a person's mistake, 128 + n stopped by signal n (130 Ctrl-C, 143 SIGTERM);
anything else is a bug of ours and comes with its traceback.
"""

import errno
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src import signals, streams
from src.command import assignments, flags
from src.command.conf_text import door_text
from src.command.help import print_help
from src.command.mistakes import no_preset, one_line
from src.command.overrides import CONF, PATHS, TEXTS, readable
from src.command.run_folder import Check, folder_once_checked
from src.errors import UserError
from src.files import disk
from src.files.run_name import run_name
from src.free_cores import keep_mask_of_start
from src.free_memory import out_of_memory
from src.wording.command_line import quoted

RUNS = Path("outputs/train")  # where conf/train.yaml puts run folders
LESS_MEMORY = (
    "end other programs, or take a smaller model, fewer answers at a time, smaller batches"
)
MISTAKES = (UserError, HydraException, OmegaConfBaseException)
T = TypeVar("T")


class Stopped(SystemExit):
    """A run that a signal stopped, in good order."""

    def __init__(self, number: int):
        super().__init__(128 + number)


def typed(cls: type[T], config: DictConfig, **replacements: Any) -> T:
    """Return ``config`` as the dataclass ``cls``, types and ranges checked.

    ``replacements`` are values that ``config`` does not hold: text that Hydra's grammar must not
    read, or an object of another class.

    Raises:
        UserError: a value has the wrong type or range, a key is unknown or missing.
    """
    for key in replacements:
        OmegaConf.update(config, key, None, merge=False)
    settings: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), config))
    for key, value in replacements.items():
        setattr(settings, key, value)
    return settings


def require(module: str, extra: str, what: str) -> None:
    """Check that ``module``, which ``what`` needs, is installed.

    Raises:
        UserError: it is not; names the ``extra`` of ours that brings it.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{what} needs {module}, which is not installed: pip install 'gpt2-chat[{extra}]'"
        )


def run_door(
    job: Callable[..., Any],
    config_name: str,
    free_text: tuple[str, ...] = (),
    join: Callable[[], list[str] | None] = lambda: None,
    rewrite: Callable[[list[str]], list[str]] = list,
    around: Callable[[list[str]], AbstractContextManager[list[str]]] = nullcontext,
    check: Check | None = None,
    alone: str = "",
) -> None:
    """Compose ``conf/<config_name>.yaml`` with the command line and call ``job(config)``.

    Args:
        job: the work; gets the config, and by name each key of ``free_text`` that a person sets.
        config_name: the file under ``conf``.
        free_text: keys whose values are any text, not even null; Hydra's grammar does not read
            them. A path among them comes with ``config``, like the paths of other keys.
        join: returns the arguments that another process of the same run has checked, or None.
        rewrite: turns the other arguments, made readable, into those that Hydra composes.
        around: yields the arguments while Hydra is at work, perhaps others.
        check: of a door whose runs have folders: raises, before a single run has one, what is
            wrong with its config; gets the overrides, too.
        alone: the key of a text that stands without one, as in ``python -m src.door FOLDER``.
    """
    _prepare_process(job.__module__)
    mistakes: list[Exception] = []
    texts: dict[str, str] = {}

    def hydra_job(config: DictConfig) -> Any:
        # A mistake in one job of a multirun does not stop the others.
        with _reported(mistakes, config_name):
            return job(config, **texts)
        return None

    hydra_job.__module__ = job.__module__
    hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    try:
        signals.raise_on_interrupt()
        with _reported(mistakes, config_name):
            line = flags.read(sys.argv[1:])
            if line.wants_help:
                print_help(config_name)
            else:
                arguments = join()
                if arguments is None:
                    line = line.with_key(alone) if alone else line
                    texts, others = _checked(line, config_name, free_text)
                    arguments = rewrite(others)
                checked = folder_once_checked(check, mistakes) if check else nullcontext()
                with around(arguments) as rewritten, checked:
                    sys.argv[1:] = flags.read(rewritten).arguments()
                    hydra_main(hydra_job)()
            streams.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    if mistakes:
        sys.exit(2)


def _prepare_process(module: str) -> None:
    streams.decode_as_utf8(module)
    streams.open_closed()
    streams.escape_what_has_no_sign()
    streams.watch_output()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing them
    keep_mask_of_start()
    register_resolvers()


def register_resolvers() -> None:
    """Let configs name the folder of a run: ``${run_name:}``."""
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)


@contextmanager
def _reported(mistakes: list[Exception], door: str) -> Iterator[None]:
    """Print a person's mistake at a door in one line, and add it to ``mistakes``."""
    try:
        yield
    except MISTAKES as error:
        mistakes.append(error)
        streams.complain(f"error: {one_line(error, door)}")
    except streams.OutputLost as error:
        streams.give_up(sys.stdout)
        if error.errno == errno.EPIPE:  # the reader has enough
            sys.exit(141)
        mistakes.append(error)
        streams.complain(f"error: standard output: {error.strerror}")
    except Exception as error:
        text = disk.refusal(error, _output_folder(error))
        if text is None and (task := out_of_memory(error)) is not None:
            text = f"out of memory: {task}: {LESS_MEMORY}"
        if text is None:
            raise
        mistakes.append(error)
        streams.complain(f"error: {text}")


def _output_folder(error: BaseException) -> str | None:
    """Return the run folder of the job that raised ``error``; None if the door keeps none."""
    runtime = HydraConfig.get().runtime if HydraConfig.initialized() else None
    if runtime is not None and not OmegaConf.is_missing(runtime, "output_dir"):  # as by --cfg
        folder = Path(runtime.output_dir)
        return None if folder == Path.cwd() else str(folder)
    # Hydra writes before a job, too, and has forgotten where when it hands the error on.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "run_job" and "output_dir" in frame.f_locals:
            return str(frame.f_locals["output_dir"])
    return None


def as_typed(overrides: Any) -> list[str]:
    """Return overrides as Hydra got them: ``${...}`` in one is a text here, and nothing to find."""
    typed: Any = OmegaConf.to_container(overrides, resolve=False)
    return typed


def task_overrides() -> list[str]:
    """Return the overrides of the running job, for another process or a later time."""
    return as_typed(HydraConfig.get().overrides.task)


def _checked(
    line: flags.Line, door: str, free_text: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    """Return the free texts of a command line, and its other arguments as Hydra can read them."""
    assignments.check(line, door, free_text)
    texts, others = _take_free_text(line.arguments(), free_text, line.shows_config)
    return texts, readable(composable(others, door))


def _take_free_text(
    arguments: list[str], keys: tuple[str, ...], is_shown: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the free texts of a command line by their keys, and its other arguments.

    Where the config ``is_shown``, they stay among the others, in quotes.
    """
    texts, others = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in keys or key in PATHS:
            others.append(argument)
        elif is_shown:
            others.append(argument if key in TEXTS else f"{key}={quoted(value)}")
        else:
            texts[key] = value
    return texts, others


def named_file(arguments: list[str]) -> list[str]:
    """Return the arguments, for a door with rows of its own: a path names a file, too."""
    values = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    named = values.get("data.path", "null") != "null"
    return [*arguments, "data=file"] if named and "data" not in values else arguments


def composable(arguments: list[str], door: str = "train") -> list[str]:
    """Return ``arguments`` with what Hydra composes as its own kind of text.

    A column, as in ``data.columns.prompt=my question``, has any name, so it is quoted; and its key
    is new to the config. A preset may be called by a number, as in ``hardware=4090``.

    Raises:
        UserError: null is chosen where a preset has to be.
    """
    quoted = []
    for argument in arguments:
        match = re.fullmatch(r"\+{0,2}(data\.columns\.[^=]+)=(.*)", argument, re.S)
        if match and len(match[2]) > 1 and match[2][0] == match[2][-1] in ("'", '"'):
            argument = f"++{match[1]}={match[2]}"
        elif match:
            name = re.sub(r"(\\*)'", r"\1\1\\'", match[2])  # a backslash before a quote escapes it
            name = re.sub(r"(\\+)\Z", r"\1\1", name).replace("${", "\\${")
            argument = f"++{match[1]}='{name}'"
        else:
            argument = _as_preset(argument, door)
        quoted.append(argument)
    return quoted


def _as_preset(argument: str, door: str) -> str:
    """Return the choice of a preset as Hydra takes it: its name is a text, and it has one."""
    group, _, value = argument.partition("=")
    known = door_text(door).groups.get(group)
    if known is None:
        return argument
    if known.default is not None and value.casefold() in ("null", "none", ""):
        raise UserError(no_preset(group, value, known.options))
    names = value.split(",")
    return f"{group}={','.join(f'{name!r}' if name.isdigit() else name for name in names)}"
