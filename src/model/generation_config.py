"""The values of ``conf/generation``: types and ranges, no defaults."""

from dataclasses import dataclass

from src.errors import UserError

WEIGHTS = ("fp32", "bf16", "int8")


@dataclass
class GenerationConfig:
    """The values of ``conf/generation``; its comments say what each value means."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    stop: list[str]
    seed: int
    weights: str

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: names the key and what it may be.
        """
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k}: must be at least 1, or null")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be in (0, 1], or null")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(
                f"repetition_penalty={self.repetition_penalty}: must be above 0; 1 is none"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be in [-2^63, 2^63)")
        if not all(self.stop):
            raise UserError("stop: a stop string is empty; leave it out")
        if self.weights not in WEIGHTS:
            raise UserError(f"weights={self.weights}: must be one of {', '.join(WEIGHTS)}")
