"""The values of ``conf/generation``: types and ranges, no defaults."""

from dataclasses import dataclass

from src.errors import UserError

WEIGHTS = ("fp32", "bf16", "int8")
MIN_TEMPERATURE = 1e-4  # scores divided by less are infinite, and then no probabilities
PENALTIES = (0.01, 100.0)  # as far as scores stay finite


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
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < float("inf"):
            raise UserError(
                f"temperature={self.temperature}: must be 0 (greedy), or from {MIN_TEMPERATURE}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k}: must be at least 1, or null")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be in (0, 1], or null")
        least, most = PENALTIES
        if not least <= self.repetition_penalty <= most:
            raise UserError(
                f"repetition_penalty={self.repetition_penalty}: must be in [{least:g}, {most:g}]; "
                f"1 is none"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be in [-2^63, 2^63)")
        if not all(self.stop):
            raise UserError("stop: a stop string is empty; leave it out")
        if self.weights not in WEIGHTS:
            raise UserError(f"weights={self.weights}: must be one of {', '.join(WEIGHTS)}")
