import pytest
import torch

from src.model.gpt2 import GPT2
from src.training.optimizer import build_optimizer, build_schedule, warmup_steps
from tests.model.conftest import tiny_config
from tests.training.conftest import train_config


def learning_rates(steps: list[int], num_steps: int, *overrides: str) -> list[float]:
    config = train_config(*overrides).optimizer
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    schedule = build_schedule(optimizer, config, num_steps)
    (at,) = schedule.lr_lambdas
    return [config.learning_rate * at(step) for step in steps]


def test_the_articles_schedule_as_a_table():
    """hardware a100: 500 steps up to 2.5e-4, a cosine over 40,000 to a tenth, run for 4,000."""
    steps = [0, 250, 500, 2_250, 4_000, 40_000]
    expected = [0.0, 1.25e-4, 2.5e-4, 2.4891206e-4, 2.4566930e-4, 2.5e-5]
    rates = learning_rates(steps, 4_000, "experiment=article_a100")
    assert rates == pytest.approx(expected, rel=1e-5)


def used_rates(num_steps: int, *overrides: str) -> list[float]:
    """The rate of each step of a run, as a share of the peak."""
    config = train_config(*overrides).optimizer
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    schedule = build_schedule(optimizer, config, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"] / config.learning_rate)
        optimizer.step()
        schedule.step()
    return rates


def test_the_first_step_teaches_and_the_last_is_at_a_tenth():
    rates = used_rates(40, "optimizer.warmup_steps=4")
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] < 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert used_rates(3, "optimizer.warmup_steps=0")[0] > 0.5


def test_the_articles_first_step_has_a_rate_of_zero():
    rates = used_rates(600, "experiment=article_a100")
    assert rates[:3] == pytest.approx([0.0, 1 / 500, 2 / 500])
    assert rates[500] == pytest.approx(1.0)


def test_ours_ends_at_a_tenth_where_the_run_ends():
    steps = [0, 50, 100, 550, 1_000]
    rates = learning_rates(steps, 1_000, "optimizer.learning_rate=1e-3")
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 5.5e-4, 1e-4])


@pytest.mark.parametrize(
    ("num_steps", "overrides", "expected"),
    [
        (4_000, ("hardware=a100",), 400),  # at most a tenth of the run
        (10_000, ("hardware=a100",), 500),
        (12_000, ("hardware=2080ti",), 1_000),
        (4_000, ("experiment=article_a100",), 500),  # the article's, whatever the run's length
        (5, ("hardware=a100",), 0),
    ],
)
def test_warmup_is_as_asked_but_at_most_a_tenth_of_the_run(num_steps, overrides, expected):
    assert warmup_steps(train_config(*overrides).optimizer, num_steps) == expected


def test_matrices_decay_and_vectors_do_not():
    model = GPT2(tiny_config())
    optimizer = build_optimizer(model, train_config().optimizer, fused=True)
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert decayed["betas"] == (0.9, 0.95)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in plain["params"]} == {
        n for n in names.values() if n.endswith("bias") or "ln_" in n
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
