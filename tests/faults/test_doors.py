"""The frame itself: a forked door is a door."""

import signal
import time


def test_a_run_ends_by_itself_and_leaves_its_result(train, tmp_path):
    door = train()
    assert door.wait() == 0, door.err
    assert (tmp_path / "run" / "metrics.json").exists()
    assert "talk to it" in door.err


def test_a_mistake_is_one_line(train):
    door = train("batch_size=nine")
    assert door.wait() == 2
    assert door.err.startswith("error: ")


def test_a_killed_run_is_gone(train):
    door = train("max_steps=100000")
    while "run folder" not in door.err:
        assert door.poll() is None
        time.sleep(0.01)
    assert door.kill() == -signal.SIGKILL
