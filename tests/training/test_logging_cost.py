"""Logging costs at most a hundredth of the steps, even where they are short."""

import statistics
import time

import pytest

from src.training.log import TrainingLog
from src.training.module import TrainingModule
from src.training.start import start_run
from tests.training.conftest import settings

pytestmark = pytest.mark.whole

NUM_STEPS = 60


def test_logging_costs_a_hundredth_of_the_steps_between_two_logs(tmp_path, monkeypatch):
    """The quickstart, whose steps are short; every other step is logged, and all in one process.

    What is counted is this thread's own time, for the machine may do other things meanwhile.
    """
    steps: dict[bool, list[float]] = {True: [], False: []}
    logging: dict[bool, list[float]] = {True: [], False: []}
    last = 0.0
    original = TrainingLog.on_train_batch_end

    def hook(self, trainer, module, *args):
        nonlocal last
        assert isinstance(module, TrainingModule)
        is_due = trainer.global_step % 2 == 0
        module.log_every_n_steps = 1 if is_due else 10**9
        begin = time.thread_time()
        original(self, trainer, module, *args)
        end = time.thread_time()
        logging[is_due].append(end - begin)
        steps[is_due].append(end - last)
        last = end

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", hook)
    overrides = (
        *("experiment=quickstart", f"max_steps={NUM_STEPS}", "data.max_rows=3000"),
        *("generation.max_new_tokens=1", "exact_match=false", "micro_batch_size=64"),
        *(f"trainer.val_every_n_steps={NUM_STEPS}", f"data.corpus_dir={tmp_path / 'corpora'}"),
    )
    run = tmp_path / "run"
    run.mkdir()
    start_run(*settings(*overrides), run, list(overrides))
    cost = statistics.median(logging[True]) - statistics.median(logging[False])
    step = statistics.median(steps[False])
    config, _ = settings(*overrides)
    every = config.trainer.log_every_n_steps
    print(
        f"logging takes {1e3 * cost:.3f} ms, a step {1e3 * step:.1f} ms: {cost / step:.2%} if each "
        f"step is logged, {cost / step / every:.3%} with one of {every}, as in the quickstart"
    )
    assert len(steps[True]) > NUM_STEPS / 3
    assert 0 < cost / every < 0.01 * step
