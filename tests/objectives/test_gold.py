"""The labeller's true opinion is told beside a run; it chooses nothing in it."""

import ast
from itertools import count
from pathlib import Path

import pytest

from src.data.sample.labeller import Verdict
from src.objectives import OBJECTIVES, policy_answers
from src.objectives.policy_figures import JUDGED, NAMES, policy_figures
from tests.objectives.test_ppo import PPO_RUN, run  # noqa: F401
from tests.training.conftest import curves, metrics, small_run  # noqa: F401

ROOT = Path(__file__).parents[2]
LABELLER = "src.data.sample.labeller"

# Those that tell it: an evaluation, who ranks, and a policy whose person asks for it as its reward.
MAY_ASK = {
    "src/evaluation/judges.py",
    "src/ranking/labellers.py",
    "src/objectives/rewards.py",
    "src/objectives/policy_answers.py",  # a figure beside the others, by what rewards.py asks
    "src/rlhf/reward_figures.py",
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_figure_that_chooses_weights_is_none_of_gold(name):
    assert OBJECTIVES[name].best.figure.partition("/")[2] not in JUDGED


def test_what_chooses_weights_is_the_same_whatever_the_labeller_says():
    sums = dict.fromkeys(NAMES, 2.0)
    others = sums | dict.fromkeys(JUDGED, -50.0)
    one, other = (policy_figures(each, kl_price=0.1) for each in (sums, others))
    assert {name for name in one if one[name] != other[name]} == set(JUDGED)


def test_a_run_ends_with_the_same_weights_whatever_the_labeller_says(run, monkeypatch):  # noqa: F811
    folders = {}
    for name, falls in (("rising", False), ("falling", True)):
        numbers = count()

        def says(asked, reply, ended, numbers=numbers, falls=falls):
            number = next(numbers)
            return Verdict(not falls, False, falls, True, number if falls else -number)

        monkeypatch.setattr(policy_answers, "verdict", says)
        more = ("max_steps=8", "optimizer.learning_rate=3e-2", "trainer.val_every_n_steps=2")
        folders[name] = run(*PPO_RUN, *more, folder=name)
    one, other = folders.values()
    assert curves(one)["val/gold"] != curves(other)["val/gold"]
    assert curves(one)["val/objective"] == curves(other)["val/objective"]
    assert metrics(one)["best_val/objective"] == metrics(other)["best_val/objective"]
    weights = [(folder / "model/model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]


def imports(tree: ast.AST, package: str) -> set[str]:
    """Return the dotted names of modules, and of what is in them, that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # as importlib takes it
    return found


def asks(text: str, package: str) -> bool:
    """Whether a file imports the labeller, or from rewards.py what asks it."""
    found = imports(ast.parse(text), package)
    return LABELLER in found or "src.objectives.rewards.verdict" in found


@pytest.mark.parametrize(
    "line",
    [
        "from src.data.sample.labeller import judge",
        "from src.data.sample import labeller",
        "import src.data.sample.labeller as opinion",
        "from ..data.sample.labeller import judge",
        "from ..data.sample import labeller",
        "def ask():\n    from src.data.sample.labeller import judge",
        "importlib.import_module('src.data.sample.labeller')",
        "from src.objectives.rewards import verdict",
        "from .rewards import verdict",
    ],
)
def test_whoever_asks_the_labeller_is_seen(line):
    assert asks(line, "src.objectives")
    assert not asks("from src.objectives.rewards import Rewards", "src.objectives")


def test_nobody_else_asks_the_labeller():
    asking = set()
    for path in (ROOT / "src").rglob("*.py"):
        place = path.relative_to(ROOT)
        if asks(path.read_text(encoding="utf-8"), ".".join(place.parent.parts)):
            asking.add(str(place))
    assert asking == MAY_ASK
