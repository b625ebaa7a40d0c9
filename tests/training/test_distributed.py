"""Two processes learn what one learns, and leave one run behind.

On the CPU, with gloo: DDP and FSDP2, each started by ``python -m src.train``, torchrun or srun's
environment.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.training.checkpoints import LAST, PREVIOUS
from src.training.events import event_files
from src.training.start import start_run
from tests.faults.sameness import untimed
from tests.training.conftest import SMALL, curves, metrics, settings
from tests.training.test_resume import assert_same_run

pytestmark = pytest.mark.timeout(2000)  # a fixture's two runs are in the time of its first test

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 900  # of a run, on a busy machine: each of its processes imports torch

# 12 steps, validated (and saved) at 5 and 10, logged at 4, 8 and 12.
REFERENCE = (
    "reference={name: x, loss: 1, accuracy: 1, seconds: 1, steps: 1, average_over: 5, "
    "replies_before: {}, replies: {}}"
)
KEPT = ("trainer.keep_every_n_steps=12", REFERENCE)
LAYOUT = (*SMALL, *KEPT, "trainer.log_every_n_steps=4", "trainer.accelerator=cpu")
TWO = (*LAYOUT, "trainer.devices=2", "micro_batch_size=2")  # 2 x 2 x 2
STRATEGIES = ("ddp", "fsdp")


def whole(*values):
    """Return a combination that CI leaves out: others of it share what they show."""
    return pytest.param(*values, marks=pytest.mark.whole)


def start(*arguments: str, launcher=("-m", "src.train"), **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Wait for a process; return what it said on standard error."""
    _, said = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == code, said
    return said


def saved(run: Path) -> dict:
    return torch.load(run / "checkpoints" / LAST, weights_only=True)


def rewound(run: Path, to: Path) -> Path:
    """Copy a finished run as it was when its checkpoint before the last one had been saved."""
    shutil.copytree(run, to)
    (to / "metrics.json").unlink()
    (to / "checkpoints" / PREVIOUS).replace(to / "checkpoints" / LAST)
    return to


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> str:
    return f"data.corpus_dir={tmp_path_factory.mktemp('corpora')}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpora) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    given = [*LAYOUT, "micro_batch_size=8", corpora]
    start_run(*settings(*given), folder, given)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, corpora) -> tuple[Path, str]:
    """The runs of two processes, one after another, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("sweep")
    strategies = f"trainer.strategy={','.join(STRATEGIES)}"
    own = (f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${hydra.job.num}")
    return folder, finish(start("-m", *TWO, strategies, corpora, *own))


@pytest.fixture(params=STRATEGIES)
def together(request, sweep) -> Path:
    return sweep[0] / str(STRATEGIES.index(request.param))


@pytest.mark.slow
def test_two_processes_log_what_one_logs(together, alone):
    for tag in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "grad_norm", "lr"):
        one, two = curves(alone)[tag], curves(together)[tag]
        assert list(two) == list(one), tag
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-5, abs=1e-6), tag
    one, two = untimed(metrics(alone)), untimed(metrics(together))
    assert one.keys() == two.keys()
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=1e-5), key


@pytest.mark.parametrize("together", [whole("ddp"), "fsdp"], indirect=True)
@pytest.mark.slow
def test_two_processes_go_on_from_another_run_and_end_early(together, sweep, tmp_path, corpora):
    """At a learning rate that ruins what was learned: the first validation is in vain."""
    strategy = STRATEGIES[int(together.name)]
    own = (f"trainer.strategy={strategy}", f"hydra.run.dir={tmp_path / 'run'}", corpora)
    ends = ("max_steps=30", "trainer.patience=1", "trainer.keep_every_n_steps=7")
    rate = "optimizer.learning_rate=3"
    said = finish(start(f"continue_from={together}", *TWO, *own, *ends, rate))
    assert f"from {together} at step 12 of 12, with its moments" in said
    assert "ended early, after step 15 of 30" in said
    assert metrics(tmp_path / "run")["best_step"] == 12
    assert min(curves(tmp_path / "run")["val/loss"]) == 12
    assert [path.name for path in (tmp_path / "run" / "models").iterdir()] == ["step_000014"]
    expected = load_file(together / "models" / "step_000012" / "model.safetensors")
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")  # what it began with
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_two_processes_have_the_gradients_and_weights_of_one(together, alone):
    """AdamW's first moment is the gradients' running mean, so it tells of all steps."""
    one, two = saved(alone), saved(together)
    assert two["global_step"] == one["global_step"] == 12
    assert two["state_dict"].keys() == one["state_dict"].keys()

    def moments(checkpoint):
        """By shape and size: the two engines number the parameters otherwise."""
        (optimizer,) = checkpoint["optimizer_states"]
        tensors = [state["exp_avg"] for state in optimizer["state"].values()]
        return sorted(tensors, key=lambda t: (tuple(t.shape), float(t.abs().sum())))

    for ours, theirs in zip(moments(two), moments(one), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, atol=2e-4, rtol=1e-3, msg=name)
    best = [load_file(run / "model" / "model.safetensors") for run in (together, alone)]
    assert best[0].keys() == best[1].keys()
    for name, weight in best[1].items():
        torch.testing.assert_close(best[0][name], weight, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_speed_is_of_all_processes(together, alone):
    counted = [
        next(v for k, v in saved(run)["callbacks"].items() if "TrainingLog" in k)["num_tokens"]
        for run in (together, alone)
    ]
    assert counted[0] == counted[1]


@pytest.mark.slow
def test_each_rank_has_random_numbers_of_its_own(together):
    first, second = saved(together)["ranks"]
    assert not torch.equal(first["torch"], second["torch"])


@pytest.mark.slow
def test_they_leave_one_run_and_speak_with_one_voice(sweep):
    folder, said = sweep
    for job, strategy in enumerate(STRATEGIES):
        run = folder / str(job)
        processes = {path.name.split(".")[-2] for path in event_files(run)}
        assert len(processes) == 1  # the writer's
        log = (run / "train.log").read_text()
        for once in (f"2 x cpu, 32-true, {strategy}", "talk to it", "warning: only"):
            assert log.count(once) == 1, once
        assert f"{job}  finished" in said
    assert "talk to it" not in said
    written = {"multirun.yaml", "sweep.json", "results.csv", "sweep.png"}
    assert {p.name for p in folder.iterdir()} == {"0", "1"} | written


@pytest.mark.slow
def test_a_run_of_two_that_was_interrupted_ends_as_one_that_was_not(sweep, tmp_path):
    uncut = sweep[0] / "0"
    killed = rewound(uncut, tmp_path / "killed")
    assert "2 x cpu" in finish(start(f"resume={killed}"))
    assert_same_run(killed, uncut)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.mark.whole
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_with_dropout_under_torchrun_too(strategy, corpora, tmp_path):
    own = (*LAYOUT, "micro_batch_size=2", "model.dropout=0.1", f"trainer.strategy={strategy}")
    torchrun = (*TORCHRUN, "src.train")
    uncut = tmp_path / "uncut"
    finish(start(*own, corpora, f"hydra.run.dir={uncut}", launcher=torchrun))
    killed = rewound(uncut, tmp_path / "killed")
    finish(start(f"resume={killed}", launcher=torchrun))
    assert_same_run(killed, uncut)


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_said_once(corpora):
    said = finish(start(*LAYOUT, "batch_size=7", launcher=(*TORCHRUN, "src.train")), code=1)
    assert said.count("error: batch_size=7 cannot be shared by 2 devices") == 1
    assert said.count("Traceback") == 1  # torchrun's own


@pytest.mark.slow
@pytest.mark.parametrize("num_nodes", [whole(1), 2])
def test_sruns_processes_find_each_other(num_nodes, port, alone, corpora, tmp_path):
    """On one machine, or each on one of its own."""
    step = {
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": str(num_nodes),
        "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": str(port),
    }
    own = (*LAYOUT, "micro_batch_size=2", f"trainer.num_nodes={num_nodes}", corpora)
    run = tmp_path / "run"
    tasks = [
        start(
            *own,
            f"hydra.run.dir={run if rank == '0' else tmp_path / 'never'}",
            SLURM_PROCID=rank,
            SLURM_LOCALID=rank if num_nodes == 1 else "0",
            **step,
        )
        for rank in ("1", "0")
    ]
    assert finish(tasks[0]) == ""
    finish(tasks[1])
    assert metrics(run)["val/loss"] == pytest.approx(metrics(alone)["val/loss"], rel=1e-5)
    assert not (tmp_path / "never").exists()


def wait_for_training(process: subprocess.Popen, run: Path) -> None:
    """Return when the first figures of the fit are in the log."""
    log, end = run / "train.log", time.monotonic() + MOST_SECONDS
    while not log.exists() or "/100,000  loss" not in log.read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "strategy"),
    [
        (signal.SIGTERM, "fsdp"),
        whole(signal.SIGINT, "ddp"),
        whole(signal.SIGTERM, "ddp"),
        whole(signal.SIGINT, "fsdp"),
    ],
)
def test_a_signal_to_the_first_stops_all_at_one_step(number, strategy, corpora, tmp_path):
    run = tmp_path / "run"
    own = ("max_steps=100000", "trainer.log_every_n_steps=1", f"trainer.strategy={strategy}")
    started = start(*TWO, *own, corpora, f"hydra.run.dir={run}")
    wait_for_training(started, run)
    started.send_signal(number)
    said = finish(started, code=128 + number)
    assert said.count("stopped at step") == 1
    assert f"stopped at step {saved(run)['global_step']}" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, whole(signal.SIGINT)])
def test_a_signal_to_torchrun_stops_all_at_one_step(number, corpora, tmp_path):
    run = tmp_path / "run"
    own = ("max_steps=100000", "trainer.log_every_n_steps=1")
    launcher = (*TORCHRUN, "src.train")
    started = start(*LAYOUT, *own, corpora, f"hydra.run.dir={run}", launcher=launcher)
    wait_for_training(started, run)
    started.send_signal(number)
    said = finish(started, code=1)
    assert f"stopped at step {saved(run)['global_step']}" in said


@pytest.mark.whole
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_micro_batches_that_are_empty_everywhere_change_nothing(strategy, corpora, tmp_path):
    """Some ten blocks in a batch of 64: the last micro-batches of each step hold none."""
    own = ("data.max_rows=12", "batch_size=64", "max_steps=4", corpora)
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(*LAYOUT, "micro_batch_size=64", *own, f"hydra.run.dir={one}"))
    finish(start(*TWO, f"trainer.strategy={strategy}", *own, f"hydra.run.dir={two}"))
    assert metrics(two)["val/loss"] == pytest.approx(metrics(one)["val/loss"], rel=1e-5)


@pytest.mark.whole
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_two_that_diverges_says_so_once(strategy, corpora, tmp_path):
    own = ("optimizer.learning_rate=1e20", "optimizer.warmup_steps=0", "max_steps=60")
    own = (*own, f"trainer.strategy={strategy}")
    said = finish(start(*TWO, *own, corpora, f"hydra.run.dir={tmp_path}"), code=2)
    assert said.count("error: ") == 1
    assert "the gradient has not been finite" in said
    assert "Traceback" not in said


@pytest.mark.whole
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_a_compiled_model_is_sharded_too(precision, alone, corpora, tmp_path):
    own = ("trainer.strategy=fsdp", "trainer.compile=true", f"trainer.precision={precision}")
    finish(start(*TWO, *own, corpora, f"hydra.run.dir={tmp_path}"))
    assert metrics(tmp_path)["val/loss"] == pytest.approx(metrics(alone)["val/loss"], rel=1e-3)


@pytest.mark.slow
def test_a_process_that_dies_ends_all(corpora, tmp_path):
    own = ("max_steps=100000", "trainer.log_every_n_steps=1")
    started = start(*TWO, *own, corpora, f"hydra.run.dir={tmp_path}")
    wait_for_training(started, tmp_path)
    tasks = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    os.kill(int(tasks[0]), signal.SIGKILL)
    said = finish(started, code=128 + signal.SIGKILL)
    assert said.count("error: the process of rank 1 was ended by SIGKILL") == 1
    assert "Traceback" not in said
