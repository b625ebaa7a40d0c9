"""The values of ``conf/model``: types and ranges, no defaults."""

from dataclasses import dataclass

from src.errors import UserError

ACTIVATIONS = ("gelu_new", "gelu")


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2, in Hugging Face's names."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    activation: str  # gelu_new: the tanh approximation of OpenAI's weights; gelu: exact
    dropout: float
    initializer_range: float = 0.02  # standard deviation of random weights
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: names the key and what it may be.
        """
        for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key}={getattr(self, key)}: must be at least 1")
        if self.n_embd % self.n_head:
            raise UserError(
                f"model.n_embd={self.n_embd} must be a multiple of model.n_head={self.n_head}"
            )
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"model.activation={self.activation}: must be one of {', '.join(ACTIVATIONS)}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout}: must be in [0, 1)")
        if not 0 < self.initializer_range < 1:
            raise UserError(f"model.initializer_range={self.initializer_range}: must be in (0, 1)")


@dataclass
class ModelConfig:
    """What ``conf/model`` holds; its comments say what each value means."""

    pretrained: str | None
    tokenizer: str | None
    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    activation: str | None
    dropout: float
    initializer_range: float

    def __post_init__(self) -> None:
        """Check what a shape alone cannot; raise UserError naming the key."""
        if self.pretrained is not None and self.tokenizer is None:
            raise UserError(
                f"model.tokenizer=null would train new tokens, which model.pretrained="
                f"{self.pretrained} does not know: name the folder or hub name of its tokenizer"
            )

    def shape(self, vocab_size: int) -> GPT2Config:
        """Return the shape of a model with random weights for a tokenizer of ``vocab_size``."""
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=self.n_positions,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_head=self.n_head,
            activation=self.activation or ACTIVATIONS[0],
            dropout=self.dropout,
            initializer_range=self.initializer_range,
        )
