"""While a sweep runs, one line a run: in place at a terminal, now and then elsewhere."""

import io
import json
import re

import pytest

from src.sweeps import display
from src.sweeps.display import Display, shortened
from src.sweeps.outcomes import read_results
from src.sweeps.state import read_sweep
from src.sweeps.table import next_lines
from tests.sweeps.conftest import made_up


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write(folder, **values):
    folder.mkdir(exist_ok=True)
    if values["state"] == "finished":
        (folder / "metrics.json").write_text('{"best_val/loss": 1.5, "train_seconds": 3}')
    (folder / "status.json").write_text(json.dumps({"exit_code": 2, **values}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LOOKS", 1000.0)
    values = [{"seed": seed} for seed in range(4)]
    return made_up(tmp_path / "s", values, [2.0, None, "x", None])


def shown(folder, stream, changes) -> str:
    with Display(lambda: read_results(folder, read_sweep(folder)), stream) as shows:
        for change in changes:
            write(folder / change.pop("folder"), **change)
            shows._look()
    return stream.getvalue()


def test_elsewhere_a_line_is_written_when_something_happens(folder, monkeypatch):
    finished = {"folder": "seed1", "state": "finished", "step": 9, "num_steps": 9}
    failed = {"folder": "seed3", "state": "failed", "reason": "no memory"}
    same = {"folder": "seed3", "state": "failed", "reason": "no memory"}
    lines = shown(folder, io.StringIO(), [finished, failed, same]).splitlines()
    assert lines[1:] == [
        "seed1  finished  step 9 of 9  val loss 1.5000  3 s",
        "seed3 failed: no memory",
    ]
    assert lines[0].startswith("4 runs in ")


def test_a_run_that_is_tried_again_and_fails_again_is_said_again(folder):
    again = {"folder": "seed2", "state": "failed", "reason": "x", "updated": "later"}
    assert "seed2 failed: x" in shown(folder, io.StringIO(), [again])


def test_at_a_terminal_the_lines_are_updated_in_place(folder):
    stream = Terminal()
    text = shown(folder, stream, [{"folder": "seed3", "state": "failed", "reason": "no memory"}])
    assert text.count("seed3 failed: no memory") == 1  # above the lines
    assert re.search(r"\x1b\[\d*A|\x1b\[1A", text)  # the cursor goes up
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # and is visible
    last = text[text.rindex("seed0") :]
    assert "seed1  waiting" in last
    assert "3 of 4 runs ended" in last


def test_a_line_that_is_cut_says_so():
    assert shortened("x" * 100, 100) == "x" * 100
    assert shortened("failed: " + "x" * 100, 20) == "failed: xxxxxxxxxxx…"


def test_a_command_that_is_too_long_beside_its_label_stands_below_it(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    long = folder.rename(folder.parent / f"sweep_{'x' * 46}")
    lines = next_lines(read_results(long, read_sweep(long)), [])
    at = lines.index("talk to the best:")
    assert lines[at + 1] == f"  python -m src.chat model_path={long.name}/seed0/model"
    assert max(map(len, lines)) <= 100


def test_nobody_is_sent_to_talk_to_a_reward_model(folder):
    lines = "\n".join(next_lines(read_results(folder, read_sweep(folder)), []))
    assert "talk to the best:" in lines
    (folder / "seed0" / "reward_model").mkdir()
    lines = "\n".join(next_lines(read_results(folder, read_sweep(folder)), []))
    assert "the best reward model:" in lines
    assert "seed0/reward_model" in lines
    assert "src.chat" not in lines
