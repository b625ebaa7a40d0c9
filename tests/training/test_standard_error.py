"""A run prints what is ours, on any machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import SMALL

ROOT = Path(__file__).parents[2]
# Lightning asks how many cores there are, and wants them loading batches.
SIXTEEN_CORES = """
import os, runpy, sys
os.sched_getaffinity = lambda process: set(range(16))
os.cpu_count = lambda: 16
sys.argv[0] = "src.train"
runpy.run_module("src.train", run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_prints_no_librarys_warning(tmp_path):
    command = [
        *(sys.executable, "-c", SIXTEEN_CORES, *SMALL, "max_steps=2", "sample_prompts=[]"),
        *(f"hydra.run.dir={tmp_path / 'run'}", f"data.corpus_dir={tmp_path / 'corpora'}"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stderr
    foreign = [
        line for line in done.stderr.splitlines() if re.search(r"\.py:\d+|Warning|deprecated", line)
    ]
    assert foreign == []
