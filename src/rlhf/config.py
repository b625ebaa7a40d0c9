"""The values of ``conf/rlhf.yaml``: types and ranges, no defaults."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from src.checks import at_least, check, within
from src.errors import UserError
from src.files.run_name import check_name
from src.wording.nearest import choice_question

PIPELINES = Path("outputs/rlhf")
SFT, RANK, REWARD, DPO, PPO, RLOO = "sft", "rank", "reward", "dpo", "ppo", "rloo"
STEPS = (SFT, RANK, REWARD, DPO, PPO, RLOO)
NEEDS = {  # what a step begins with
    RANK: (SFT,),
    REWARD: (SFT, RANK),
    DPO: (SFT, RANK),
    PPO: (SFT, REWARD),
    RLOO: (SFT, REWARD),
}
FROM_REPLIES = (PPO, RLOO)  # they learn from their own replies
OF_RUNS = ("run", SFT, REWARD, DPO, PPO, RLOO)  # hold keys of conf/train.yaml
NUM_PARTS = 3
NAME = re.compile(r"[A-Za-z]\w*")


def check_keys(values: dict[str, Any], prefix: str) -> None:
    """Check that all keys are names of a run's config: a folder may be a stranger's.

    Raises:
        UserError: one is Hydra's, or no name.
    """
    for key, value in values.items():
        if not NAME.fullmatch(key) or key == "hydra":
            raise UserError(f"{prefix}{key}: is no key of conf/train.yaml")
        if isinstance(value, dict):
            check_keys(value, f"{prefix}{key}.")


@dataclass
class EvaluationConfig:
    """How the steps are judged in the end."""

    max_prompts: Annotated[int | None, at_least(2).or_null("for all")]
    best_of: Annotated[int, at_least(2)]
    num_questions: Annotated[int, at_least(0)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "evaluation.")


@dataclass
class MaxPrompts:
    """How many prompts of each split are ranked, at most."""

    train: Annotated[int, at_least(1)]
    validation: Annotated[int, at_least(1)]
    test: Annotated[int, at_least(1)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "rank.max_prompts.")


@dataclass
class RankSettings:
    """Keys of ``conf/rank.yaml``."""

    max_prompts: MaxPrompts
    num_replies: Annotated[int, at_least(2)]
    max_new_tokens: Annotated[int, at_least(1)]
    noise: Annotated[float, within("[0, 100]")]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        nested, self.max_prompts = self.max_prompts, None  # type: ignore[assignment]
        check(self, "rank.")
        self.max_prompts = nested


@dataclass
class RLHFConfig:
    """What ``conf/rlhf.yaml`` holds; its comments say what each value means."""

    name: str
    resume: str | None
    start: str | None
    seed: Annotated[int, within("[0, 2^32)")]
    steps: list[str]
    share: list[float]
    run: dict[str, Any]
    sft: dict[str, Any]
    rank: RankSettings
    reward: dict[str, Any]
    dpo: dict[str, Any]
    ppo: dict[str, Any]
    rloo: dict[str, Any]
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        """Check what the values say together; raise UserError naming the key."""
        check_name(self.name)
        self._check_steps()
        if len(self.share) != NUM_PARTS:
            raise UserError(
                f"share={self.share}: must be {NUM_PARTS} numbers: of the prompts for sft, for "
                f"rank, and for ppo and rloo"
            )
        for key in OF_RUNS:
            check_keys(getattr(self, key), f"{key}.")
            if "hardware" in getattr(self, key) and "accelerator" in (
                self.run.get("trainer") or {}
            ):
                raise UserError(
                    f"{key}.hardware={getattr(self, key)['hardware']}: all steps compute on "
                    f"run.trainer.accelerator={self.run['trainer']['accelerator']}: set that (cpu, "
                    f"gpu, mps or auto), and run.trainer.precision"
                )
        for step in FROM_REPLIES:
            objective = getattr(self, step).get("objective") or {}
            if objective.get("reward") is not None:
                raise UserError(
                    f"{step}.objective.reward={objective['reward']}: here the reward is that of "
                    f"the step reward; python -m src.train learns from others"
                )

    def _check_steps(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise UserError(
                    f"steps={step}: must be some of {', '.join(STEPS)}"
                    f"{choice_question(step, STEPS)}"
                )
        if not self.steps or sorted(set(self.steps), key=STEPS.index) != self.steps:
            raise UserError(
                f"steps=[{','.join(self.steps)}]: must be some of {', '.join(STEPS)}, each once, "
                f"in this order"
            )
        for step in self.steps:
            if missing := [other for other in NEEDS.get(step, ()) if other not in self.steps]:
                raise UserError(
                    f"steps=[{','.join(self.steps)}]: {step} begins with what {missing[0]} makes: "
                    f"add it"
                )
