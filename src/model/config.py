"""The values of ``conf/model``: types and ranges, no defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from src.checks import AUTO, at_least, check, one_of, within
from src.errors import UserError
from src.files.model_files import has_vocabulary

ACTIVATIONS = ("gelu_new", "gelu")
GPT2_TOKENIZER = "openai-community/gpt2"
# OpenAI's sizes share one tokenizer; the names need no look at its files.
GPT2_NAMES = {
    *("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "distilbert/distilgpt2"),
    *(f"openai-community/gpt2{size}" for size in ("", "-medium", "-large", "-xl")),
}


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
        if self.tokenizer == AUTO:
            self.tokenizer = tokenizer_of(self.pretrained)
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


def tokenizer_of(pretrained: str | None) -> str:
    """Return the name of the tokenizer that weights were trained with; without any it is GPT-2's.

    Weights in a folder may come without one.
    """
    if pretrained is None or pretrained in GPT2_NAMES:
        return GPT2_TOKENIZER
    folder = Path(pretrained).expanduser()
    is_alone = folder.is_dir() and not any(map(has_vocabulary, (folder, folder / "model")))
    return GPT2_TOKENIZER if is_alone else pretrained
