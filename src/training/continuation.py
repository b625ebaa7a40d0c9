"""``continue_from``: a new run that goes on from another's weights, moments and position.

It has a folder of its own. Its first step is the one after the other's last: the steps, the order
of the rows and the random numbers go on, and the learning rate is what the schedule of the whole
new length says for that step. Clock, count of tokens, best weights and curves begin with the run.

Where the other has no moments any more, or never had any, the weights alone are taken: the run
begins at step 0 with a schedule of its own.
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from src.data.tokenizer import PAD, Tokenizer, load_tokenizer
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained
from src.model.scalar import HEAD, ScalarGPT2, resized
from src.talk.reward_folder import load_reward_folder
from src.training.checkpoints import MODEL
from src.training.config import TrainConfig
from src.training.lora import frozen_checksum, frozen_weights
from src.training.module import TrainingModule
from src.training.optimizer import go_on_with_schedule
from src.training.origin import Origin, load_checkpoint


def check_tokenizer(origin: Origin, tokenizer: Tokenizer) -> None:
    """Check that ids mean the same to both.

    Raises:
        UserError: a token has another id, or there is no tokenizer to compare with.
    """
    if origin.model is None:
        raise UserError(
            f"continue_from={origin.name}: its folder model, which holds its tokenizer, is missing"
        )
    theirs = load_tokenizer(str(origin.model), key="continue_from")
    expected = theirs.backend.get_vocab(with_added_tokens=True)
    found = tokenizer.backend.get_vocab(with_added_tokens=True)
    if PAD not in found:  # a reward model's folder has one beside those of its run
        expected.pop(PAD, None)
    wrong = [token for token, index in expected.items() if found.get(token) != index]
    if wrong or len(found) != len(expected):
        raise UserError(
            f"continue_from={origin.name}: its tokenizer is another: {len(wrong)} of "
            f"{len(expected)} tokens differ: set model.tokenizer={origin.model}"
        )


def take_model(origin: Origin, model: GPT2) -> None:
    """Put the weights of a model folder into ``model``, which has no adapters yet.

    Raises:
        UserError: they are of another shape, or damaged.
    """
    theirs = load_pretrained(str(origin.model), key="continue_from", beside=(HEAD,))
    if isinstance(model, ScalarGPT2):
        folder = load_reward_folder(str(origin.model), key="continue_from")
        theirs = resized(folder.model, model.config.vocab_size)  # without its pad token
    _check_heads(origin, theirs.config.n_head, model)
    _put(origin, theirs.state_dict(), model, model.state_dict())


def take_checkpoint(origin: Origin, model: GPT2) -> None:
    """Put the weights of a checkpoint into ``model``, those that learn.

    Raises:
        UserError: they are of another shape, or those that do not learn are others.
    """
    assert origin.checkpoint is not None
    content = load_checkpoint(origin.checkpoint)
    state = content["state_dict"]
    weights = {k.removeprefix(MODEL): v for k, v in state.items() if k.startswith(MODEL)}
    frozen = frozen_weights(model)
    learning = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    heads = (origin.settings or {}).get("model.n_head")
    if heads is not None and (origin.settings or {}).get("model.pretrained") is None:
        _check_heads(origin, heads, model)
    _put(origin, weights, model, learning)
    if content.get("frozen_checksum") != frozen_checksum(model):
        raise UserError(
            f"continue_from={origin.name}: the weights that LoRA leaves alone are others here: set "
            f"model.pretrained to what that run had"
        )


def _check_heads(origin: Origin, heads: int, model: GPT2) -> None:
    if heads != model.config.n_head:
        raise UserError(
            f"continue_from={origin.name}: its model is another: n_head is {heads} there and "
            f"{model.config.n_head} here: leave the settings of the model as they were"
        )


def _put(
    origin: Origin, weights: dict[str, Tensor], model: GPT2, expected: dict[str, Tensor]
) -> None:
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    ours = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    differing = [n for n in {*theirs, *ours} if theirs.get(n) != ours.get(n)]
    if differing:
        name = min(differing, key=lambda n: (".lora_" not in n, n))
        there, here = (_shape(shapes.get(name)) for shapes in (theirs, ours))
        settings = "lora.rank" if ".lora_" in name else "the settings of the model"
        raise UserError(
            f"continue_from={origin.name}: its model is another: {name} is {there} there and "
            f"{here} here: leave {settings} as they were"
        )
    with torch.no_grad():
        state = model.state_dict()
        for name, tensor in weights.items():
            state[name].copy_(tensor)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape))


class Continuation(L.Callback):
    """Turns the checkpoint of another run into the beginning of this one, once.

    It stands before all callbacks that take something from a checkpoint.
    """

    def __init__(self, origin: Origin, config: TrainConfig):
        self.origin = origin
        self.config = config

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out what this run counts anew.

        Raises:
            UserError: the other run went on meanwhile.
        """
        if int(checkpoint["global_step"]) != self.origin.step:
            raise UserError(
                f"continue_from={self.origin.name}: that run went on meanwhile: start again when "
                f"no process is at it"
            )
        checkpoint["callbacks"] = {}
        checkpoint["latest"] = {}
        checkpoint.pop("last_steps", None)
        # Its last batch was the last of its run, and is not of this one.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Set the learning rate, and what else the optimizer's settings say, for the next step."""
        assert isinstance(module, TrainingModule)
        schedule: Any = trainer.lr_scheduler_configs[0].scheduler
        go_on_with_schedule(
            trainer.optimizers[0], schedule, self.config.optimizer, self.origin.step
        )


def begin_at(trainer: L.Trainer, step: int) -> None:
    """Let what is logged before the first step be of ``step``."""
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
    progress.optimizer.step.total.completed = step
