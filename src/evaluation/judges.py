"""Who says how good a reply is, if not the reward model that a policy may have learned from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from src.data.sample.labeller import judge as embedded_verdict
from src.data.sample.labeller import question_alone
from src.data.sample.questions import Question
from src.errors import UserError
from src.evaluation.exact_match import matches
from src.evaluation.rows import EvaluationRow
from src.evaluation.text_figures import has_short_answers
from src.own_function import finite_scores, own_function

KEY = "judge"
GOLD, EXACT, NONE = "gold", "exact_match", "none"
FEWEST_KNOWN = 4  # one in so many rows
NAMES = ("auto", GOLD, EXACT, NONE)


class Opinion(NamedTuple):
    """What is said of a reply; ``perfect`` and ``right``: None where the judge does not say."""

    gold: float
    perfect: bool | None = None
    right: bool | None = None


class Judge(NamedTuple):
    """One who knows how good replies are.

    Attributes:
        name: for people: gold, exact_match, or that of a function.
        says: of a row, a reply and whether it came to its end; None: it does not know the row.
    """

    name: str
    says: Callable[[EvaluationRow, str, bool], Opinion | None]


def choose_judge(name: str, rows: Sequence[EvaluationRow]) -> Judge | None:
    """Return the judge of this name; None: nobody knows these rows.

    ``auto`` is the embedded labeller where it knows a quarter of the rows, else exact match where
    most answers are short. A dotted name is a person's function, which is called as
    ``score(prompt, replies)``.

    Raises:
        UserError: there is no such judge, or it knows no row.
    """
    known = sum(_is_known(row) for row in rows)
    is_known = known * FEWEST_KNOWN >= len(rows)
    if name == NONE or (name == "auto" and not is_known and not has_short_answers(rows)):
        return None
    if name == GOLD or (name == "auto" and is_known):
        if not known:
            raise UserError(
                f"{KEY}={name}: the labeller knows the embedded questions alone (data=sample, "
                f"data=demonstrations), and none of these rows asks one"
            )
        return Judge(GOLD, _gold)
    if name in (EXACT, "auto"):
        if all(row.reference is None for row in rows):
            raise UserError(f"{KEY}={name}: no row has an answer to compare with")
        return Judge(EXACT, _exact)
    return Judge(name, _own(name))


def _is_known(row: EvaluationRow) -> bool:
    return _question(row) is not None


def _question(row: EvaluationRow) -> Question | None:
    return question_alone(row.messages[-1].content, *row.messages[:-1])


def _gold(row: EvaluationRow, reply: str, ended: bool) -> Opinion | None:
    question = _question(row)
    if question is None:
        return None
    verdict = embedded_verdict(question, reply, ended)
    return Opinion(verdict.gold, verdict.perfect, verdict.right)


def _exact(row: EvaluationRow, reply: str, ended: bool) -> Opinion | None:
    if row.reference is None:
        return None
    right = ended and matches(reply, row.reference)
    return Opinion(float(right), right, right)


def _own(name: str) -> Callable[[EvaluationRow, str, bool], Opinion]:
    function = own_function(KEY, name, NAMES)

    def says(row: EvaluationRow, reply: str, ended: bool) -> Opinion:
        values = function(row.messages[-1].content, [reply])
        return Opinion(finite_scores(values, 1, KEY, name)[0])

    return says
