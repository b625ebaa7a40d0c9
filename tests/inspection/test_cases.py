"""The rows that people have are read as the table beside them says.

The table stands outside this repository (see its README): without it these tests are skipped.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src.command.cli import CONF, composable
from src.errors import UserError
from src.inspect_data import inspect_data

CASES = Path(__file__).parents[3] / "shared/cases"
TABLE = CASES / "cases.jsonl"
LINES = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
ROWS = [json.loads(line) for line in LINES]
THROUGH_THE_DOOR = {"columns_blank", "strange_name", "tool_calls", "broken_stop"}
KEYS = ("system", "opening", "turns", "taught")

pytestmark = pytest.mark.skipif(not ROWS, reason=f"{TABLE} is not there")


def arguments(case: dict) -> list[str]:
    """What a person types, after the shell has read it."""
    path = [] if case["path"] is None else [f"data.path={CASES / case['path']}"]
    overrides = [override.replace("{here}", str(CASES)) for override in case["overrides"]]
    return ["data=file", *path, *overrides, "format=json"]


def check(case: dict, output: str) -> None:
    *conversations, last = [json.loads(line) for line in output.splitlines()]
    read = [{key: conversation[key] for key in KEYS} for conversation in conversations]
    assert read == case["conversations"]
    report = last["report"]
    assert sum(report["dropped"].values()) == case["dropped"]
    for word in case["says"]:
        assert word in json.dumps(report, ensure_ascii=False)


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case["name"])
def test_a_case_gives_what_its_table_says(case, capsys):
    typed = composable(arguments(case))
    if case["path"] is not None:
        path = str(CASES / case["path"]).replace("'", "\\'")
        typed[1] = f"data.path='{path}'"
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("inspect_data", typed)
    if case["error"] is None:
        inspect_data(config)
        check(case, capsys.readouterr().out)
        return
    with pytest.raises(UserError) as caught:
        inspect_data(config)
    for word in case["error"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "case", [c for c in ROWS if c["name"] in THROUGH_THE_DOOR], ids=lambda case: case["name"]
)
def test_the_door_gives_the_same(case):
    command = [sys.executable, "-m", "src.inspect_data", *arguments(case)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=CONF.parent, timeout=60
    )
    if case["error"] is None:
        assert done.returncode == 0, done.stderr
        check(case, done.stdout)
        return
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    for word in case["error"]:
        assert word in done.stderr
