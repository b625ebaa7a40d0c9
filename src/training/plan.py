"""What is decided for a run, in plain types. The config stays what a person asked for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from src.data.datamodule import ChatDataModule
from src.data.order import Batching
from src.training.config import TrainConfig
from src.training.machine import Machine
from src.training.memory import TrainingStep, choose_micro_batch_size
from src.training.validation import Validations, decide_validations


def choose_batching(
    config: TrainConfig, machine: Machine, step: TrainingStep, record: Mapping[str, Any]
) -> Batching:
    """Return how the global batch is cut: by the config, by ``record``, or by the memory.

    ``record`` holds the choices of the run that goes on; it is empty for a new run.

    Raises:
        UserError: the devices cannot share the batch evenly.
    """
    at_most = config.micro_batch_size
    if not isinstance(at_most, int):  # auto: a run that goes on cuts its batches as it did
        at_most = record.get("micro_batch_size") or choose_micro_batch_size(step, machine.memory)
    return Batching.of(config.batch_size, machine.place.world_size, at_most)


@dataclass(frozen=True)
class Plan:
    """What was decided for this machine and this data."""

    machine: Machine
    batching: Batching
    block_size: int
    num_steps: int
    val_every_n_steps: int
    validations: Validations
    step: TrainingStep

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        machine: Machine,
        data: ChatDataModule,
        step: TrainingStep,
    ) -> "Plan":
        """Return the plan of a run whose rows are packed."""
        every = config.trainer.val_every_n_steps or -(-data.num_steps // 10)
        return cls(
            machine=machine,
            batching=data.batching,
            block_size=data.block_size,
            num_steps=data.num_steps,
            val_every_n_steps=every,
            validations=decide_validations(
                config,
                num_blocks=len(data.splits["validation"]),
                every=every,
                num_steps=data.num_steps,
                num_learned=data.num_learned,
            ),
            step=step.on(data.splits["train"]),
        )

    @property
    def choices(self) -> dict[str, str | int]:
        """What was chosen for the machine, as ``run.json`` holds it."""
        return {
            "device": self.machine.device,
            "devices": self.machine.place.local_size,
            "precision": self.machine.precision,
            "threads": self.machine.threads,
            "micro_batch_size": self.batching.micro_batch_size,
        }

    def settings(self, config: TrainConfig) -> dict[str, Any]:
        """Return all settings under dotted names, those that were open as they were decided."""
        decided = {
            "trainer.devices": self.machine.place.local_size,
            "data.block_size": self.block_size,
            "trainer.max_val_blocks": self.validations.max_blocks,
        }
        return flat(asdict(config)) | decided | self.choices


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = list(value) if isinstance(value, tuple) else value
    return result
