"""What a search ends with is read by people: few digits, no gaps, and what is true of it."""

import json
from dataclasses import replace

import pytest

from src.sweeps.outcomes import Results, open_sweep
from src.sweeps.ranking import conclusions
from src.sweeps.state import SWEEP, read_sweep, write_sweep
from src.sweeps.table import axis_texts, result_lines
from tests.sweeps.conftest import BS, LR, made_up

pytest.importorskip("optuna", reason="needs the extra sweep: pip install '.[sweep]'")

from src.sweeps.grid import asked
from src.sweeps.job import own_values
from src.sweeps.optuna_record import OPTUNA

RATES = (0.0010316502966612453, 0.005759260289995299, 0.02951763447574129, 0.0140)


@pytest.fixture
def search(tmp_path) -> Results:
    """Four runs of a search of two keys, the last of them pruned."""
    values = [{LR: lr, BS: bs} for lr, bs in zip(RATES, (8, 4, 2, 8), strict=True)]
    folder = made_up(tmp_path / "s", values, (3.0, 2.0, 1.0, 4.0), (1000, 1000, 1000, 200))
    sweep = read_sweep(folder)
    status = folder / sweep.jobs[-1].folder / "status.json"
    pruned = {"reason": "pruned at step 2: behind the others"}
    status.write_text(json.dumps(json.loads(status.read_text()) | pruned))
    (folder / SWEEP).unlink()
    write_sweep(folder, replace(sweep, kind=OPTUNA))
    return open_sweep(folder)


def test_a_search_shows_few_digits_and_no_grid_of_gaps(search):
    assert search.outcomes[0].values[LR] == RATES[0]  # what is computed with has all digits
    assert axis_texts(search, [RATES[0], RATES[2]]) == ["0.00103", "0.0295"]
    text = "\n".join(result_lines(search))
    assert " 0.0295 " in text
    assert "lr down, bs across" not in text


def test_a_run_that_was_pruned_is_not_said_to_have_seen_fewer_tokens_for_its_values(search):
    assert "the tokens of" not in " ".join(conclusions(search))


def test_a_value_that_equals_one_that_the_search_replaces_is_the_runs_own(tmp_path):
    typed = ["batch_size=4", "seed=7", "batch_size=choice(2, 4)", f"hydra.sweep.dir={tmp_path}"]
    sweep = asked("train", ["-m", "sweep=optuna", *typed]).sweep
    run = [text for text in sweep.fixed if "batch_size" not in text]
    values = own_values([*run, "batch_size=4", "optimizer.learning_rate=0.001"], sweep)
    assert values == {BS: 4, LR: 0.001}
