"""Policies held against the model that they were, by something else than their reward model.

Each policy answers the same prompts as the reference, once at random (temperature 1) and once
greedily. A judge who knows better than a reward model says what the replies are worth.

Shape letters: N prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.errors import UserError
from src.evaluation.best_of import BestOf, best_of, mean, wins
from src.evaluation.figures import Columns, spread
from src.evaluation.intervals import LEVEL, Interval, figure_interval, resample
from src.evaluation.judges import Judge
from src.evaluation.length_control import length_controlled
from src.evaluation.policy_replies import (
    REFERENCE,
    Drawing,
    Examination,
    Said,
    examination,
    load_policy,
)
from src.evaluation.rows import EvaluationRow
from src.talk.model_folder import Reading, read_model_folder

LIKE_LENGTH = 0.2  # the most by which the shorter of two replies of like length is shorter


@dataclass(frozen=True)
class Policy:
    """What one model did.

    Attributes:
        columns: of its figures, over all rows (N, 2) each.
        sampled: the reply at temperature 1 to each row; None: it was not asked.
        greedy: the likeliest reply.
    """

    columns: dict[str, Columns]
    sampled: list[str | None]
    greedy: list[str | None]


@dataclass(frozen=True)
class Policies:
    """What all of them did.

    Attributes:
        reference: the name of the model that they are held against.
        judge: who says what a reply is worth; None: nobody knows these rows.
        by_name: the policies, the reference among them.
        best_of: of the reference's replies, the best of 1, 2, 4 ... by the reward model.
        num_asked: prompts that were asked.
        num_left_out: prompts that leave no room for a reply, or that the chat template refuses.
        num_judged: prompts of which the judge knows what a reply is worth.
    """

    reference: str
    judge: str | None
    by_name: dict[str, Policy]
    best_of: list[BestOf]
    num_asked: int
    num_left_out: int
    num_judged: int

    def figures(self, num_resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
        """Return each policy's figures by their names, with 95% intervals of the same draws."""
        return _intervals(
            {name: policy.columns for name, policy in self.by_name.items()}, num_resamples, seed
        )

    def best_of_figures(self, num_resamples: int, seed: int) -> dict[int, dict[str, Interval]]:
        """Return the figures of the best of each n, and ``kl``, which is a bound and exact."""
        found = _intervals({str(b.n): b.columns for b in self.best_of}, num_resamples, seed)
        return {b.n: found[str(b.n)] | {"kl": Interval(b.kl, b.kl, b.kl)} for b in self.best_of}

    def certain_wins(self, num_resamples: int, seed: int) -> dict[str, Interval]:
        """Return the win rate of each policy with the interval of which claims are made.

        All intervals together are right in 95% of cases (Bonferroni), over all policies.
        """
        wins = {
            name: {"win_rate": policy.columns["win_rate"]}
            for name, policy in self.by_name.items()
            if "win_rate" in policy.columns
        }
        level = 1 - (1 - LEVEL) / max(1, len(wins))
        found = _intervals(wins, num_resamples, seed, level)
        return {name: figures["win_rate"] for name, figures in found.items()}

    def num_prompts(self, name: str, figure: str) -> int:
        """Return how many prompts count for a figure of a policy."""
        columns = self.by_name[name].columns.get(figure)
        return 0 if columns is None else int(columns.used.sum())


def _intervals(
    groups: Mapping[str, Mapping[str, Columns]],
    num_resamples: int,
    seed: int,
    level: float = LEVEL,
) -> dict[str, dict[str, Interval]]:
    columns = {(group, name): c for group, each in groups.items() for name, c in each.items()}
    if not columns:
        return {}
    named = {str(number): c for number, c in enumerate(columns.values())}
    draws = resample(named, num_resamples, seed)
    found: dict[str, dict[str, Interval]] = {group: {} for group in groups}
    for number, ((group, name), each) in enumerate(columns.items()):
        found[group][name] = figure_interval(each, draws[str(number)], level)
    return found


def judge_policies(
    policies: Mapping[str, str],
    reference: tuple[str, str],
    rows: Sequence[EvaluationRow],
    judge: Judge | None,
    drawing: Drawing,
    *,
    reward_model: str | None = None,
    best_of_most: int = 0,
    asked: Sequence[int] | None = None,
    progress: Callable[[int], object] = lambda number: None,
) -> Policies:
    """Return what policies and their reference reply to the questions of rows, and its worth.

    Args:
        policies: folders or hub names, by the names that are shown; the reference may be among
            them, under its own name.
        reference: its name, and its folder or hub name.
        rows: whose questions are asked.
        judge: who knows what replies are worth; see ``choose_judge``.
        drawing: how replies are drawn.
        reward_model: the folder of one, whose opinion is told, too: the proxy.
        best_of_most: replies of the reference to each prompt, of which the reward model chooses;
            0: none.
        asked: numbers of the rows that are asked; None: all. A reply does not depend on them.
        progress: takes how many models are done, one at a time.

    Raises:
        UserError: a folder is none, or reads other tokens than the reference.
    """
    name, folder = reference
    base = load_policy(folder, drawing.device, "against")
    others = {shown: path for shown, path in policies.items() if shown != name}
    readings = {shown: _reading(shown, path) for shown, path in others.items()}
    exam = examination(base, readings, rows, asked, judge, reward_model, drawing)
    sampled, greedy = exam.ask(base.model, 1.0, REFERENCE), exam.ask(base.model, 0.0)
    found = {name: _policy(exam, sampled, greedy, {}, len(rows))}
    for shown, path in others.items():
        progress(1)
        policy = load_policy(path, drawing.device, "model_path")
        ours, likeliest = exam.ask(policy.model, 1.0), exam.ask(policy.model, 0.0)
        beside = _against(ours, sampled, likeliest, greedy)
        beside["kl"] = mean(exam.log_ratios(ours, policy.model, base.model))
        found[shown] = _policy(exam, ours, likeliest, beside, len(rows))
    best: list[BestOf] = []
    if best_of_most:
        pool = exam.pool(base.model, best_of_most)
        best = best_of(pool, best_of_most, sampled.gold)
    progress(1)
    return Policies(
        name,
        judge and judge.name,
        {shown: found[shown] for shown in (policies if name in policies else [name, *policies])},
        [BestOf(each.n, _over_rows(each.columns, exam, len(rows))) for each in best],
        num_asked=len(exam.rows),
        num_left_out=len(rows if asked is None else asked) - len(exam.rows),
        num_judged=int((~np.isnan(sampled.gold)).sum()),
    )


def _reading(name: str, path: str) -> Reading:
    try:
        return read_model_folder(path)
    except UserError as error:
        text = str(error)
        is_named = text.startswith(f"model_path={path}")
        raise UserError(text if is_named else f"model_path={name}: {text}") from error


def _policy(
    exam: Examination, sampled: Said, greedy: Said, beside: Mapping[str, Columns], num_rows: int
) -> Policy:
    columns = dict(beside)
    for suffix, said in (("", sampled), ("_greedy", greedy)):
        for name in ("gold", "perfect", "right", "proxy"):
            columns[name + suffix] = mean(
                getattr(said, name), is_share=name in ("perfect", "right")
            )
    texts: list[list[str | None]] = [[None] * num_rows for _ in range(2)]
    for by_row, said in zip(texts, (sampled, greedy), strict=True):
        for number, text in zip(exam.numbers, said.texts, strict=True):
            by_row[number] = text
    return Policy(_over_rows(columns, exam, num_rows), *texts)


def _against(ours: Said, theirs: Said, greedy: Said, their_greedy: Said) -> dict[str, Columns]:
    """Return the win rates of a policy over the reference."""
    by_gold = wins(ours.gold, theirs.gold)
    longer = np.maximum(ours.lengths, theirs.lengths)
    longer_by = ours.lengths - theirs.lengths
    alike = np.abs(longer_by) <= LIKE_LENGTH * longer
    return {
        "win_rate": mean(by_gold, is_share=True),
        "win_rate_greedy": mean(wins(greedy.gold, their_greedy.gold), is_share=True),
        "win_rate_length_controlled": length_controlled(by_gold, longer_by),
        "win_rate_like_length": mean(np.where(alike, by_gold, np.nan), is_share=True),
        "win_rate_proxy": mean(wins(ours.proxy, theirs.proxy), is_share=True),
    }


def _over_rows(
    columns: Mapping[str, Columns], exam: Examination, num_rows: int
) -> dict[str, Columns]:
    """Return the columns that say something, over all rows."""
    return {
        name: spread(each, exam.numbers, num_rows)
        for name, each in columns.items()
        if each.used.any()
    }
