"""What differs from rank to rank: random generators, and each one's share of the running sums.

A run may go on with another number of processes, or another number of micro-batches a step. The
first ranks have the generators that were saved, a rank that is new draws them from those of the
first; the first rank has the sums of all.
"""

import hashlib
import random
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from src.training.module import TrainingModule

State = dict[str, Any]


def gather_states(trainer: L.Trainer, module: TrainingModule) -> list[State]:
    """Return the states of all ranks, plain types and tensors; every rank has to call this."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": random.getstate(),
        "train_metrics": module.train_metrics.sums(),
    }
    states: list[Any] = [state]
    if trainer.world_size > 1:
        states = [None] * trainer.world_size
        torch.distributed.all_gather_object(states, state)
    return states


def state_of_rank(states: list[State], rank: int, world_size: int) -> State:
    """Return the state with which ``rank`` of ``world_size`` goes on from the ``states`` saved."""
    if len(states) == world_size:
        return states[rank]
    sums = [state["train_metrics"] for state in states]
    state = {key: states[min(rank, len(states) - 1)][key] for key in states[0]}
    state["train_metrics"] = {
        name: sum((other[name] for other in sums[1:]), start=sums[0][name])
        if rank == 0
        else torch.zeros_like(sums[0][name])
        for name in sums[0]
    }
    if rank >= len(states):
        state["seed"] = _seed(states[0]["torch"], rank)
    return state


def restore(module: TrainingModule, state: State) -> None:
    """Set the running sums and the random generators of this process."""
    module.train_metrics.restore(state["train_metrics"])
    if "seed" in state:
        L.seed_everything(state["seed"], verbose=False)
        return
    torch.set_rng_state(state["torch"].cpu())
    cuda = [generator.cpu() for generator in state["cuda"]]
    if torch.cuda.is_available() and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)
    elif torch.cuda.is_available():  # another number of GPUs, or a run that began on a CPU
        torch.cuda.manual_seed_all(_seed(state["torch"], 0))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def recut(checkpoint: dict[str, Any], num_micro_batches: int) -> None:
    """Count the micro-batches of a checkpoint as a run does that has so many in a step.

    Lightning counts micro-batches where we count steps; a checkpoint is taken between two steps.
    """
    steps = int(checkpoint["global_step"])
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        behind = counts["ready"] - counts["completed"]  # 1: it was saved before Lightning counted
        for name in ("ready", "started", "processed", "completed"):
            if name in counts:
                counts[name] = steps * num_micro_batches
        counts["completed"] -= behind
    for loader in checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", ()):
        loader["position"] = steps * num_micro_batches


def _seed(generator: Tensor, rank: int) -> int:
    """Return a seed that follows from a generator's state."""
    digest = hashlib.sha256(generator.cpu().numpy().tobytes() + str(rank).encode()).digest()
    return int.from_bytes(digest[:4], "little")
