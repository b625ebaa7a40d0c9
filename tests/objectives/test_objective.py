"""A second objective is one class and its values: the run asks for nothing else."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from src import objectives
from src.data.batch import Batch
from src.errors import UserError
from src.model.loss import LossSums
from src.objectives.sft import SFT, SFTModule
from src.training.config import ObjectiveConfig
from src.training.objective import Best
from tests.training.conftest import curves, metrics, settings, small_run  # noqa: F401

SMOOTHED = ("objective.name=smoothed", "+objective.smoothing=0.1")


@dataclass
class SmoothedConfig(ObjectiveConfig):
    smoothing: float


class SmoothedModule(SFTModule):
    smoothing: float

    def sums(self, batch: Batch) -> LossSums:
        hidden = self.model(batch["input_ids"], batch["position_ids"], batch["cu_seqlens"])
        rows = hidden.flatten(0, 1)[batch["supervised_index"]]
        scores = self.model.logits(rows).float()
        loss = F.cross_entropy(
            scores, batch["labels"], reduction="sum", label_smoothing=self.smoothing
        )
        right = (scores.argmax(1) == batch["labels"]).sum()
        return LossSums(loss, right, torch.tensor(len(rows)))


class Smoothed(SFT):
    """Label-smoothed SFT whose best weights are those of the highest accuracy."""

    Config = SmoothedConfig
    best = Best("val/accuracy", lower_is_better=False)

    def module(self, model, num_steps):
        module = SmoothedModule(
            model, self.config.optimizer, num_steps=num_steps, log_every_n_steps=1
        )
        module.smoothing = self.config.objective.smoothing
        return module


@pytest.fixture
def smoothed(monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "smoothed", Smoothed)


def test_it_runs_by_its_own_loss_and_keeps_the_weights_of_its_own_figure(
    smoothed,
    small_run,  # noqa: F811
):
    plain = small_run(folder="plain")
    run = small_run(*SMOOTHED, folder="smoothed")
    assert curves(run)["train/loss"][1] != curves(plain)["train/loss"][1]
    accuracies = curves(run)["val/accuracy"]
    best = max(accuracies, key=accuracies.get)
    assert accuracies[metrics(run)["best_step"]] == pytest.approx(accuracies[best])


def test_it_goes_on_as_any_run_does(smoothed, small_run, monkeypatch):  # noqa: F811
    from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at

    whole = small_run(*LAYOUT, *SMOOTHED, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*LAYOUT, *SMOOTHED, folder="killed")
    assert_same_run(small_run(*LAYOUT, *SMOOTHED, "resume=auto", folder="killed"), whole)


def test_its_settings_have_their_own_types(smoothed):
    config, objective = settings(*SMOOTHED)
    assert objective is Smoothed
    assert config.objective == SmoothedConfig("smoothed", 0.1)
    with pytest.raises(Exception, match="smoothing"):
        settings("objective.name=smoothed", "+objective.smoothing=much")


def test_a_setting_that_an_objective_does_not_have_is_named():
    with pytest.raises(UserError, match=r"objective.beta: objective=sft has no such setting"):
        settings("+objective.beta=1")


def test_an_objective_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UserError, match=r"objective.name=rlhf: must be one of sft"):
        settings("objective.name=rlhf")


@pytest.mark.parametrize(
    ("best", "value", "before", "improves"),
    [
        (Best("val/loss"), 1.0, None, True),
        (Best("val/loss"), 1.0, 2.0, True),
        (Best("val/loss"), 2.0, 2.0, False),
        (Best("val/loss"), 9.0, float("nan"), True),
        (Best("val/loss"), float("nan"), 2.0, False),
        (Best("val/accuracy", lower_is_better=False), 0.6, 0.5, True),
        (Best("val/accuracy", lower_is_better=False), 0.4, 0.5, False),
    ],
)
def test_the_best_figure_has_a_direction(best, value, before, improves):
    assert best.improves(value, before) is improves
