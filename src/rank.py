"""Collect comparisons: ``python -m src.rank``; replies of a model, ranked by a person or a program.

Standard output gets what a person ranks; what happened goes to standard error.
"""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig

from src.checks import at_least, one_of, within
from src.command.cli import RUNS, run_door, task_overrides, typed
from src.data.config import DataConfig
from src.errors import UserError
from src.own_function import check_typed
from src.ranking.config import EXACT, KNOWN, ME, RankingConfig
from src.talk.screen import note, waiting

if TYPE_CHECKING:  # otherwise imported after the config is checked
    import torch

    from src.data.comparison import Context
    from src.ranking.collection import Collection
    from src.ranking.labellers import Labeller
    from src.ranking.records import Records
    from src.talk.assistant import Assistant

    Knows = Callable[[Context], bool]

ALL, BEST = "all", "best"


@dataclass
class RankConfig(RankingConfig):
    """The values of ``conf/rank.yaml``."""

    data: DataConfig
    model_path: str | None
    batch_size: Annotated[int, at_least(1)]
    labeller: str
    keep: Annotated[str, one_of((ALL, BEST))]
    noise: Annotated[float, within("[0, 100]")]
    device: str
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]


def rank(config: DictConfig) -> None:
    """Draw replies and have them ranked."""
    settings = typed(RankConfig, config)
    if settings.labeller == ME and settings.keep == BEST:
        raise UserError("keep=best: a program chooses the best: name it with labeller=")
    if settings.labeller == ME and not (sys.stdin and sys.stdin.isatty()):
        raise UserError(
            "labeller=me: this is no terminal; add labeller=sample or a function's name"
        )
    from src.ranking.best import BestReplies
    from src.ranking.records import Records

    kind = BestReplies if settings.keep == BEST else Records
    with closing(kind(settings.output_path)) as records:
        _rank(settings, records)


def _rank(settings: RankConfig, records: "Records") -> None:
    from src.model.device import choose_device
    from src.ranking.best import BestReplies, keep_best
    from src.ranking.session import Session, outcome, rank_all
    from src.ranking.terminal import ask_all
    from src.shared_cores import shared_cores

    with waiting("loading the model and the prompts"):
        device = choose_device(settings.device)
        found, labeller = _collected(settings, records, device)
    for line in found.left_out:
        note(f"rows left out: {line}")
    note(
        f"{found.num_prompts:,} prompts, {settings.num_replies} replies each"
        + (f"; {len(records.rows):,} ranked before" if records.rows else "")
        + (
            f"; {found.num_unknown:,} left out, for the labeller does not know the answer"
            * bool(found.num_unknown)
        )
    )
    with shared_cores(settings.threads, device.type):
        if labeller is None:
            counts = ask_all(Session(found.drawn, records, settings.seed), input, print)
            note(outcome(counts, records))
        elif isinstance(records, BestReplies):
            note(keep_best(found.drawn, labeller, records, settings.seed))
        else:
            note(outcome(rank_all(found.drawn, labeller, records, settings.seed), records))


def _collected(
    settings: RankConfig, records: "Records", device: "torch.device"
) -> "tuple[Collection, Labeller | None]":
    """Return the replies to come, and who ranks them; say where other ones in the file come from.

    A person is no labeller: None.
    """
    from src.ranking.collection import collect, origin_of, people_batch_size
    from src.talk.assistant import load_assistant
    from src.talk.model_folder import newest_model_folder

    function = _function(settings)
    model_path = settings.model_path or str(newest_model_folder(RUNS))
    assistant = load_assistant(model_path, device)
    labeller, knows = function or _labeller(settings, assistant)
    batch_size = settings.batch_size
    if settings.labeller == ME:
        batch_size = min(batch_size, people_batch_size(settings))
    found = collect(settings, settings.data, assistant, records, batch_size, knows)
    if not found.num_known:
        raise UserError(
            "labeller=sample knows the embedded questions alone: add data=demonstrations, or rank "
            "with labeller=me"
            if settings.labeller == KNOWN
            else f"labeller={settings.labeller}: no row of {settings.prompts} has a reply of its "
            "own to compare with"
        )
    origin = origin_of(settings, assistant, model_path, settings.labeller, settings.noise)
    if line := records.begin(origin):
        note(line)
    return found, labeller


def _function(settings: RankConfig) -> "tuple[Labeller, Knows] | None":
    """Return the labeller that is a person's function; None: it is something else."""
    from src.ranking.labellers import function_labeller, is_reward_model

    name = settings.labeller
    if name in (ME, KNOWN, EXACT) or is_reward_model(name):
        return None
    check_typed("labeller", name, task_overrides())
    return function_labeller(name), lambda _: True


def _labeller(settings: RankConfig, assistant: "Assistant") -> "tuple[Labeller | None, Knows]":
    """Return the labeller, and which prompts it can rank replies to."""
    from src.data.prompts import answers
    from src.data.sources import open_source
    from src.ranking.labellers import exact_labeller, is_known, known_labeller, reward_labeller

    if settings.labeller == ME:
        return None, lambda _: True
    if settings.labeller == KNOWN:
        return known_labeller(settings.noise), is_known
    if settings.labeller == EXACT:
        expected = answers(open_source(settings.data))
        return exact_labeller(expected), expected.__contains__
    return reward_labeller(settings.labeller, assistant), lambda _: True


if __name__ == "__main__":
    run_door(rank, "rank")
