"""Each run folder says in ``status.json`` how far its run is, or how it ended."""

import json
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest

from src.errors import UserError
from src.training import lock, status
from src.training.status import StatusFile, read_status


def content(folder):
    return json.loads((folder / "status.json").read_text(encoding="utf-8"))


def test_a_finished_run_says_so_with_its_figures(small_run):
    folder = small_run()
    found = content(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (found["state"], found["reason"], found["exit_code"]) == ("finished", None, 0)
    assert (found["step"], found["num_steps"]) == (12, 12)
    assert found["val/loss"] == metrics["val/loss"]
    assert found["best_val/loss"] == metrics["best_val/loss"]
    assert found["seconds_left"] is None
    assert datetime.fromisoformat(found["updated"]).tzinfo is not None
    assert metrics["num_tokens"] > 0


def test_a_run_that_a_signal_stops_names_it(small_run, monkeypatch):
    from src.training.log import TrainingLog

    original = TrainingLog.on_train_batch_end

    def interrupted(self, trainer, *args):
        original(self, trainer, *args)
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", interrupted)
    found = content(small_run())
    assert (found["state"], found["reason"], found["exit_code"]) == ("stopped", "SIGTERM", 143)
    assert found["step"] == 3

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", original)
    assert content(small_run("resume=auto"))["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (UserError("data.path=x: no such\nfile"), "data.path=x: no such file", 2),
        (MemoryError(), "out of memory: ", 2),
        (OSError(28, "No space left on device", "/there/last.ckpt"), "/there/last.ckpt: No", 2),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", 1),
    ],
    ids=["mistake", "memory", "disk", "bug"],
)
def test_a_run_that_fails_says_why_in_one_line(
    error, reason, code, small_run, tmp_path, monkeypatch
):
    def fail(*_):
        raise error

    monkeypatch.setattr("src.training.start.build_model", fail)
    with pytest.raises(type(error)):
        small_run()
    found = content(tmp_path / "run")
    assert (found["state"], found["exit_code"]) == ("failed", code)
    assert found["reason"].startswith(reason)
    assert "\n" not in found["reason"]


def test_a_loss_that_is_not_finite_is_a_failure(small_run, tmp_path):
    with pytest.raises(UserError):
        small_run("optimizer.learning_rate=1e30", "optimizer.max_grad_norm=null")
    found = content(tmp_path / "run")
    assert (found["state"], found["exit_code"]) == ("failed", 2)
    assert "the gradient has not been finite" in found["reason"]


@pytest.mark.parametrize("first", ["", "import signal; signals.defer(True);"], ids=["1", "2"])
def test_a_process_that_a_signal_ends_at_once_names_it(first, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from src import signals;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from src.training import status, lock; signals.take();"
        f"folder = Path({str(tmp_path)!r}); lock.hold(folder); status.write_begin(folder);"
        f"{first} os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM);"
        "import time; time.sleep(200)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=300)
    assert done.returncode > 128
    found = content(tmp_path)
    assert (found["state"], found["reason"]) == ("stopped", "SIGINT")


def test_a_run_that_nobody_is_at_was_killed(tmp_path):
    StatusFile(tmp_path).write(state="running", step=3, num_steps=9, seconds_left=4.0)
    assert read_status(tmp_path).state == "killed"
    assert read_status(tmp_path).seconds_left is None
    assert lock.hold(tmp_path)
    assert read_status(tmp_path).state == "running"
    lock.release(tmp_path)
    assert read_status(tmp_path).state == "killed"
    (tmp_path / "run.lock").touch()  # what a killed process leaves
    assert read_status(tmp_path).state == "killed"


def test_a_look_at_the_lock_of_another_process_does_not_disturb_it(tmp_path):
    code = (
        "from pathlib import Path; from src.training import lock; import sys, time;"
        f"print(lock.hold(Path({str(tmp_path)!r})), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"True\n"
        assert [lock.is_held(tmp_path) for _ in range(3)] == [True] * 3
        other.communicate(b"")
    assert not lock.is_held(tmp_path)


@pytest.mark.parametrize("text", ['{"state": "running", "step": 7, "num_steps": 7}', '{"state"'])
def test_a_run_that_is_killed_after_its_figures_is_finished(text, tmp_path):
    (tmp_path / "status.json").write_text(text)
    (tmp_path / "metrics.json").write_text("{}")
    found = status.read_status(tmp_path)
    assert (found.state, found.exit_code) == ("finished", 0)


def test_an_older_run_is_finished_if_it_has_its_figures(tmp_path):
    assert read_status(tmp_path) is None
    (tmp_path / "metrics.json").write_text("{}")
    assert read_status(tmp_path).state == "finished"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"state": 3}', '{"state": "asleep"}', "{" * 100_000, "\udcff"],
    ids=range(8),
)
def test_a_file_that_is_no_status_is_none(text, tmp_path):
    (tmp_path / "status.json").write_bytes(text.encode(errors="surrogateescape"))
    assert read_status(tmp_path) is None


def test_a_strangers_values_are_read_as_what_they_should_be(tmp_path):
    values = {
        "state": "failed",
        "reason": "a\nb",
        "step": "x",
        "val/loss": True,
        "num_steps": 1e400,
    }
    (tmp_path / "status.json").write_text(json.dumps(values))
    found = read_status(tmp_path)
    assert (found.reason, found.step, found.val_loss, found.num_steps) == ("a b", 0, None, 0)


def test_updates_cost_a_thousandth_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    write = status.atomic.write_text

    def slow(*args, **options):
        now[0] += 0.02
        write(*args, **options)

    monkeypatch.setattr(status.atomic, "write_text", slow)
    file = StatusFile(tmp_path)
    assert file.is_due
    file.write(step=1)
    now[0] += 19.9
    assert not file.is_due
    now[0] += 0.2
    assert file.is_due


def test_a_status_is_not_written_at_each_step(small_run, monkeypatch):
    written = []
    write, began = StatusFile.write, time.monotonic()
    monkeypatch.setattr(
        StatusFile, "write", lambda self, **k: written.append(k) or write(self, **k)
    )
    small_run("max_steps=40", "trainer.val_every_n_steps=40")
    assert len(written) < 8 + time.monotonic() - began
