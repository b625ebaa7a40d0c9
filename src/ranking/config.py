"""Which prompts are ranked, and how replies to them are drawn: types and ranges, no defaults."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from src.checks import at_least, check, one_of, within
from src.errors import UserError
from src.model.generation_config import GenerationConfig

ME, KNOWN, EXACT = "me", "sample", "exact_match"  # who ranks


@dataclass
class RankingConfig:
    """What the terminal's ``conf/rank.yaml`` and the page's ``conf/web.yaml`` share."""

    prefix: ClassVar[str] = ""  # of its keys

    generation: GenerationConfig
    prompts: Annotated[str, one_of(("train", "validation", "test"))]
    max_prompts: Annotated[int | None, at_least(1).or_null("for all")]
    num_replies: Annotated[int, at_least(2)]
    max_new_tokens: Annotated[int, at_least(1)]
    seed: Annotated[int, within("[0, 2^32)")]
    output: str

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, self.prefix)
        if not self.output_path.name:
            key = self.key("output")
            raise UserError(f"{key}={self.output}: name a file, as in {key}=comparisons.jsonl")
        if not self.generation.temperature:
            group = f"generation@{self.prefix}generation" if self.prefix else "generation"
            raise UserError(
                f"{self.prefix}generation.temperature=0: all replies to a prompt would be the "
                f"same; add {group}=full"
            )
        self.generation = replace(
            self.generation, max_new_tokens=self.max_new_tokens, seed=self.seed
        )

    def key(self, name: str) -> str:
        """Return a key as people write it."""
        return f"{self.prefix}{name}"

    @property
    def output_path(self) -> Path:
        """Where rankings go."""
        return Path(os.path.expanduser(self.output))  # which leaves an unknown ~name as it is
