"""What was decided for a run when it began, and holds when it goes on."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from src.errors import UserError
from src.model.device import choose_device
from src.training.config import AUTO, PRECISIONS, TrainConfig
from src.training.machine import choose_precision

log = logging.getLogger(__name__)


def as_decided(config: TrainConfig, decided: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a run that goes on, with what was open as it was decided.

    Raises:
        UserError: this machine cannot do it; says what it can.
    """
    trainer = config.trainer
    names = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
    if trainer.accelerator == AUTO and "device" in decided:
        device, here = decided["device"], choose_device(AUTO).type
        if device in (here, "cpu"):
            trainer = replace(trainer, accelerator=names[device])
        else:
            log.warning("warning: that run had device=%s, which is not here: %s", device, here)
    if trainer.threads == AUTO and decided:  # an older version took as many as torch does
        trainer = replace(trainer, threads=decided.get("threads", torch.get_num_threads()))
    if trainer.precision == AUTO and "precision" in decided:
        trainer = replace(trainer, precision=decided["precision"])
        try:
            choose_precision(trainer, choose_device(trainer.accelerator).type)
        except UserError as error:
            raise UserError(
                f"resume={config.resume}: that run had precision={decided['precision']}. {error}. "
                f"Go on where it began, or with trainer.precision={PRECISIONS[0]}, rounded "
                f"otherwise"
            ) from error
    return replace(config, trainer=trainer)
