"""Devices and strategy: how many, and how they share one step.

DDP keeps a whole model on each device and averages the gradients. FSDP2 keeps a share of each
weight, gradient and optimizer state there, and gathers a layer when its turn comes.
"""

import signal

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from src.errors import UserError
from src.model.gpt2 import GPT2
from src.training.config import AUTO, TrainerConfig
from src.training.place import Place


def choose_devices(
    config: TrainerConfig, batch_size: int, device: str, place: Place, recorded: int | None
) -> int:
    """Return how many devices of this machine train, each in a process of its own.

    Args:
        config: the settings; ``devices`` may be ``auto``.
        batch_size: the blocks that the devices share.
        device: the type of the devices.
        place: where this process stands. If a launcher started it, the launcher has decided.
        recorded: the number of the run that goes on; None for a new run.

    Raises:
        UserError: there are not so many, or the launcher started another number of processes.
    """
    devices: int | str
    wanted, nodes = config.devices, config.num_nodes
    if place.launcher is not None:
        devices = place.local_size
        if wanted not in (AUTO, devices):
            raise UserError(
                f"trainer.devices={wanted}: processes that {place.launcher} started on this "
                f"machine: {devices}; leave it at auto, or start as many"
            )
        if nodes != place.num_nodes:
            raise UserError(
                f"trainer.num_nodes={nodes}: {place.launcher} started processes on "
                f"{place.num_nodes} machines; set trainer.num_nodes={place.num_nodes}"
            )
    elif nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes}: start the processes with torchrun or srun, on each machine"
        )
    else:
        devices = recorded or AUTO if wanted == AUTO else wanted
    present = torch.cuda.device_count() if device == "cuda" else 1
    if wanted == AUTO and place.launcher is None and device != "cpu" and devices != AUTO:
        devices = devices if int(devices) <= present else AUTO  # a run that goes on elsewhere
    if not isinstance(devices, int):
        return max(count for count in range(1, present + 1) if batch_size % count == 0)
    if devices > present and device != "cpu":
        raise UserError(
            f"trainer.devices={devices}: this process sees {present} of type {device}; use "
            f"trainer.devices=auto, or let each process see all of them"
        )
    return devices


def choose_strategy(config: TrainerConfig, precision: str, world_size: int) -> str:
    """Return ``single``, ``ddp`` or ``fsdp``.

    Raises:
        UserError: the strategy does not go with the precision or the number of devices.
    """
    if config.strategy == "fsdp":
        if world_size == 1:
            raise UserError(
                "trainer.strategy=fsdp shares the model between several devices, and there is one: "
                "raise trainer.devices, or use trainer.strategy=auto"
            )
        if precision == "16-mixed":
            raise UserError(
                "trainer.strategy=fsdp does not go with trainer.precision=16-mixed: use bf16-mixed "
                "or 32-true, or trainer.strategy=ddp"
            )
        return "fsdp"
    return "single" if world_size == 1 else "ddp"


def shard(model: GPT2, mesh: DeviceMesh) -> None:
    """Leave each device of ``mesh`` its share of every weight (FSDP2); once."""
    if isinstance(model, FSDPModule):
        return
    for block in model.h:
        fully_shard(block, mesh=mesh)
    # The loss needs the embedding again after the forward pass, as the head.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def is_sharded(model: GPT2) -> bool:
    """Whether each rank has a share of every weight (FSDP2)."""
    return isinstance(model, FSDPModule)


def reshard(model: GPT2) -> None:
    """Let go of what evaluation has gathered; a training step does so by itself."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole_model(model: GPT2) -> GPT2:
    """Return the model itself or, if it is sharded, a whole copy that only rank 0 can use.

    Every rank has to call this.
    """
    if not isinstance(model, FSDPModule):
        return model
    device = model.wte.weight.device
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    with torch.device("meta"):
        copy = type(model)(model.config)
    if state:  # rank 0
        copy.load_state_dict(state, assign=True)
        copy.to(device)
    return copy


def load_whole(model: GPT2, state: dict[str, Tensor]) -> None:
    """Put whole weights into a model that may be sharded; every rank has to call it."""
    set_model_state_dict(model, {**state}, options=StateDictOptions(full_state_dict=True))


def whole_norm(norm: Tensor) -> Tensor:
    """Return a norm over all ranks' shares (0-d) as a plain tensor."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class Agreement:
    """The signal that any rank received; all ranks know it one exchange later.

    It travels between the CPUs, so that no device is waited for.
    """

    def __init__(self) -> None:
        self.group = torch.distributed.new_group(backend="gloo")
        self.signal = torch.zeros((), dtype=torch.int64)
        self.work: torch.distributed.Work | None = None

    def exchange(self, received: signal.Signals | None) -> signal.Signals | None:
        """Send what this rank has received; return what any had at the exchange before."""
        if self.work is not None:
            self.work.wait()
        before = int(self.signal)
        self.signal = torch.tensor(received or 0)
        self.work = torch.distributed.all_reduce(
            self.signal, torch.distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        return signal.Signals(before) if before else None
