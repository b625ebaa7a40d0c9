"""What a reply is worth: by a reward model, or by a function of Python."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from src.data.sample.labeller import Verdict, judge, question_alone
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.replies import Replies, hidden_states
from src.model.scalar import ScalarGPT2
from src.model.weights_file import checksum
from src.objectives.prompt_data import Asked, PromptDataModule
from src.own_function import own_function
from src.talk.reward_folder import policy_reward_model

KEY, MODEL_KEY = "objective.reward", "objective.reward_model"
Function = Callable[[Asked, str, bool], float]  # prompt, reply and whether it ended -> its worth


class Rewards(Protocol):
    """Says what replies are worth; ``reads_text``: of their text."""

    reads_text: ClassVar[bool]

    def __call__(
        self, replies: Replies, rows: Sequence[int], batch: Mapping[str, Any], asked: list[Asked]
    ) -> Tensor:
        """Return the worth (n,) of some replies, fp32.

        Args:
            replies: all.
            rows: which of them.
            batch: the same, packed, on the device.
            asked: the prompts of their split.
        """
        ...


class ModelRewards:
    """Those of a reward model.

    Args:
        model: what ``objective=reward`` has made.
    """

    reads_text: ClassVar[bool] = False

    def __init__(self, model: ScalarGPT2):
        self.model = model

    def __call__(
        self, replies: Replies, rows: Sequence[int], batch: Mapping[str, Any], asked: list[Asked]
    ) -> Tensor:
        """Return the rewards (n,) at the last tokens."""
        self.model.to(batch["input_ids"].device)
        return self.model.rewards(hidden_states(self.model, batch), batch["last_index"])


class FunctionRewards:
    """Those of a function.

    Args:
        name: of the function, for people.
        function: what it is.
        tokenizer: of the replies.
    """

    reads_text: ClassVar[bool] = True

    def __init__(self, name: str, function: Function, tokenizer: Tokenizer):
        self.name, self.function, self.tokenizer = name, function, tokenizer

    def __call__(
        self, replies: Replies, rows: Sequence[int], batch: Mapping[str, Any], asked: list[Asked]
    ) -> Tensor:
        """Return what the function says (n,).

        Raises:
            UserError: it says no finite number.
        """
        found = []
        for row in rows:
            prompt = asked[int(replies.prompt_numbers[row])]
            text, ended = reply_text(replies, row, self.tokenizer), bool(replies.ended[row])
            value = self.function(prompt, text, ended)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(
                    f"{KEY}={self.name}: it must return a finite number for each reply, not "
                    f"{value!r}, as for the prompt {prompt.prompt[:40]!r}"
                )
            found.append(float(value))
        return torch.tensor(found)

    def check(self, prompts: PromptDataModule) -> None:
        """Ask a function of ours, which is quick, about every prompt, before a run begins.

        Raises:
            UserError: it cannot judge replies to one of them.
        """
        if self.name in BUILT_IN:
            for prompt in chain.from_iterable(map(prompts.asked, prompts.splits)):
                self.function(prompt, "", True)


def reply_text(replies: Replies, row: int, tokenizer: Tokenizer) -> str:
    """Return a reply as people read it."""
    tokens = replies.reply(row)
    return tokenizer.decode(tokens[:-1] if replies.ended[row] else tokens).strip()


def exact_match(asked: Asked, reply: str, ended: bool) -> float:
    """Return 1 for a complete reply that is the row's own, but for spaces at its ends; else 0."""
    if asked.answer is None:
        raise UserError(
            f"{KEY}=exact_match: the row of the prompt {asked.prompt[:40]!r} has no reply to "
            f"compare with: leave such rows out, or choose another reward"
        )
    return float(ended and reply == asked.answer.strip())


def verdict(asked: Asked, reply: str, ended: bool) -> Verdict | None:
    """Return what the embedded labeller sees in a reply; None: it does not know the question."""
    question = question_alone(asked.prompt, asked.has_history)
    return None if question is None else judge(question, reply, ended)


def gold(asked: Asked, reply: str, ended: bool) -> float:
    """Return the embedded labeller's true opinion."""
    found = verdict(asked, reply, ended)
    if found is None:
        raise UserError(
            f"{KEY}=gold: the labeller does not know {asked.prompt[:40]!r}: it knows the embedded "
            f"questions alone (data=sample, data=demonstrations)"
        )
    return found.gold


BUILT_IN: dict[str, Function] = {"exact_match": exact_match, "gold": gold}


def function_rewards(name: str, tokenizer: Tokenizer) -> FunctionRewards:
    """Return the rewards of a function: one of ours, or a person's by its dotted name.

    A person's is called as ``score(prompt, replies)`` and returns a number for each of the replies,
    a list of texts.

    Raises:
        UserError: there is no such function.
    """
    if name in BUILT_IN:
        return FunctionRewards(name, BUILT_IN[name], tokenizer)
    function = own_function(KEY, name, list(BUILT_IN))

    def score(asked: Asked, reply: str, ended: bool) -> float:
        values = function(asked.prompt, [reply])
        try:
            (value,) = values
            return float(value)  # of torch or numpy, too
        except Exception as error:  # they have their own
            raise UserError(
                f"{KEY}={name}: score(prompt, replies) returns a number for each reply"
            ) from error

    return FunctionRewards(name, score, tokenizer)


def reward_model(name: str, policy: Tokenizer, vocab_size: int, positions: int) -> ScalarGPT2:
    """Return the reward model of a folder, as ``policy_reward_model`` does."""
    remedy = "lower objective.max_prompt_tokens"
    return policy_reward_model(name, policy, vocab_size, positions, MODEL_KEY, remedy)


def frozen_checksums(reference: GPT2, rewards: Rewards) -> dict[str, str]:
    """Return the checksums of the networks that do not learn, by their settings."""
    networks = {"reference": reference, "reward_model": getattr(rewards, "model", None)}
    return {
        key: checksum({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
        for key, model in networks.items()
        if model is not None
    }
