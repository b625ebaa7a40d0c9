"""Who started the processes, how they find each other, and one error for all of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from src import train
from src.errors import UserError
from src.training import distributed, launch
from src.training.distributed import choose_devices, choose_strategy
from src.training.launch import Processes
from src.training.place import Place, find_place
from tests.training.conftest import train_config

ROOT = Path(__file__).parents[2]
SECONDS = 300  # that processes may take to begin and to end, on a busy machine

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


def test_a_process_finds_its_place():
    assert find_place({}) == Place()
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, "node7", 29400, "torchrun")
    assert find_place(SRUN) == Place(5, 8, 1, 4, "gpu07", 19567, "srun")
    assert find_place(SRUN).num_nodes == 2
    assert find_place({**SRUN, "MASTER_PORT": "4000"}).port == 4000


def test_a_batch_script_without_srun_is_one_process():
    """There SLURM says how many tasks were asked for, though it has started one."""
    assert find_place({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}) == Place()


def test_unequal_nodes_are_a_mistake():
    with pytest.raises(UserError, match="8 processes on 3 nodes: use --ntasks-per-node"):
        find_place({**SRUN, "SLURM_STEP_NUM_NODES": "3"})


def test_a_place_is_told_in_torchruns_words():
    place = find_place(SRUN)
    assert find_place(place.variables()) == Place(5, 8, 1, 4, "gpu07", 19567, "torchrun")
    assert place.variables()["GROUP_RANK"] == "1"


def devices(place=None, device="cpu", recorded=None, batch_size=8, **changes):
    config = train_config(*(f"trainer.{key}={value}" for key, value in changes.items())).trainer
    return choose_devices(config, batch_size, device, place or Place(), recorded)


def test_auto_takes_what_the_launcher_started_or_the_gpus_that_share_the_batch(monkeypatch):
    assert devices() == 1
    assert devices(devices=3) == 3
    assert devices(find_place(TORCHRUN), num_nodes=2) == 4
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 6)
    assert devices(device="cuda") == 4
    assert devices(device="cuda", batch_size=7) == 1
    assert devices(Place(launcher="torchrun"), device="cuda") == 1  # with one process
    assert devices(device="cuda", recorded=2) == 2  # a run that goes on


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (Place(), {"num_nodes": 2}, "num_nodes=2: start the processes with torchrun or srun"),
        (find_place(TORCHRUN), {}, "num_nodes=1: torchrun started processes on 2 machines; set"),
        (
            find_place(SRUN),
            {"num_nodes": 2, "devices": 3},
            "devices=3: processes that srun started on this machine: 4;",
        ),
        (Place(), {"devices": 9, "device": "cuda"}, "devices=9: this process sees 1 of type cuda"),
        (Place(), {"devices": 0}, "trainer.devices=0: must be at least 1, or auto"),
        (Place(), {"devices": "many"}, "trainer.devices=many: must be at least 1, or auto"),
        (Place(), {"num_nodes": 0}, "trainer.num_nodes=0: must be at least 1"),
        (Place(), {"strategy": "zero"}, "trainer.strategy=zero: must be one of auto, ddp, fsdp"),
    ],
)
def test_what_does_not_fit_the_machine_or_the_launcher_is_said(
    place, changes, message, monkeypatch
):
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=message):
        devices(place, **changes)


def test_fsdp_needs_several_devices_and_no_gradient_scaler():
    config = train_config("trainer.strategy=fsdp").trainer
    with pytest.raises(UserError, match=r"there is one: raise trainer\.devices"):
        choose_strategy(config, "32-true", 1)
    with pytest.raises(UserError, match=r"does not go with trainer\.precision=16-mixed"):
        choose_strategy(config, "16-mixed", 2)
    assert choose_strategy(config, "bf16-mixed", 2) == "fsdp"
    assert choose_strategy(train_config().trainer, "32-true", 2) == "ddp"
    assert choose_strategy(train_config().trainer, "32-true", 1) == "single"


def test_the_others_join_this_run_of_a_sweep_and_not_the_sweep(tmp_path):
    arguments = ["-m", "--config-dir", "mine", "seed=1,2", "sweep=lr_batch_size"]
    overrides = ["seed=2", "sweep=lr_batch_size"]
    assert train.worker_command(arguments, overrides, tmp_path / "1_seed=2") == [
        "--config-dir",
        "mine",
        "seed=2",
        f'hydra.run.dir="{tmp_path}/1_seed=2"',
        "hydra.output_subdir=null",
    ]


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "src.train", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def places(port: int, num: int = 2) -> list[dict[str, str]]:
    return [Place(rank, num, rank, num, port=port).variables() for rank in range(num)]


def test_a_mistake_is_said_once_and_ends_all(port):
    started = [start(place, "hardware=a1000") for place in places(port)]
    (_, first), (_, second) = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [2, 0]
    assert first.startswith("error: there is no preset hardware=a1000")
    assert first.count("\n") == 1
    assert second == ""


@pytest.mark.parametrize("place", [Place(0, 2, 0, 2, port=1), Place()])
def test_the_store_is_not_destructed(place):
    """Torch's destructor joins the thread that serves, and hung once in some hundred ends."""
    code = f"""
import os
import torch.distributed
from src.training import launch
from src.training.place import Place
class Store:
    port = 1
    def __init__(self, *args, **options): os.write(1, b"made")
    def __del__(self, write=os.write): write(1, b", destructed")
torch.distributed.TCPStore = Store
launch.find_place = lambda: {place}
with launch.Processes(2):
    pass
os.write(1, b", ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "made, ended"


def test_a_sweep_under_a_launcher_is_a_mistake(monkeypatch):
    place = find_place(TORCHRUN | {"RANK": "0"})
    monkeypatch.setattr("src.train.find_place", lambda: place)
    with pytest.raises(UserError, match="-m: torchrun started the processes of one run"):
        train.process_arguments(["-m", "seed=1,2"])


class Sleeper(Processes):
    """Its children run Python code in place of a training run; they may be slow to begin."""

    def __init__(self, monkeypatch, code: str):
        super().__init__(num_devices=3)
        monkeypatch.setattr(launch, "SECONDS_TO_END", SECONDS)
        original = subprocess.Popen

        def popen(command, **options):
            return original([sys.executable, "-c", code], **options)

        monkeypatch.setattr(launch.subprocess, "Popen", popen)


ENDLESS = "import time; time.sleep(600)"


def test_when_one_process_fails_rank_0_ends_with_its_exit_code(monkeypatch):
    failing = f"import os, sys; os.environ['RANK'] == '2' and sys.exit(2)\n{ENDLESS}"
    with pytest.raises(SystemExit) as ended, Sleeper(monkeypatch, failing) as processes:  # noqa: PT012
        processes.start([])
        children = list(processes.children)
        raise RuntimeError("connection closed by peer")
    assert ended.value.code == 2
    assert [child.returncode for child in children] == [-signal.SIGKILL, 2]


def test_when_rank_0_fails_the_others_are_ended_and_its_own_error_stands(monkeypatch):
    before = dict(os.environ)
    with pytest.raises(UserError), Sleeper(monkeypatch, ENDLESS) as processes:  # noqa: PT012
        processes.start([])
        children = list(processes.children)
        assert os.environ["WORLD_SIZE"] == "3"
        raise UserError("diverged")
    assert [child.returncode for child in children] == [-signal.SIGKILL] * 2
    assert dict(os.environ) == before


def test_the_others_do_not_outlive_a_killed_rank_0(port):
    """It could not say anything any more: the kernel ends them."""
    code = (
        "import os, subprocess, sys, time\n"
        "from src.training.place import PARENT\n"
        "command = [sys.executable, '-m', 'src.train']\n"
        "child = subprocess.Popen(command, env=os.environ | {PARENT: str(os.getpid())})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    store = launch._lasting_store("127.0.0.1", 0, serves=True)  # it says nothing
    place = Place(1, 2, 1, 2, port=store.port)
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | place.variables(),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    child = int(parent.stdout.readline())
    process = psutil.Process(child)
    wait_until(process.net_connections, "it asks rank 0 what to do")
    parent.kill()
    parent.wait()
    wait_until(lambda: not command_line(child), "it has ended")


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(holds, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)
