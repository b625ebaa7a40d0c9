"""Prompts of a source that nobody has ranked yet, and a model's replies to them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from src.data.comparison import Context
from src.data.config import DataConfig
from src.data.content import UnusableRow
from src.data.prompts import Prompts
from src.data.sources import open_source
from src.model.weights_file import checksum
from src.ranking.config import KNOWN, RankingConfig
from src.ranking.draws import Drawn, Prompt, draw, messages_of
from src.ranking.records import Records, key_of
from src.talk.assistant import Assistant
from src.talk.rendering import Refusal

REFUSED = "refused_by_the_chat_template"


class Collection(NamedTuple):
    """What is to be ranked.

    Attributes:
        drawn: the replies to come.
        num_prompts: they answer.
        num_known: prompts that the labeller can rank replies to, ranked before or not.
        num_unknown: prompts that it cannot.
        left_out: which rows are no prompts that the model takes, a line each.
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
        UserError: the rows cannot be read, or no prompt is left; the model's template is broken.
    """
    room = assistant.model.config.n_positions - settings.max_new_tokens
    encode = partial(_encode, assistant)
    source, key = open_source(data), settings.key("max_new_tokens")
    prompts = Prompts.of(source, settings.prompts, encode, room, key)
    order = prompts.order(settings.seed, 0, len(prompts)).tolist()
    parts = zip(prompts.contexts, prompts.families, prompts.input_ids, strict=True)
    whole = [Prompt(context, family, ids.tolist()) for context, family, ids in parts]
    found = [whole[number] for number in order]
    known = [prompt for prompt in found if knows(prompt.context)]
    seen = records.seen
    left = [item for item in known[: settings.max_prompts] if key_of(item.context) not in seen]
    drawn = draw(assistant, left, settings.num_replies, settings.generation, batch_size)
    num_unknown = len(found) - len(known)
    return Collection(drawn, len(left), len(known), num_unknown, prompts.report.explain())


def _encode(assistant: Assistant, context: Context) -> list[int]:
    """Return a context as the model reads it.

    Raises:
        UnusableRow: the model's template refuses it, such as a system text or an opening.
    """
    try:
        return assistant.template(messages_of(context))
    except Refusal as error:
        raise UnusableRow(REFUSED, str(error)) from error


def people_batch_size(settings: RankingConfig) -> int:
    """Return how many replies are drawn at a time for a person, who waits for the first ones."""
    return 2 * settings.num_replies


def origin_of(
    settings: RankingConfig,
    assistant: Assistant,
    model_path: str,
    labeller: str,
    noise: float | None = None,
) -> dict[str, Any]:
    """Return what rankings depend on beside their prompt.

    Replies: weights, seed, and how they are drawn. Ranks: who ranks, and the embedded labeller's
    noise.
    """
    weights = {name: tensor.cpu() for name, tensor in assistant.model.state_dict().items()}
    generation = asdict(settings.generation)
    return {
        "model": model_path,
        "weights": checksum(weights),
        "seed": settings.seed,
        "generation": {name: value for name, value in generation.items() if name != "seed"},
        "labeller": labeller,
        **({"noise": noise} if labeller == KNOWN else {}),
    }
