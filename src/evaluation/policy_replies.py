"""What policies reply to the same prompts, and what is known of each reply.

Chance depends on the seed, the number of a prompt and that of the reply alone. All policies draw by
the same chance, and the reference by another, so that its replies are no echo of theirs.

Shape letters: N prompts, M replies, to any of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.evaluation.judges import Judge, Opinion
from src.evaluation.limits import MOST_BEST_OF
from src.evaluation.rows import EvaluationRow
from src.model.gpt2 import GPT2
from src.model.replies import Replies, reply_logprobs, reply_rewards
from src.model.rollout import Sampling
from src.model.scalar import ScalarGPT2
from src.talk.messages import Message
from src.talk.model_folder import ModelFolder, Reading, load_model_folder
from src.talk.reward_folder import policy_reward_model, vocabulary

REFERENCE, POOL = 2**50, 2**51  # from here on replies are numbered


class Drawing(NamedTuple):
    """How replies are drawn.

    Attributes:
        max_new_tokens: of a reply, its end token included.
        num_slots: replies side by side; they do not depend on it.
        seed: of chance.
        device: to compute on.
    """

    max_new_tokens: int
    num_slots: int
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Said:
    """Replies of a policy at one temperature, and what is known of them.

    Attributes:
        tokens: prompts and replies, as ids.
        texts: (M,) as people read them.
        gold: (M,) by the judge; nan: it does not know the prompt.
        perfect: (M,) 0 or 1; nan: the judge does not say.
        right: (M,) the same.
        proxy: (M,) by the reward model; nan: there is none.
    """

    tokens: Replies
    texts: list[str]
    gold: np.ndarray
    perfect: np.ndarray
    right: np.ndarray
    proxy: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each reply (M,), the end token included."""
        return self.tokens.reply_lengths.numpy()


@dataclass(frozen=True)
class Examination:
    """Prompts that all models can read, and who looks at the replies.

    Attributes:
        rows: (N,) of the prompts.
        numbers: (N,) of the rows among all, for chance.
        prompts: (N,) as ids.
        tokenizer: of all models.
        judge: who knows how good a reply is; None: nobody.
        rewards: whose opinion is the proxy; None: nobody's.
        drawing: how replies are drawn.
    """

    rows: list[EvaluationRow]
    numbers: list[int]
    prompts: list[list[int]]
    tokenizer: Tokenizer
    judge: Judge | None
    rewards: ScalarGPT2 | None
    drawing: Drawing

    def ask(self, model: GPT2, temperature: float, first: int = 0) -> Said:
        """Return the reply of a model to each prompt; ``first`` is added to its number."""
        chance = [first + number for number in self.numbers]
        return self._ask(model, temperature, range(len(self.rows)), chance)

    def pool(self, model: GPT2, size: int) -> Said:
        """Return ``size`` replies at temperature 1 to each prompt, side by side."""
        rows = np.repeat(np.arange(len(self.rows)), size).tolist()
        chance = [POOL + n * MOST_BEST_OF + i for n in self.numbers for i in range(size)]
        return self._ask(model, 1.0, rows, chance)

    def _ask(
        self, model: GPT2, temperature: float, rows: Sequence[int], chance: Sequence[int]
    ) -> Said:
        """Return a reply to each of ``rows``, drawn by the numbers ``chance``."""
        max_new_tokens, num_slots, seed, _ = self.drawing
        end_id = self.tokenizer.end_id
        sampling = Sampling(seed, temperature, max_new_tokens, end_id, num_slots)
        prompts = [self.prompts[row] for row in rows]
        rollouts = sampling.rollouts(model, prompts, chance)
        replies = Replies.of(prompts, rollouts, rows)
        texts = [reply_text(r.tokens, r.ended, self.tokenizer) for r in rollouts]
        opinions = [
            self.judge and self.judge.says(self.rows[row], text, rollout.ended)
            for row, text, rollout in zip(rows, texts, rollouts, strict=True)
        ]
        proxy = (
            np.full(len(rows), np.nan)
            if self.rewards is None
            else reply_rewards(self.rewards, replies, end_id).double().numpy()
        )
        named = {name: _column(opinions, name) for name in Opinion._fields}
        return Said(replies, texts, proxy=proxy, **named)

    def log_ratios(self, said: Said, model: GPT2, reference: GPT2) -> np.ndarray:
        """Return log-probabilities under ``model`` less those under ``reference`` (M,), in nats."""
        end_id = self.tokenizer.end_id
        ours, theirs = (reply_logprobs(each, said.tokens, end_id) for each in (model, reference))
        return (ours - theirs).double().numpy()


def reply_text(tokens: Sequence[int], ended: bool, tokenizer: Tokenizer) -> str:
    """Return a reply as people read it."""
    return tokenizer.decode(list(tokens[:-1] if ended else tokens)).strip()


def _column(opinions: Sequence[Opinion | None], name: str) -> np.ndarray:
    values = [None if opinion is None else getattr(opinion, name) for opinion in opinions]
    return np.array([np.nan if value is None else float(value) for value in values])


def examination(
    reference: ModelFolder,
    policies: Mapping[str, Reading],
    rows: Sequence[EvaluationRow],
    asked: Sequence[int] | None,
    judge: Judge | None,
    reward_model: str | None,
    drawing: Drawing,
) -> Examination:
    """Return the prompts that all models have room for.

    Args:
        reference: the model that all are held against.
        policies: how the others read, by their names.
        rows: all of them.
        asked: numbers of those whose questions are asked; None: all.
        judge: see ``Examination``.
        reward_model: its folder or hub name.
        drawing: see ``Examination``.

    Raises:
        UserError: there is no such prompt, a policy does not read it as the reference does, or the
            reward model cannot read them.
    """
    positions = [reading.n_positions for reading in policies.values()]
    most = min([reference.model.config.n_positions, *positions])
    chosen = range(len(rows)) if asked is None else asked
    ids = {number: _read(reference, rows[number].messages) for number in chosen}
    room = most - drawing.max_new_tokens
    numbers = [number for number, each in ids.items() if 0 < len(each) <= room]
    if not numbers:
        raise UserError(
            f"against: no prompt leaves room for a reply of {drawing.max_new_tokens} tokens among "
            f"{most} positions: lower generation.max_new_tokens"
        )
    prompts = [ids[number] for number in numbers]
    for name, reading in policies.items():
        questions = [rows[number].messages for number in numbers]
        _check_same_reading(name, reading, reference, questions, prompts)
    rewards = None
    if reward_model is not None:
        rewards = policy_reward_model(
            reward_model,
            reference.tokenizer,
            reference.model.config.vocab_size,
            max(map(len, prompts)) + drawing.max_new_tokens,
            key="reward_model",
            remedy="lower generation.max_new_tokens",
            template=reference.template,
        ).to(drawing.device)
    return Examination(
        [rows[number] for number in numbers],
        numbers,
        prompts,
        reference.tokenizer,
        judge,
        rewards,
        drawing,
    )


def _read(model: ModelFolder | Reading, question: Sequence[Message]) -> list[int]:
    """Return the ids of a question; none if the chat template refuses it."""
    try:
        return model.template(question)
    except UserError:  # it is counted among those that were not asked
        return []


def load_policy(name: str, device: torch.device, key: str) -> ModelFolder:
    """Load a model that draws replies.

    Raises:
        UserError: there is none, or more than one token ends its replies; names ``key``.
    """
    folder = load_model_folder(name, key)
    _check_one_end(f"{key}={name}", folder)
    return folder._replace(model=folder.model.to(device).eval())


def _check_one_end(name: str, policy: ModelFolder | Reading) -> None:
    """Check that one token ends the replies of the policy of this name.

    Raises:
        UserError: several do.
    """
    if policy.end_ids != {policy.tokenizer.end_id}:
        raise UserError(
            f"{name}: {len(policy.end_ids)} tokens end its replies: the probability of a reply is "
            f"that of one end token; leave one in generation_config.json"
        )


def _check_same_reading(
    name: str,
    policy: Reading,
    reference: ModelFolder,
    questions: Sequence[Sequence[Message]],
    prompts: Sequence[list[int]],
) -> None:
    """Check that a policy reads prompts and replies as the reference does.

    Raises:
        UserError: it has another tokenizer or chat template.
    """
    _check_one_end(f"model_path={name}", policy)
    same_tokens = vocabulary(policy.tokenizer) == vocabulary(reference.tokenizer)
    if not same_tokens or policy.vocab_size != reference.model.config.vocab_size:
        raise UserError(
            f"model_path={name} has another tokenizer than against=: their probabilities are of "
            f"other tokens; name the model that it was trained from"
        )
    pairs = zip(questions, prompts, strict=True)
    if any(_read(policy, question) != prompt for question, prompt in pairs):
        raise UserError(
            f"model_path={name} has another chat template than against=: they are not asked the "
            f"same; name the model that it was trained from"
        )
