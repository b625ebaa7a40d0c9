"""Collect comparisons: ``python -m src.rank``; replies of a model, ranked by a person or a program.

Standard output gets what a person ranks; what happened goes to standard error.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig

from src.checks import at_least, check, one_of, within
from src.command.cli import RUNS, run_door, task_overrides, typed
from src.data.config import DataConfig
from src.errors import UserError
from src.model.generation_config import GenerationConfig
from src.own_function import check_typed
from src.talk.screen import note, waiting

if TYPE_CHECKING:  # otherwise imported after the config is checked
    from src.ranking.draws import Drawn
    from src.ranking.records import Records
    from src.talk.assistant import Assistant

ME, KNOWN = "me", "sample"


@dataclass
class RankConfig:
    """The values of ``conf/rank.yaml``."""

    data: DataConfig
    generation: GenerationConfig
    model_path: str | None
    prompts: Annotated[str, one_of(("train", "validation", "test"))]
    max_prompts: Annotated[int | None, at_least(1).or_null("for all")]
    num_replies: Annotated[int, at_least(2)]
    max_new_tokens: Annotated[int, at_least(1)]
    batch_size: Annotated[int, at_least(1)]
    labeller: str
    noise: Annotated[float, within("[0, 100]")]
    seed: Annotated[int, within("[0, 2^32)")]
    output: str
    device: str
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)
        if not self.generation.temperature:
            raise UserError(
                "generation.temperature=0: all replies to a prompt would be the same; add "
                "generation=full"
            )
        self.generation = replace(
            self.generation, max_new_tokens=self.max_new_tokens, seed=self.seed
        )


def rank(config: DictConfig) -> None:
    """Draw replies and have them ranked."""
    settings = typed(RankConfig, config)
    if settings.labeller == ME and not (sys.stdin and sys.stdin.isatty()):
        raise UserError(
            "labeller=me: this is no terminal; add labeller=sample or a function's name"
        )
    from src.ranking.labellers import function_labeller, known_labeller
    from src.ranking.records import Records
    from src.ranking.session import ask_all, rank_all
    from src.shared_cores import shared_cores

    records = Records(Path(settings.output))
    labeller = None
    if settings.labeller not in (ME, KNOWN):
        check_typed("labeller", settings.labeller, task_overrides())
        labeller = function_labeller(settings.labeller)
    with waiting("loading the model and the prompts"):
        assistant = _load(settings)
        drawn, num_prompts, num_dropped, dropped = _drawn(settings, assistant, records)
    for line in dropped:
        note(f"rows left out: {line}")
    note(
        f"{num_prompts:,} prompts, {settings.num_replies} replies each"
        + (f"; {len(records.rows):,} ranked before" if records.rows else "")
        + (
            f"; {num_dropped:,} left out, for the labeller does not know the answer"
            * bool(num_dropped)
        )
    )
    with shared_cores(settings.threads, assistant.model.wte.weight.device.type):
        if settings.labeller == ME:
            counts = ask_all(drawn, input, print, records, settings.seed)
        else:
            labeller = labeller or known_labeller(settings.noise)
            counts = rank_all(drawn, labeller, records, settings.seed)
    agreed, num_pairs = records.agreement()
    note(
        f"{counts.ranked:,} ranked"
        + (f", {counts.alike:,} with equal replies left out" if counts.alike else "")
        + f"; {len(records.rows):,} in {settings.output}"
        + (f"; asked twice, {agreed:.0%} of {num_pairs:,} pairs agree" if num_pairs else "")
    )


def _load(settings: RankConfig) -> "Assistant":
    from src.model.device import choose_device
    from src.talk.assistant import load_assistant
    from src.talk.model_folder import newest_model_folder

    model_path = settings.model_path or str(newest_model_folder(RUNS))
    return load_assistant(model_path, choose_device(settings.device))


def _drawn(
    settings: RankConfig, assistant: "Assistant", records: "Records"
) -> "tuple[Iterator[Drawn], int, int, list[str]]":
    """Return the replies to come, to how many prompts, and how many prompts are left out.

    The last value says which rows are no prompts.
    """
    from src.data.prompts import Prompts
    from src.data.sources import open_source
    from src.ranking.draws import draw
    from src.ranking.labellers import is_known
    from src.ranking.records import key_of

    room = assistant.model.config.n_positions - settings.max_new_tokens
    source = open_source(settings.data)
    prompts = Prompts.of(source, settings.prompts, assistant.tokenizer, room)
    order = prompts.order(settings.seed, 0, len(prompts)).tolist()
    found = [(prompts.contexts[number], prompts.families[number]) for number in order]
    known = [item for item in found if settings.labeller != KNOWN or is_known(item[0])]
    if not known:
        raise UserError(
            "labeller=sample knows the embedded questions alone: add data=demonstrations, or rank "
            "with labeller=me"
        )
    chosen = known[: settings.max_prompts]
    seen = records.seen
    left = [item for item in chosen if key_of(item[0]) not in seen]
    batch_size = settings.batch_size
    if settings.labeller == ME:  # a person does not wait for replies that come later
        batch_size = min(batch_size, 2 * settings.num_replies)
    replies = draw(assistant, left, settings.num_replies, settings.generation, batch_size)
    return replies, len(left), len(found) - len(known), prompts.report.explain()


if __name__ == "__main__":
    run_door(rank, "rank")
