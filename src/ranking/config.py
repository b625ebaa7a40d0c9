"""Which prompts are ranked, and how replies to them are drawn: types and ranges, no defaults."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from src.checks import at_least, check, one_of, within
from src.errors import UserError
from src.model.generation_config import GenerationConfig


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
        if not self.generation.temperature:
            group = f"generation@{self.prefix}generation" if self.prefix else "generation"
            raise UserError(
                f"{self.prefix}generation.temperature=0: all replies to a prompt would be the "
                f"same; add {group}=full"
            )
        self.generation = replace(
            self.generation, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
