"""The values of ``conf/model``: types and ranges, no defaults."""

from dataclasses import dataclass
from typing import Annotated

from src.checks import at_least, check, one_of, within
from src.errors import UserError

ACTIVATIONS = ("gelu_new", "gelu")


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2, in Hugging Face's names."""

    vocab_size: Annotated[int, at_least(1)]
    n_positions: Annotated[int, at_least(1)]
    n_embd: Annotated[int, at_least(1)]
    n_layer: Annotated[int, at_least(1)]
    n_head: Annotated[int, at_least(1)]
    # gelu_new: the tanh approximation of OpenAI's weights; gelu: exact
    activation: Annotated[str, one_of(ACTIVATIONS)]
    dropout: Annotated[float, within("[0, 1)")]
    # standard deviation of random weights
    initializer_range: Annotated[float, within("(0, 1)")] = 0.02
    layer_norm_epsilon: float = 1e-5
    # width inside the MLP; None: 4 * n_embd
    n_inner: Annotated[int | None, at_least(1)] = None

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self, "model.")
        if self.n_embd % self.n_head:
            raise UserError(
                f"model.n_embd={self.n_embd} must be a multiple of model.n_head={self.n_head}"
            )

    @property
    def inner_width(self) -> int:
        """The width inside the MLP."""
        return self.n_inner or 4 * self.n_embd


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
        check(self, "model.")
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
