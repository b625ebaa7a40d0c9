"""Learning from preferences: pairs a second, ours beside TRL's; rollouts and PPO's samples, ours.

All learn from the same rankings of four replies to a prompt, TRL from all their pairs. A lap is an
optimizer step; PPO's is an iteration: its rollouts, and the steps that learn from them. What is
computed once before the first step, as the log-probabilities of DPO's reference, is in nobody's
time.
"""

from dataclasses import replace
from functools import partial

import torch

from src.benchmark import pairs, policy, trl_preferences
from src.benchmark.config import BenchmarkConfig
from src.benchmark.inputs import write_inputs
from src.benchmark.pairs import write_rankings
from src.benchmark.part import Figures, Part
from src.benchmark.turns import Job, Measured, Variant, take_turns

NAME, TINY = "preferences", "_tiny"  # the second: the end of a variant's name, of the tiny model
TINY_RANKINGS = 16  # of an optimizer step of the tiny model, about: 96 pairs
BESIDE = (("ours_reward", "trl_reward"), ("ours_dpo", "trl_dpo"))


class Pairs(Part):
    """Pairs a second, of the model and of the tiny one."""

    name = NAME
    speed = "pairs_per_second"
    ratios = tuple((f"{ours}{end}", f"{trl}{end}") for end in ("", TINY) for ours, trl in BESIDE)

    def variants(self, device: torch.device) -> list[Variant]:
        variant = partial(Variant, num_warmup_laps=1 if device.type == "cpu" else 5)
        reward, dpo = trl_preferences.settings(device), trl_preferences.dpo_settings(device)
        return [
            made
            for end in ("", TINY)
            for made in (
                variant(f"ours_reward{end}", pairs.learn_reward),
                variant(f"trl_reward{end}", trl_preferences.train_reward, reward, needs="trl"),
                variant(f"ours_dpo{end}", pairs.learn_dpo),
                variant(f"trl_dpo{end}", trl_preferences.train_dpo, dpo, needs="trl"),
            )
        ]

    def show(self, figures: Figures) -> list[str]:
        return super().show(figures)[:1]  # the table says it all

    def row(self, figures: Figures, name: str) -> dict[str, str]:
        cells = super().row(figures, name)
        ours = next((one for one, other in self.ratios if other == name), "")
        return cells | {"ours is": self.ratio(figures, ours, name)}


class Rollouts(Part):
    """Tokens a second of replies drawn to learn from, on the tiny model."""

    name = NAME
    speed = "rollout_tokens_per_second"

    def variants(self, device: torch.device) -> list[Variant]:
        return [Variant(f"ours_rollout{TINY}", policy.draw_rollouts)]


class Samples(Part):
    """Replies a second that PPO draws, scores and learns from, on the tiny model."""

    name = NAME
    speed = "samples_per_second"

    def variants(self, device: torch.device) -> list[Variant]:
        return [Variant(f"ours_ppo{TINY}", policy.learn_ppo)]


class Preferences(Part):
    """All of it; by its own name only, for it takes minutes."""

    name = NAME
    in_all = False
    parts: tuple[Part, ...] = (Pairs(), Rollouts(), Samples())

    def variants(self, device: torch.device) -> list[Variant]:
        return [variant for part in self.parts for variant in part.variants(device)]

    def measure(self, config: BenchmarkConfig, job: Job) -> Figures:
        tiny = write_inputs(job.folder / "tiny", config, config.tiny, config.num_rows)
        write_rankings(job.config)
        write_rankings(tiny)
        tiny = replace(tiny, batch_size=pairs.blocks_of(TINY_RANKINGS, tiny))
        jobs = {"": job, TINY: replace(job, config=tiny)}
        figures: Figures = {
            f"preferences.pairs_per_step{end}": pairs.pairs_per_step(each.config)
            for end, each in jobs.items()
        }
        for part in self.parts:
            measured: dict[str, Measured] = {}
            for end, each in jobs.items():
                of_size = [
                    v for v in part.variants(job.device) if v.name.endswith(TINY) == bool(end)
                ]
                measured |= take_turns(self.name, of_size, each)
            figures |= part.figures(measured)
        return figures

    def show(self, figures: Figures) -> list[str]:
        return [text for part in self.parts for text in part.show(figures)]
