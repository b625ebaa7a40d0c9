"""The steps as command lines: each is what a person would type, one after another."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.checks import AUTO
from src.command.arguments import as_arguments
from src.rlhf.config import FROM_REPLIES, REWARD, SFT, RLHFConfig

PARTS = {"sft": 1, "rank": 2, "ppo": 3, "rloo": 3}  # of the train prompts
SPLITS = ("train", "validation", "test")
TITLES = {
    "sft": "supervised fine-tuning on demonstrations",
    "rank": "replies, ranked by the labeller",
    "reward": "a reward model",
    "dpo": "DPO on the rankings",
    "ppo": "PPO against the reward model",
    "rloo": "RLOO against the reward model",
}


class Places:
    """Where the steps of a pipeline are.

    Args:
        folder: of the pipeline.
        steps: in their order.
    """

    def __init__(self, folder: Path, steps: list[str]):
        self.folder = folder
        self._numbers = {step: number for number, step in enumerate(steps, 1)}

    def __getitem__(self, step: str) -> Path:
        """Return the folder of a step."""
        return self.folder / f"{self._numbers[step]}_{step}"

    def model(self, step: str) -> Path:
        """Return the model folder that a step makes."""
        return self[step] / "model"

    @property
    def reward_model(self) -> Path:
        """The folder of the reward model."""
        return self[REWARD] / "reward_model"

    def rankings(self, split: str) -> Path:
        """Return the file of the rankings of a split."""
        return self["rank"] / f"{split}.jsonl"


def run_arguments(step: str, config: RLHFConfig, places: Places, start: str) -> list[str]:
    """Return the command line of ``src.train`` for a step.

    Args:
        step: its name.
        config: the values of all steps.
        places: where the others are.
        start: the model folder that the first step begins with.
    """
    values: Any = OmegaConf.to_container(OmegaConf.merge(config.run, getattr(config, step)))
    model = start if step == SFT else str(places.model(SFT))
    own: dict[str, Any] = {
        "objective": step,
        "data": "file" if step in (REWARD, "dpo") else "demonstrations",
        "seed": config.seed,
        "model.pretrained": model,
        "model.tokenizer": model,
    }
    if step in PARTS:
        own |= {"data.share": config.share, "data.part": PARTS[step]}
    else:
        own |= {"data.path": str(places["rank"])}
    if step in FROM_REPLIES:
        own |= {"objective.reward_model": str(places.reward_model)}
    return [*as_arguments(own), *as_arguments(values)]


def accelerator(config: RLHFConfig) -> str:
    """Return the name of what all steps compute on."""
    return str((config.run.get("trainer") or {}).get("accelerator", AUTO))


def rank_arguments(split: str, config: RLHFConfig, places: Places) -> list[str]:
    """Return the command line of ``src.rank`` for the prompts of a split."""
    rank, rows = config.rank, config.run.get("data") or {}
    own = {
        "labeller": "sample",
        "model_path": str(places.model(SFT)),
        "prompts": split,
        "max_prompts": getattr(rank.max_prompts, split),
        "num_replies": rank.num_replies,
        "max_new_tokens": rank.max_new_tokens,
        "noise": rank.noise,
        "seed": config.seed,
        "device": accelerator(config),
        "output": str(places.rankings(split)),
        "data": "demonstrations",
        "data.share": config.share,
        "data.part": PARTS["rank"],
    }
    return [*as_arguments(own), *as_arguments({"data": dict(rows)})]
