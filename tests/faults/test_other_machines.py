"""A run goes on with another micro-batch, other devices, other workers, on another processor."""

import json
from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.training.start import start_run
from tests.faults.conftest import FULL
from tests.faults.sameness import assert_same, checkpoint, points
from tests.training.conftest import SMALL, settings
from tests.training.test_resume import Killed, kill_at

# 12 steps of two micro-batches, validated at 5 and 10, saved at 3, 6, 9 and 12 too; no dropout.
LAYOUT = (
    *("trainer.checkpoint_every_n_steps=3", "micro_batch_size=4", "trainer.log_every_n_steps=4"),
    *("trainer.accelerator=cpu", "trainer.precision=auto", "trainer.val_every_n_steps=5"),
)
BF16 = "torch.cpu._is_avx512_bf16_supported"


@pytest.fixture(autouse=True)
def _processor(monkeypatch) -> None:
    """One on which ``auto`` is 32-true."""
    monkeypatch.setattr(BF16, lambda: False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    given = [*SMALL, *LAYOUT, f"data.corpus_dir={folder / 'corpora'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BF16, lambda: False)
        start_run(*settings(*given), folder / "run", given)
    return folder / "run"


def assert_nearly_same(run: Path, whole: Path) -> None:
    """The same order of the same blocks: figures equal to 1e-5, weights as two processes have."""
    one, two = points(whole), points(run)
    assert [point[:2] for point in two] == [point[:2] for point in one]
    for (tag, step, expected), (_, _, value) in zip(one, two, strict=True):
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6), (tag, step)
    weights = checkpoint(run)["state_dict"]
    for name, weight in checkpoint(whole)["state_dict"].items():
        torch.testing.assert_close(weights[name], weight, atol=2e-4, rtol=1e-3, msg=name)


def killed(small_run, monkeypatch, step: int, *overrides: str) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, step, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*LAYOUT, *overrides, folder="run")


@pytest.mark.parametrize(
    ("step", "micro"),
    [(8, 8), (8, 2), (6, 1), (11, 2)] if FULL else [(6, 8)],  # (6, .): after a validation
)
def test_with_another_micro_batch(step, micro, small_run, whole, monkeypatch):
    killed(small_run, monkeypatch, step)
    run = small_run(*LAYOUT, f"micro_batch_size={micro}", "resume=auto", folder="run")
    assert_nearly_same(run, whole)


@pytest.mark.parametrize(("first", "then"), [(0, 2), (2, 0)] if FULL else [(0, 2)])
def test_with_other_workers(first, then, small_run, whole, monkeypatch):
    killed(small_run, monkeypatch, 8, f"data.num_workers={first}")
    run = small_run(*LAYOUT, f"data.num_workers={then}", "resume=auto", folder="run")
    assert_same(run, whole)


@pytest.mark.parametrize("has_bf16", [True, False] if FULL else [True])
def test_on_a_processor_that_would_choose_another_precision(has_bf16, small_run, monkeypatch):
    monkeypatch.setattr(BF16, lambda: has_bf16)
    whole = small_run(*LAYOUT, folder="whole")
    killed(small_run, monkeypatch, 8)
    monkeypatch.setattr(BF16, lambda: not has_bf16)
    assert_same(small_run(*LAYOUT, "resume=auto", folder="run"), whole)


def test_a_precision_that_is_not_here_names_the_way(small_run, monkeypatch, caplog, tmp_path):
    killed(small_run, monkeypatch, 8)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for place in ("machine", "settings"):
        record[place]["precision"] = "16-mixed"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"had precision=16-mixed.*or with trainer\.precision=32"):
        small_run(*LAYOUT, "resume=auto", folder="run")
    own = ("trainer.precision=32-true", "resume=auto")
    run = small_run(*LAYOUT, *own, folder="run")
    assert "warning: that run had precision=16-mixed; 32-true rounds otherwise" in caplog.text
    assert (run / "metrics.json").exists()


def test_a_chosen_micro_batch_is_read_again(small_run, whole, monkeypatch):
    choose = "src.training.plan.choose_micro_batch_size"
    monkeypatch.setattr(choose, lambda *_: 4)
    killed(small_run, monkeypatch, 8, "micro_batch_size=auto")
    monkeypatch.setattr(choose, lambda *_: 1)
    run = small_run(*LAYOUT, "micro_batch_size=auto", "resume=auto", folder="run")
    assert_same(run, whole)


# Each is stopped at so many steps; then the next number of devices goes on.
DEVICES = [((8, 1), (12, 2)), ((8, 2), (12, 1)), ((4, 1), (8, 2), (12, 1))]


@pytest.mark.skipif(not FULL, reason="minutes: make faults")
@pytest.mark.parametrize("parts", DEVICES)
def test_with_other_devices_and_back(parts, whole, train, tmp_path):
    given: tuple[str, ...] = ("trainer.precision=32-true",)
    run = tmp_path / "run"
    for stop, devices in parts:
        last = stop == 12
        micro_batches = 8 // devices // 2  # of two blocks each
        planted = "" if last else f"micro-batch:{_reached(run, stop, micro_batches)}:TERM"
        own = (*LAYOUT, *given, f"trainer.devices={devices}", "micro_batch_size=2")
        environment = {"PLANTED": planted} if planted else {}
        door = train(*own, **environment)
        code = door.wait(300)
        assert code == (0 if last else 143), door.err
        given = ("trainer.precision=32-true", f"resume={run}")
    assert_nearly_same(run, whole)


def _reached(run: Path, step: int, micro_batches: int) -> int:
    """Return how many micro-batches this process has begun when it is in that step."""
    done = checkpoint(run)["global_step"] if (run / "checkpoints").exists() else 0
    return int((step - done - 1) * micro_batches + 1)


def test_processes_that_are_fewer_or_more_share_what_was_saved():
    from src.training.ranks import state_of_rank

    def state(number: int) -> dict:
        generator = torch.Generator().manual_seed(number).get_state()
        return {"torch": generator, "train_metrics": {"loss": torch.tensor(float(number))}}

    two = [state(1), state(2)]
    assert state_of_rank(two, 1, 2) is two[1]
    alone = state_of_rank(two, 0, 1)
    assert float(alone["train_metrics"]["loss"]) == 3
    assert torch.equal(alone["torch"], two[0]["torch"])
    four = [state_of_rank(two, rank, 4) for rank in range(4)]
    assert sum(float(s["train_metrics"]["loss"]) for s in four) == 3
    assert torch.equal(four[1]["torch"], two[1]["torch"])
    assert len({four[2]["seed"], four[3]["seed"]}) == 2
