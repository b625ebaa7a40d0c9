"""Programs that rank: the embedded labeller, whose taste is known, or any Python function."""

from collections.abc import Callable, Sequence

from src.data.comparison import Context
from src.data.sample.labeller import judge, question_of, ranking
from src.own_function import finite_scores, own_function
from src.ranking.draws import Drawn

Labeller = Callable[[Drawn, int], list[int]]  # replies and a seed to ranks, 1 is best


def known_labeller(noise: float) -> Labeller:
    """Return the embedded labeller; see ``src.data.sample.labeller``."""

    def rank(drawn: Drawn, seed: int) -> list[int]:
        question = question_of(drawn.context.prompt)
        assert question is not None
        replies = zip(drawn.replies, drawn.ended, strict=True)
        golds = [judge(question, reply, ended).gold for reply, ended in replies]
        return ranking(golds, noise, seed, drawn.context.prompt)

    return rank


def is_known(context: Context) -> bool:
    """Whether the embedded labeller knows the answer."""
    return not context.turns and question_of(context.prompt) is not None


def function_labeller(name: str) -> Labeller:
    """Return the labeller that ranks by a function's scores.

    ``name`` is dotted, as in ``mine.score``: ``score(prompt, replies)`` returns a number for each
    reply, higher is better, equal is a tie.

    Raises:
        UserError: there is no such function; when called, it returns something else.
    """
    function = own_function("labeller", name, ("me", "sample"))

    def rank(drawn: Drawn, seed: int) -> list[int]:
        scores = function(drawn.context.prompt, list(drawn.replies))
        return ranks_of(scores, len(drawn.replies), name)

    return rank


def ranks_of(scores: Sequence[float], num_replies: int, name: str) -> list[int]:
    """Return ranks by scores, 1 is the highest.

    Raises:
        UserError: they are not a finite number for each reply.
    """
    values = finite_scores(scores, num_replies, "labeller", name)
    return [1 + sum(other > value for other in values) for value in values]
