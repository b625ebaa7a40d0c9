"""What ``against=`` adds to an evaluation: policies held against the model that they were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from src.checks import AUTO
from src.errors import UserError
from src.evaluation.candidates import URLS, Candidate, find_candidates
from src.evaluation.comparison import FEWEST_ROWS
from src.evaluation.conclusions import short_names
from src.evaluation.evaluation import How, Judged
from src.evaluation.figures import written
from src.evaluation.frontier import pictures
from src.evaluation.intervals import Interval
from src.evaluation.judges import EXACT, GOLD, NAMES, choose_judge
from src.evaluation.policies import Policies, judge_policies
from src.evaluation.policy_replies import Drawing
from src.evaluation.progress import Progress
from src.evaluation.rows import EvaluationRow
from src.own_function import is_own
from src.wording.nearest import choice_question

JUDGES = {GOLD: "the embedded labeller", EXACT: "exact match"}


@dataclass(frozen=True)
class Question:
    """What a person asks.

    Attributes:
        against: the reference, as it is named.
        reward_model: whose opinion stands beside; None: nobody's.
        best_of: the most replies of the reference that it chooses among; 0: none.
        judge: a name that ``choose_judge`` knows.
        num_resamples: draws of rows for the intervals.
        seed: of chance.
    """

    against: str
    reward_model: str | None
    best_of: int
    judge: str
    num_resamples: int
    seed: int


@dataclass(frozen=True)
class Against:
    """The answer; rows are those of the whole evaluation."""

    question: Question
    policies: Policies
    figures: dict[str, dict[str, Interval]]
    certain_wins: dict[str, Interval]
    best_of: dict[int, dict[str, Interval]]

    def add_to(self, judged: Sequence[Judged]) -> None:
        """Add the figures to those of the models."""
        for model in judged:
            model.columns |= self.policies.by_name[model.candidate.name].columns

    def results(self) -> dict[str, Any]:
        """Return what ``results.json`` holds of it beside the models' figures."""
        return {
            "reference": self.policies.reference,
            "judge": self.policies.judge,
            "reward_model": self.question.reward_model,
            "num_asked": self.policies.num_asked,
            "num_left_out": self.policies.num_left_out,
            "num_judged": self.policies.num_judged,
            "num_like_length": {
                name: self.policies.num_prompts(name, "win_rate_like_length")
                for name, figures in self.figures.items()
                if "win_rate" in figures
            },
            "best_of": {
                str(n): {name: found.json() for name, found in figures.items()}
                for n, figures in self.best_of.items()
            },
        }

    def pictures(self) -> dict[str, bytes]:
        """Return the pictures as PNG, by their file names."""
        names = list(self.figures)
        short = dict(zip(names, short_names(names), strict=True))
        figures = {short[name]: found for name, found in self.figures.items()}
        reference, judge = short[self.policies.reference], self.policies.judge or ""
        return pictures(figures, reference, self.best_of, JUDGES.get(judge, judge))

    def of_row(self, name: str, number: int) -> dict[str, str]:
        """Return the reply at temperature 1 of a model to a row; nothing if it was not asked."""
        text = self.policies.by_name[name].sampled[number]
        return {} if text is None else {"sampled": text}

    def sentences(self) -> list[str]:
        """Return what can be said, a sentence for each policy, and for the best of n."""
        names = list(self.policies.by_name)
        short = dict(zip(names, short_names(names), strict=True))
        reference, said = self.policies.reference, []
        for name in names:
            if name != reference:
                said.append(_sentence(self, name, short[name], short[reference]))
        if left_out := self.policies.num_left_out:
            said.append(
                f"{left_out:,} prompts leave no room for a reply, or the chat template refuses "
                f"them: they count for no model beside {short[reference]}."
            )
        if self.best_of:
            said.append(_best_of_sentence(self, short[reference]))
        return said


def check_question(against: str | None, reward_model: str | None, best_of: int, judge: str) -> None:
    """Check what the settings say together.

    Raises:
        UserError: one of them needs another; names both.
    """
    if judge not in NAMES and not is_own(judge):
        hint = choice_question(judge, NAMES)
        raise UserError(
            f"judge={judge}: must be one of {', '.join(NAMES)}, or the dotted name of a function, "
            f"as in judge=mine.score{hint}"
        )
    if against is None:
        asked = {"reward_model": reward_model, "best_of": best_of}
        asked["judge"] = judge if judge != AUTO else None
        for key, value in asked.items():
            if value:
                raise UserError(
                    f"{key}={value}: it is for policies: add against=MODEL, what they were before"
                )
        return
    if against.startswith(URLS):
        raise UserError(
            f"against={against}: a URL tells no probabilities: name a model folder or a hub name"
        )
    if best_of and reward_model is None:
        raise UserError(
            f"best_of={best_of}: a reward model chooses the best: add reward_model=RUN/reward_model"
        )


def add_reference(candidates: list[Candidate], against: str | None) -> Candidate | None:
    """Return the reference, which is added to the candidates unless it is one of them.

    Without ``against`` there is none.

    Raises:
        UserError: there is no such model, or a candidate is behind a URL.
    """
    if against is None:
        return None
    (reference,) = find_candidates([against], "against")
    assert reference.folder is not None
    for candidate in candidates:
        if candidate.folder is None:
            raise UserError(
                f"model_path={candidate.name}: a URL tells no probabilities, so it cannot be held "
                f"against={against}: leave it out"
            )
        if candidate.folder.resolve() == reference.folder.resolve():
            return candidate
    candidates.append(reference)
    return reference


def hold_against(
    question: Question | None,
    candidates: Sequence[Candidate],
    reference: Candidate | None,
    rows: Sequence[EvaluationRow],
    how: How,
) -> Against | None:
    """Return what all candidates are worth beside the reference, which is among them.

    Without a question there is no answer.

    Raises:
        UserError: no row is asked, nobody can judge, or a model is none or reads other tokens.
    """
    if question is None or reference is None:
        return None
    if not how.asked:
        raise UserError(f"against={question.against}: replies are judged: raise num_replies")
    judge = choose_judge(question.judge, [rows[number] for number in how.asked])
    folders = {candidate.name: str(candidate.folder) for candidate in candidates}
    drawing = Drawing(how.generation.max_new_tokens, how.batch_size, question.seed, how.device)
    with Progress(len(candidates), f"against {question.against}: models") as progress:
        policies = judge_policies(
            folders,
            (reference.name, folders[reference.name]),
            rows,
            judge,
            drawing,
            reward_model=question.reward_model,
            best_of_most=question.best_of,
            asked=how.asked,
            progress=progress.add,
        )
    figures = policies.figures(question.num_resamples, question.seed)
    best_of = policies.best_of_figures(question.num_resamples, question.seed)
    certain = policies.certain_wins(question.num_resamples, question.seed)
    return Against(question, policies, figures, certain, best_of)


def _sentence(found: Against, name: str, short: str, reference: str) -> str:
    figures, count = found.figures[name], found.policies.num_judged
    far = f"{written('kl', figures['kl'].value)} nats of KL away"
    judge = found.policies.judge
    if "win_rate" not in figures:
        return (
            f"{short} is {far} from {reference}; nobody here knows what its replies are worth: "
            f"judge=mine.score names a function of yours that does."
        )
    wins = found.certain_wins[name]
    facts = (
        f"{short} against {reference}, by {JUDGES.get(judge or '', judge)}: its reply is the "
        f"better one in {_shares('win_rate', figures)} of {count:,} prompts, ties half"
        f"{_of_length(found, name)}; {far}"
    )
    if count < FEWEST_ROWS:
        return f"{facts}: too few prompts to say which is better."
    if wins.low > 0.5:
        return f"{facts}: it is better."
    if wins.high < 0.5:
        return f"{facts}: it is worse."
    return f"{facts}: these prompts do not show which is better."


def _of_length(found: Against, name: str) -> str:
    """Return what is left of the wins if longer is not better, of prompts enough to say it."""
    figures, said = found.figures[name], ""
    if found.policies.num_judged < FEWEST_ROWS:
        return said
    if "win_rate_length_controlled" in figures:
        said += f"; length-controlled {_shares('win_rate_length_controlled', figures)}"
    alike = found.policies.num_prompts(name, "win_rate_like_length")
    if alike >= FEWEST_ROWS:
        said += f"; of replies of like length {_shares('win_rate_like_length', figures)}"
        said += f" in {alike:,} prompts"
    return said


def _best_of_sentence(found: Against, reference: str) -> str:
    most = max(found.best_of)
    figures = found.best_of[most]
    gold = (
        f"gold {_range('gold', figures['gold'])}, one reply {_range('gold', one)}; "
        if (one := found.best_of[1].get("gold")) is not None
        else ""
    )
    return (
        f"The best of {most} replies of {reference} by the reward model: {gold}its reward "
        f"{_range('proxy', figures['proxy'])}; at most {figures['kl'].value:.2f} nats away."
    )


def _range(figure: str, found: Interval) -> str:
    value, low, high = (written(figure, each) for each in found)
    return value if isnan(found.low) else f"{value} ({low} to {high})"


def _shares(figure: str, figures: Mapping[str, Interval]) -> str:
    """Return a share with its interval, if it has one."""
    value, low, high = figures[figure]
    if isnan(value):
        return written(figure, value)
    between = "" if isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:.1f}%{between}"
