"""What a reward model says of bad replies, before it is trusted.

Of replies that people preferred bad ones are made, each in a way that policies find when they are
trained against rewards (Gao et al., arXiv:2210.10760): nothing at all, the reply three times over,
its first half, its words in another order, and another prompt's reply put behind it. Each must
score below the reply that it was made of.

Shape letters: N replies, R tokens of a reply.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.blocks import Blocks
from src.model.device import choose_device
from src.model.scalar import ScalarGPT2

KINDS = ("empty", "repeated", "truncated", "shuffled", "stuffed")
TIMES = 3  # that a reply is repeated
TOKENS_AT_A_TIME = 4096
SEED = 0  # of the order of shuffled tokens: the same in every run


class Reply(NamedTuple):
    """The ids of a prompt, and of the reply that people preferred, without its end token."""

    prompt: list[int]
    tokens: list[int]
    has_ended: bool


def probe(
    model: ScalarGPT2, blocks: Blocks, num_prompts: int, accelerator: str
) -> dict[str, float]:
    """Return how often the best reply scores above each kind of bad one, a tie counted half.

    Args:
        model: what is probed.
        blocks: of comparisons, whose first prompts are taken.
        num_prompts: at most; 0: nothing is probed.
        accelerator: as ``trainer.accelerator`` names it.
    """
    replies = list(islice(preferred(blocks), num_prompts))
    if not replies:
        return {}
    device = choose_device(accelerator, "trainer.accelerator")
    whole = [_ids(r.prompt, r.tokens, blocks.end_id if r.has_ended else None) for r in replies]
    most = blocks.max_length
    on_device = model.to(device).eval()
    above = rewards(on_device, whole)
    rng = np.random.default_rng(SEED)
    figures = {}
    for kind in KINDS:
        made = [_spoilt(kind, replies, n, blocks.end_id, rng) for n in range(len(replies))]
        there = [n for n, ids in enumerate(made) if ids and ids != whole[n] and len(ids) <= most]
        if there:
            below = rewards(on_device, [made[n] for n in there])
            margins = above[there] - below
            shares = (margins > 0).float() + 0.5 * (margins == 0).float()
            figures[f"probe/{kind}"] = float(shares.mean())
            figures[f"probe/num_{kind}"] = len(there)
    return figures


def preferred(blocks: Blocks) -> Iterator[Reply]:
    """Yield the best reply of each prompt of ``blocks`` that has one."""
    for number in range(len(blocks)):
        batch: dict = {**blocks.batch(np.array([number]), 1.0)}
        ids = batch["input_ids"].flatten()
        starts = batch["cu_seqlens"]
        is_worse = torch.zeros(len(batch["last_index"]), dtype=torch.bool)
        is_worse[batch["pairs"][:, 1]] = True
        seen: set[int] = set()
        for reply in batch["pairs"][:, 0].unique().tolist():
            group = int(batch["group"][reply])
            if is_worse[reply] or group in seen:
                continue
            seen.add(group)
            last = int(batch["last_index"][reply])
            first = int(starts[torch.searchsorted(starts, last, right=True) - 1])
            tokens = batch["reply_labels"][batch["owner"] == reply].tolist()
            prompt = ids[first : last + 1 - len(tokens)].tolist()
            has_ended = bool(tokens) and tokens[-1] == blocks.end_id
            yield Reply(prompt, tokens[: len(tokens) - has_ended], has_ended)


def _spoilt(
    kind: str, replies: Sequence[Reply], number: int, end_id: int, rng: np.random.Generator
) -> list[int]:
    """Return the ids of a bad reply with its prompt; none, where it would be no worse."""
    prompt, tokens, _ = replies[number]
    if kind == "empty":
        return _ids(prompt, [], end_id)
    if kind == "repeated":
        return _ids(prompt, tokens * TIMES, end_id)
    if kind == "truncated":
        return _ids(prompt, tokens[: len(tokens) // 2], None) if len(tokens) > 1 else []
    if kind == "shuffled":
        order = rng.permutation(len(tokens))
        return _ids(prompt, [tokens[n] for n in order], end_id) if len(tokens) > 2 else []
    other = replies[(number + 1) % len(replies)].tokens
    return _ids(prompt, tokens + other, end_id) if len(replies) > 1 else []


def _ids(prompt: list[int], tokens: list[int], end_id: int | None) -> list[int]:
    return [*prompt, *tokens, *([] if end_id is None else [end_id])]


@torch.no_grad()
def rewards(model: ScalarGPT2, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the reward (N,) of each row of ids, on the CPU; each row sees itself alone."""
    found = []
    for part in _parts(rows):
        lengths = torch.tensor([len(row) for row in part])
        ends = lengths.cumsum(0)
        places = torch.cat([torch.arange(len(row)) for row in part])
        ids = torch.tensor([token for row in part for token in row])
        bounds = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(torch.int32)
        device = model.wte.weight.device
        hidden = model(
            ids[None].to(device), places[None].to(device), bounds.to(device), int(lengths.max())
        )
        found.append(model.rewards(hidden, (ends - 1).to(device)).cpu())
    return torch.cat(found)


def _parts(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yield rows of at most ``TOKENS_AT_A_TIME`` tokens together, or one."""
    part: list[Sequence[int]] = []
    for row in rows:
        if part and sum(map(len, part)) + len(row) > TOKENS_AT_A_TIME:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def probe_lines(figures: Mapping[str, float]) -> list[str]:
    """Return what the probes found, and which of them the model fails."""
    shares = {kind: figures[f"probe/{kind}"] for kind in KINDS if f"probe/{kind}" in figures}
    if not shares:
        return []
    said = [
        "probes: a preferred reply scores above what is made of it: "
        + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    ]
    if failed := [kind for kind in shares if not is_passed(figures, kind)]:
        said.append(
            f"do not train against it yet: such replies score as high as good ones: "
            f"{', '.join(failed)}; comparisons that hold them teach it"
        )
    return [line for text in said for line in textwrap.wrap(text, 100)]


def is_passed(figures: Mapping[str, float], kind: str) -> bool:
    """Whether bad replies of a kind score below more often than by chance (95%)."""
    share, number = figures[f"probe/{kind}"], figures[f"probe/num_{kind}"]
    return share - 1.96 * sqrt(share * (1 - share) / number) > 0.5
