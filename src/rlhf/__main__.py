"""All three steps of InstructGPT, judged by known taste: ``python -m src.rlhf [name=...]``.

The same command goes on with what was stopped, and shows again what is finished.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from src import signals
from src.command.cli import RUNS, Stopped, run_door, task_overrides, typed
from src.command.mistakes import names_of
from src.errors import UserError
from src.rlhf.config import OF_RUNS, PIPELINES, RANK, SFT, RLHFConfig
from src.wording.command_line import command

if TYPE_CHECKING:  # otherwise imported after the config is checked
    from src.rlhf.record import Record


def rlhf(config: DictConfig) -> None:
    """Do what is left of the steps, judge them, and print what they gained."""
    settings = typed(RLHFConfig, config)
    from src.api import check_arguments, train_in  # seconds
    from src.rank import rank
    from src.rlhf.evaluation import evaluate
    from src.rlhf.pipeline import Pipeline
    from src.rlhf.report import write_report
    from src.rlhf.steps import run_arguments
    from src.training import lock

    folder = Path(settings.resume or PIPELINES / settings.name).expanduser()
    settings, record = opened(folder, settings, config)
    pipeline = Pipeline(folder, settings, record)
    runs = {
        step: check_arguments(run_arguments(step, settings, pipeline.places, record.start))
        for step in settings.steps
        if step != RANK
    }
    folder.mkdir(parents=True, exist_ok=True)
    if not lock.hold(folder):
        raise UserError(f"{folder}: another process is at it: wait for it, or stop it")
    try:
        record.write(folder)
        _running.append(folder)
        signals.at_end(_part)
        stopped_by = pipeline.run(
            train_in, lambda arguments: rank(compose("rank", overrides=arguments))
        )
        if stopped_by is not None:
            raise Stopped(stopped_by)
        results = evaluate(pipeline, runs[SFT].data)
        for line in write_report(pipeline, results):
            print(line)
    finally:
        _running.clear()
        lock.release(folder)


def opened(folder: Path, settings: RLHFConfig, config: DictConfig) -> "tuple[RLHFConfig, Record]":
    """Return the settings and the record of the pipeline in ``folder``, perhaps a new one.

    Raises:
        UserError: there is none to go on with, or it has other settings; a new one has no model
            to begin with.
    """
    from src.evaluation.record import commit, machine
    from src.model.device import choose_device
    from src.rlhf.record import RECORD, Record, check_same, read_record
    from src.rlhf.steps import accelerator
    from src.talk.model_folder import newest_model_folder, read_model_folder
    from src.training.record import literal

    overrides = task_overrides()
    if settings.resume is None and not (folder / RECORD).exists():
        start = settings.start or str(newest_model_folder(RUNS))
        read_model_folder(start, "start")  # checks it, before the pipeline has its name for good
        facts = {
            "overrides": overrides,  # for people; never composed again
            "commit": commit(),
            "machine": machine(choose_device(accelerator(settings), "run.trainer.accelerator")),
        }
        return settings, Record(asdict(settings), start, facts=facts)
    record = read_record(folder)
    if settings.resume is not None:
        if others := [each for each in overrides if not each.startswith("resume=")]:
            raise UserError(
                f"{others[0]}: what goes on keeps its settings: leave it out, or give a new one "
                f"another name (name=...)"
            )
        before = literal(record.config | {"resume": None, "start": None})
        OmegaConf.set_struct(config, False)
        for key in OF_RUNS:  # whose keys are the record's alone: a default may be newer than it
            config[key] = {}
        return typed(RLHFConfig, cast(DictConfig, OmegaConf.merge(config, before))), record
    check_same(record, settings, folder)
    return settings, record


def with_keys_of_runs(arguments: list[str]) -> list[str]:
    """Return the arguments that set keys of conf/train.yaml, though conf/rlhf.yaml has not all."""
    known = names_of("rlhf")
    keys = [argument.partition("=")[0] for argument in arguments]
    return [
        f"++{argument}" if key.partition(".")[0] in OF_RUNS and key not in known else argument
        for key, argument in zip(keys, arguments, strict=True)
    ]


_running: list[Path] = []  # the pipeline of this process


def _part() -> None:
    """Say how the whole goes on, where a run would say how it alone does."""
    for folder in _running:
        signals.say_at_end(f"go on with: {command('rlhf', resume=folder)}")


if __name__ == "__main__":
    signals.take()
    run_door(rlhf, "rlhf", rewrite=with_keys_of_runs)
