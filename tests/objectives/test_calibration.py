"""The calibration error and its picture."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.objectives.calibration import Calibration, bin_sums, calibration_error
from src.training.objective import Best


def sums_of(margins, weights=None):
    margins = torch.tensor(margins)
    found = bin_sums(margins, torch.ones_like(margins) if weights is None else weights)
    return {name: float(value) for name, value in found.items()}


def test_chances_that_come_true_have_no_error():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 40_000)
    chosen = np.where(rng.random(true.size) < 1 / (1 + np.exp(-true)), true, -true)
    assert calibration_error(sums_of(chosen.astype(np.float32))) < 0.01
    assert calibration_error(sums_of((3 * chosen).astype(np.float32))) > 0.1  # too sure


def test_it_is_the_mean_distance_of_bins_of_both_choices():
    rng = np.random.default_rng(1)
    margins = rng.normal(0.3, 1, 200).astype(np.float32)
    both = np.concatenate([margins, -margins])
    chance = 1 / (1 + np.exp(-both))
    right = np.concatenate([np.ones(200), np.zeros(200)])
    bins = (chance * 10).astype(int)
    expected = sum(
        abs((chance - right)[bins == n].sum()) for n in range(10) if (bins == n).any()
    ) / len(both)
    assert calibration_error(sums_of(margins)) == pytest.approx(expected, abs=1e-5)


def module_with(value, margins):
    from src.objectives.reward import RewardModule

    module = RewardModule.__new__(RewardModule)
    torch.nn.Module.__init__(module)
    module.latest, module.validated = {"val/loss": value}, sums_of(margins)
    return module


def test_the_picture_is_of_the_best_validation_and_survives_a_resume(tmp_path):
    trainer = SimpleNamespace(loggers=[], global_step=0)
    calibration = Calibration(Best("val/loss"))
    assert not calibration.draw(tmp_path / "none.png")
    for value, margins in ((0.7, [0.1, -0.1]), (0.5, [2.0, 2.0, -2.0]), (0.6, [1.0])):
        calibration.on_validation_end(trainer, module_with(value, margins))
    again = Calibration(Best("val/loss"))
    again.load_state_dict(calibration.state_dict())
    assert again.value == 0.5
    assert np.array(again.bins)[0].sum() == pytest.approx(3)
    assert again.draw(tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
