"""Collect comparisons: ``python -m src.rank``; replies of a model, ranked by a person or a program.

Standard output gets what a person ranks; what happened goes to standard error.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig

from src.checks import at_least, within
from src.command.cli import RUNS, run_door, task_overrides, typed
from src.data.config import DataConfig
from src.errors import UserError
from src.own_function import check_typed
from src.ranking.config import RankingConfig
from src.talk.screen import note, waiting

if TYPE_CHECKING:  # otherwise imported after the config is checked
    from src.ranking.collection import Collection
    from src.ranking.records import Records

ME, KNOWN = "me", "sample"


@dataclass
class RankConfig(RankingConfig):
    """The values of ``conf/rank.yaml``."""

    data: DataConfig
    model_path: str | None
    batch_size: Annotated[int, at_least(1)]
    labeller: str
    noise: Annotated[float, within("[0, 100]")]
    device: str


def rank(config: DictConfig) -> None:
    """Draw replies and have them ranked."""
    settings = typed(RankConfig, config)
    if settings.labeller == ME and not (sys.stdin and sys.stdin.isatty()):
        raise UserError(
            "labeller=me: this is no terminal; add labeller=sample or a function's name"
        )
    from src.ranking.labellers import function_labeller, known_labeller
    from src.ranking.records import Records
    from src.ranking.session import Session, outcome, rank_all
    from src.ranking.terminal import ask_all

    records = Records(Path(settings.output))
    labeller = None
    if settings.labeller not in (ME, KNOWN):
        check_typed("labeller", settings.labeller, task_overrides())
        labeller = function_labeller(settings.labeller)
    with waiting("loading the model and the prompts"):
        found = _collected(settings, records)
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
    if settings.labeller == ME:
        counts = ask_all(Session(found.drawn, records, settings.seed), input, print)
    else:
        labeller = labeller or known_labeller(settings.noise)
        counts = rank_all(found.drawn, labeller, records, settings.seed)
    note(outcome(counts, records))


def _collected(settings: RankConfig, records: "Records") -> "Collection":
    """Return the replies to come; say where other ones in the file come from."""
    from src.model.device import choose_device
    from src.ranking.collection import collect, origin_of, people_batch_size
    from src.ranking.labellers import is_known
    from src.talk.assistant import load_assistant
    from src.talk.model_folder import newest_model_folder

    model_path = settings.model_path or str(newest_model_folder(RUNS))
    assistant = load_assistant(model_path, choose_device(settings.device))
    batch_size = settings.batch_size
    if settings.labeller == ME:
        batch_size = min(batch_size, people_batch_size(settings))
    known = {"knows": is_known} if settings.labeller == KNOWN else {}
    found = collect(settings, settings.data, assistant, records, batch_size, **known)
    if not found.num_known:
        raise UserError(
            "labeller=sample knows the embedded questions alone: add data=demonstrations, or rank "
            "with labeller=me"
        )
    if line := records.begin(origin_of(settings, assistant, model_path)):
        note(line)
    return found


if __name__ == "__main__":
    run_door(rank, "rank")
