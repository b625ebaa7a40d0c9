"""The host hears of skipped steps in time, and waits for a device as seldom as it can."""

from types import SimpleNamespace

import pytest

from src.errors import UserError
from src.training.finite import MAX_SKIPPED, MAX_UNHEARD, SkippedSteps, check_figures
from tests.training.conftest import curves
from tests.training.test_sft import poison


class Count:
    """A count on a device that takes its time; to read it is to wait for the device."""

    def __init__(self, value: int, kind: str, reads: list[int]):
        self.device = SimpleNamespace(type=kind)
        self.value, self.reads = value, reads

    def __int__(self) -> int:
        self.reads.append(self.value)
        return self.value


def stops_at(counts: list[int], kind: str) -> tuple[int | None, list[list[int]]]:
    """Return the step at which a run would stop, and what was read at each step."""
    skipped, read = SkippedSteps(), []
    for step, count in enumerate(counts, 1):
        read.append([])
        skipped.send(step, Count(count, kind, read[-1]))
        heard = dict(skipped.heard())
        if any(value >= MAX_SKIPPED for value in heard.values()):
            return step, read
    return None, read


@pytest.mark.parametrize("kind", ["cpu", "mps"])
@pytest.mark.parametrize("good", [0, 1, 7, 30])
def test_it_is_heard_in_time(kind, good):
    counts = [0] * good + list(range(1, 100))
    assert stops_at(counts, kind)[0] == good + MAX_SKIPPED


def test_a_device_is_waited_for_only_when_it_is_long_done():
    """The step that is read is one that ended ``MAX_UNHEARD`` steps before."""
    skipped, reads = SkippedSteps(), []
    for step in range(1, 50):
        skipped.send(step, Count(0, "mps", reads))
        assert [s for s, _ in skipped.heard()] == ([step - MAX_UNHEARD] if step > 10 else [])
    assert [s for s, _ in skipped.heard(wait=True)] == list(range(40, 50))


def test_a_figure_that_is_not_finite_is_refused():
    check_figures({"val/loss": 1.5, "num_steps": 3})
    with pytest.raises(UserError, match="test/loss is nan"):
        check_figures({"val/loss": 1.5, "test/loss": float("nan")})


def test_a_skipped_step_is_no_part_of_the_training_figures(small_run, monkeypatch):
    """Three steps a log: the mean of a window is that of the steps that were learned from."""
    plain = curves(small_run("trainer.log_every_n_steps=1", folder="plain"))["train/loss"]
    with monkeypatch.context() as patch:
        poison(patch, {11})
        found = curves(small_run("trainer.log_every_n_steps=3", folder="poisoned"))["train/loss"]
    assert found.keys() == {3, 6, 9, 12}
    tokens_differ = 0.05  # the plain mean of means is not the mean
    assert found[12] == pytest.approx((plain[10] + plain[11]) / 2, rel=tokens_differ)


def test_where_all_steps_were_skipped_there_is_no_loss(small_run, monkeypatch):
    poison(monkeypatch, {3})
    found = curves(small_run())
    assert found["train/loss"].keys() == set(range(1, 13)) - {4}
    assert found["train/skipped_steps"][4] == 1
