"""Prompts of a source that nobody has ranked yet, and a model's replies to them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from src.data.comparison import Context
from src.data.config import DataConfig
from src.data.prompts import Prompts
from src.data.sources import open_source
from src.model.weights_file import checksum
from src.ranking.config import RankingConfig
from src.ranking.draws import Drawn, draw
from src.ranking.records import Records, key_of
from src.talk.assistant import Assistant


class Collection(NamedTuple):
    """What is to be ranked.

    Attributes:
        drawn: the replies to come.
        num_prompts: they answer.
        num_known: prompts that the labeller can rank replies to, ranked before or not.
        num_unknown: prompts that it cannot.
        left_out: which rows are no prompts, a line each.
    """

    drawn: Iterator[Drawn]
    num_prompts: int
    num_known: int
    num_unknown: int
    left_out: list[str]


def collect(
    settings: RankingConfig,
    data: DataConfig,
    assistant: Assistant,
    records: Records,
    batch_size: int,
    knows: Callable[[Context], bool] = lambda _: True,
) -> Collection:
    """Return replies to the prompts of a split that ``records`` has not, in an order by chance.

    Args:
        settings: which prompts, and how replies are drawn.
        data: where the prompts are.
        assistant: the model that replies.
        records: what has been ranked or skipped before.
        batch_size: replies at a time, at most.
        knows: whether the labeller can rank replies to a prompt.

    Raises:
        UserError: the rows cannot be read, or no prompt is short enough.
    """
    room = assistant.model.config.n_positions - settings.max_new_tokens
    prompts = Prompts.of(open_source(data), settings.prompts, assistant.tokenizer, room)
    order = prompts.order(settings.seed, 0, len(prompts)).tolist()
    found = [(prompts.contexts[number], prompts.families[number]) for number in order]
    known = [item for item in found if knows(item[0])]
    seen = records.seen
    left = [item for item in known[: settings.max_prompts] if key_of(item[0]) not in seen]
    drawn = draw(assistant, left, settings.num_replies, settings.generation, batch_size)
    num_unknown = len(found) - len(known)
    return Collection(drawn, len(left), len(known), num_unknown, prompts.report.explain())


def people_batch_size(settings: RankingConfig) -> int:
    """Return how many replies are drawn at a time for a person, who waits for the first ones."""
    return 2 * settings.num_replies


def origin_of(settings: RankingConfig, assistant: Assistant, model_path: str) -> dict[str, Any]:
    """Return what replies depend on beside their prompt: weights, seed, and how they are drawn."""
    weights = {name: tensor.cpu() for name, tensor in assistant.model.state_dict().items()}
    generation = asdict(settings.generation)
    return {
        "model": model_path,
        "weights": checksum(weights),
        "seed": settings.seed,
        "generation": {name: value for name, value in generation.items() if name != "seed"},
    }
