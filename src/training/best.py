"""The best weights so far, as a model folder."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from src.data.tokenizer import Tokenizer
from src.model.generation_config import GenerationConfig
from src.talk.model_folder import save_model_folder
from src.training.distributed import whole_model
from src.training.lora import merged
from src.training.sft import SFTModule


class BestModel(L.Callback):
    """Keeps the best weights so far as a model folder, so that even an interrupted run can talk."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, generation: GenerationConfig):
        self.folder = folder
        self.tokenizer = tokenizer
        self.generation = generation
        self.best: dict[str, float] = {}  # val/loss, val/accuracy, val/perplexity and step
        self.seen_step = -1  # of the last validation in this process

    def state_dict(self) -> dict[str, Any]:
        """Return the figures of the best weights."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best weights of the interrupted run."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: L.Trainer, module: SFTModule) -> None:
        """Write the weights if their validation loss is the lowest so far."""
        self.seen_step = trainer.global_step
        loss = module.latest["val/loss"]
        if not self.best or loss < self.best["val/loss"] or math.isnan(self.best["val/loss"]):
            figures = {k: v for k, v in module.latest.items() if k.startswith("val/")}
            self.best = {**figures, "step": trainer.global_step}
            self.write(module)

    def write(self, module: SFTModule) -> None:
        """Write the weights as they are now."""
        model = whole_model(module.model)
        if rank_zero_only.rank == 0:
            save_model_folder(self.folder, merged(model), self.tokenizer, self.generation)
