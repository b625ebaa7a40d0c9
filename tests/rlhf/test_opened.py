"""A complete pipeline is opened, tabulated, drawn and told."""

import json

import numpy as np
import pytest

from src.errors import UserError
from src.records.runs import find_runs
from src.rlhf.evaluation import peak_figures
from src.rlhf.opened import open_rlhf
from src.rlhf.report import rows_of
from src.rlhf.reward_figures import gold_figures, reward_figures
from src.training.curves import Curve
from tests.test_notebooks import execute, outputs_of, pictures


@pytest.mark.slow
def test_a_pipeline_is_opened(folder):
    pipeline = open_rlhf(folder)
    assert pipeline.steps == ["sft", "rank", "reward", "dpo", "ppo", "rloo"]
    assert pipeline.place("ppo").name == "5_ppo"
    assert pipeline.picture.is_file()
    lines = pipeline.table().splitlines()
    assert lines[0].startswith("| step | gold |")
    assert len(lines) == 7  # header, rule, five policies
    assert len(pipeline.replies().splitlines()) == 5


def test_its_runs_are_listed_as_those_of_a_sweep(folder):
    (listed,) = find_runs(folder)
    names = [run.folder.name for run in listed.jobs]
    assert names == ["1_sft", "3_reward", "4_dpo", "5_ppo", "6_rloo"]
    assert {run.state for run in listed.jobs} == {"finished"}


def test_one_that_is_not_complete_is_refused(folder, tmp_path):
    (tmp_path / "rlhf.json").write_bytes((folder / "rlhf.json").read_bytes())
    with pytest.raises(UserError, match="is not complete: go on with it"):
        open_rlhf(tmp_path)


def test_the_order_of_gold_is_counted_by_hand():
    rewards = [np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0])]
    golds = [np.array([2.0, 2.0, 3.0]), np.array([0.0, 1.0])]
    found = gold_figures(rewards, golds)
    # Of the first prompt two pairs differ in gold, both the other way round; the second is a tie.
    assert found["gold_order"] == pytest.approx((0 + 0.5) / 2)
    assert found["gold_correlation"] < 0
    assert gold_figures([np.array([1.0, 2.0])], [np.array([1.0, 1.0])])["gold_order"] is None


def test_the_rewards_are_those_of_the_run_itself(folder):
    """Of the test rankings, by our own reading of them: the labeller's pairs as the run scored."""
    run = json.loads((folder / "3_reward/metrics.json").read_text(encoding="utf-8"))
    found = reward_figures(
        folder / "3_reward/reward_model", folder / "2_rank/test.jsonl", run, noise=1.0
    )
    assert found["accuracy"] == run["test/accuracy"]
    assert 0.5 <= found["accuracy_ceiling"] <= 1


def test_the_peak_of_gold_is_found_with_the_reward_there():
    steps = [0, 4, 8, 12]
    curves = {
        "gold": Curve(steps, [0.0, 1.5, 1.0, -0.5]),
        "reward": Curve(steps, [0.1, 0.9, 1.7, 2.5]),
    }
    assert peak_figures(curves) == {
        "val_gold_peak": 1.5,
        "val_gold_end": -0.5,
        "val_reward_at_peak": 0.9,
        "val_reward_end": 2.5,
    }
    assert peak_figures({}) == {}


def test_a_cell_of_the_table_is_empty_where_there_is_no_figure():
    metrics = {"sft.gold": 0.5, "sft.gold_greedy": None, "sft.kl": 0.0}
    header, row = rows_of({"metrics": metrics, "figures": {"sft": {}}})
    assert dict(zip(header, row, strict=True))["gold"] == "+0.50"
    assert dict(zip(header, row, strict=True))["greedy"] == ""


@pytest.mark.whole
def test_the_notebook_shows_it(folder):
    notebook = execute("05_preferences", GPT2_CHAT_RLHF=folder)
    table, replies = outputs_of(notebook, "text/markdown")
    assert "| best of 2 |" in table
    assert "| question | sft | dpo | ppo | rloo |" in replies
    assert "accuracy_ceiling" in "".join(outputs_of(notebook, "stdout"))
    assert pictures(notebook) == 3
    assert not list(outputs_of(notebook, "stderr"))
