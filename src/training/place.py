"""Where a process stands among those that train together.

torchrun's environment variables hold the place, whatever started the process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from src.errors import UserError

DOOR = "src.train"
PARENT = "GPT2_CHAT_PARENT"  # in the environment of a process that rank 0 has started
LOCALHOST = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # of the local_size processes on this machine
    local_size: int = 1
    address: str = LOCALHOST  # where rank 0 listens
    port: int = 0
    launcher: str | None = None  # what started the processes; None: nothing did

    @property
    def num_nodes(self) -> int:
        """Machines; each has as many processes."""
        return self.world_size // self.local_size

    def variables(self) -> dict[str, str]:
        """Return torchrun's environment variables for this place."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.rank // self.local_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place, as torchrun, srun or rank 0 wrote it into the environment.

    srun counts only as a launcher of several tasks: in a batch script without it, or with one
    task, this process is alone.

    Raises:
        UserError: srun started unequal numbers of processes on its nodes.
    """
    if "LOCAL_WORLD_SIZE" in environment:
        return Place(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            local_size=int(environment["LOCAL_WORLD_SIZE"]),
            address=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
            launcher=DOOR if PARENT in environment else "torchrun",
        )
    num_tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if num_tasks == 1:
        return Place()
    num_nodes = int(environment["SLURM_STEP_NUM_NODES"])
    if num_tasks % num_nodes:
        raise UserError(
            f"srun started {num_tasks} processes on {num_nodes} nodes: use --ntasks-per-node, so "
            f"that each has as many"
        )
    from lightning.fabric.plugins.environments import SLURMEnvironment

    first = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
    job = int(environment["SLURM_JOB_ID"])
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        world_size=num_tasks,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=num_tasks // num_nodes,
        address=environment.get("MASTER_ADDR", first),
        port=int(environment.get("MASTER_PORT", 15000 + job % 10000)),
        launcher="srun",
    )
