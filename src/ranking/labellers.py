"""Programs that rank: the embedded labeller, whose taste is known, a reward model, a function."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from src.data.comparison import Context
from src.data.sample.labeller import judge, question_alone, ranking
from src.data.sample.questions import Question
from src.data.template import reply_ids
from src.model.replies import Replies, reply_rewards
from src.model.rollout import Rollout
from src.own_function import finite_scores, own_function
from src.ranking.config import EXACT, KNOWN, ME
from src.ranking.draws import Drawn, messages_of
from src.ranking.ranks import places
from src.talk.assistant import Assistant
from src.talk.reward_folder import policy_reward_model

Labeller = Callable[[Drawn, int], list[int]]  # replies and a seed to ranks, 1 is best


def known_labeller(noise: float) -> Labeller:
    """Return the embedded labeller; see ``src.data.sample.labeller``."""

    def rank(drawn: Drawn, seed: int) -> list[int]:
        question = _question(drawn.context)
        assert question is not None
        replies = zip(drawn.replies, drawn.ended, strict=True)
        golds = [judge(question, reply, ended).gold for reply, ended in replies]
        return ranking(golds, noise, seed, drawn.context.prompt)

    return rank


def is_known(context: Context) -> bool:
    """Whether the embedded labeller knows the answer."""
    return _question(context) is not None


def _question(context: Context) -> Question | None:
    return question_alone(context.prompt, context.turns, context.system, context.opening)


def exact_labeller(answers: Mapping[Context, str]) -> Labeller:
    """Return the labeller that likes a complete reply that is the row's own; others are equal.

    They are second, also where there is none that it likes.
    """

    def rank(drawn: Drawn, seed: int) -> list[int]:
        answer = answers[drawn.context].strip()
        pairs = zip(drawn.replies, drawn.ended, strict=True)
        return [1 if ended and reply == answer else 2 for reply, ended in pairs]

    return rank


def is_reward_model(name: str) -> bool:
    """Whether a labeller is a reward model: a folder, or a name on the hub."""
    return "/" in name or Path(name).expanduser().is_dir()


def reward_labeller(name: str, assistant: Assistant) -> Labeller:
    """Return the labeller that ranks by a reward model's opinion.

    Raises:
        UserError: there is none of this name, or it reads other tokens than the assistant.
    """
    model, tokenizer = assistant.model, assistant.tokenizer
    positions = model.config.n_positions
    remedy = "name one of a model with as many"
    rewards = policy_reward_model(
        name,
        tokenizer,
        model.config.vocab_size,
        positions,
        "labeller",
        remedy,
        assistant.template,
    ).to(model.wte.weight.device)

    def rank(drawn: Drawn, seed: int) -> list[int]:
        prompt = assistant.template(messages_of(drawn.context))
        rollouts = [
            Rollout(reply_ids(reply, ended, tokenizer), [], ended)
            for reply, ended in zip(drawn.replies, drawn.ended, strict=True)
        ]
        replies = Replies.of([prompt] * len(rollouts), rollouts, range(len(rollouts)))
        scores = reply_rewards(rewards, replies, tokenizer.end_id)
        return ranks_of(scores.tolist(), len(rollouts), name)

    return rank


def function_labeller(name: str) -> Labeller:
    """Return the labeller that ranks by a function's scores.

    ``name`` is dotted, as in ``mine.score``: ``score(prompt, replies)`` returns a number for each
    reply, higher is better, equal is a tie.

    Raises:
        UserError: there is no such function; when called, it returns something else.
    """
    function = own_function("labeller", name, (ME, KNOWN, EXACT, "a reward model's folder"))

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
    return places([-value for value in values])
