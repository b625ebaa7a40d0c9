"""The model that a run trains: pretrained or random weights, with or without adapters."""

from collections.abc import Callable

from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.free_memory import check_room
from src.model.footprint import FLOAT32, num_parameters
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained
from src.training.config import TrainConfig
from src.training.continuation import check_tokenizer, take_checkpoint, take_model
from src.training.lora import add_adapters
from src.training.origin import Origin
from src.training.vocabulary import check_pieces, check_vocabulary


def build_model(
    config: TrainConfig,
    tokenizer: Tokenizer,
    origin: Origin | None = None,
    learner: Callable[[GPT2], GPT2] = lambda model: model,
) -> GPT2:
    """Return the model to train: pretrained, with random weights for the tokenizer, or another's.

    Args:
        config: the whole run.
        tokenizer: of its rows.
        origin: what the run goes on from; None: it begins.
        learner: makes what learns of the language model.

    Raises:
        UserError: the weights cannot be loaded; model, tokenizer and block size do not fit each
            other; or adapters are wanted and peft is not installed.
    """
    name = config.model.tokenizer
    if origin is not None:
        check_tokenizer(origin, tokenizer)
    if name is not None:
        check_pieces(name, tokenizer)
    if config.model.pretrained is not None and name is not None:
        check_vocabulary(config.model.pretrained, name, tokenizer)
    if config.model.pretrained is not None:
        model = load_pretrained(
            config.model.pretrained,
            dropout=config.model.dropout,
            activation=config.model.activation,
        )
    else:
        shape = config.model.shape(tokenizer.vocab_size)
        check_room(FLOAT32 * num_parameters(shape), "a model of this shape", "take a smaller one")
        model = GPT2(shape)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"model.tokenizer={config.model.tokenizer} has {tokenizer.vocab_size} tokens, "
            f"model.pretrained={config.model.pretrained} has {model.config.vocab_size}"
        )
    model = learner(model)
    if origin is not None and origin.checkpoint is None:
        take_model(origin, model)
    model.checkpoint_activations(config.trainer.activation_checkpointing)
    if config.lora.rank is not None:
        add_adapters(model, config.lora)
    if origin is not None and origin.checkpoint is not None:
        take_checkpoint(origin, model)
    return model
