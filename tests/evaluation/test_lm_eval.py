"""lm-evaluation-harness reads the model folder, by the command of the room's README."""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from src.data.conversation import Conversation
from src.evaluation.encoded import encode
from src.evaluation.token_scores import score_tokens
from src.talk.model_folder import load_model_folder

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "src/evaluation/README.md"
TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "### Prompt: {{question}}\\n### Response:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_of_local_rows_has_the_accuracy_of_our_own_scores(runs, tmp_path):
    if find_spec("lm_eval") is None:
        pytest.skip("lm-eval, of the extra eval, is not installed")
    folder = runs() / "model"
    rows = [
        {"question": f"What is {a} + {b}?", "choices": [str(a + b), str(b), "no"], "answer": 0}
        for a in range(1, 5)
        for b in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sums.yaml").write_text(TASK)
    (line,) = (line for line in README.read_text().splitlines() if line.startswith("lm_eval "))
    words = shlex.split(line)
    words[words.index("--tasks") + 1] = "sums"
    words[words.index("--limit") + 1] = "100"
    words = [word.replace("outputs/train/RUN/model", str(folder)) for word in words]
    own = ["--include_path", ".", "--device", "cpu", "--output_path", "out"]
    done = subprocess.run(
        [sys.executable, "-m", *words, *own],
        cwd=tmp_path,
        env=os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "out").rglob("results_*.json")
    accuracy = json.loads(found.read_text())["results"]["sums"]["acc,none"]
    assert accuracy == pytest.approx(np.mean([ours(folder, row) == 0 for row in rows]))


def ours(folder: Path, row: dict) -> int:
    """The choice whose tokens, without an end token, have the least loss."""
    model = load_model_folder(str(folder))
    choices = [Conversation(((row["question"], choice),)) for choice in row["choices"]]
    encoded = encode(choices, model.tokenizer, "responses")
    scores = score_tokens(model.model.eval(), encoded, block_size=128, batch_size=1)
    ids = encoded.corpus.input_ids[encoded.corpus.offsets[scores.row] + scores.position]
    text = scores.where(ids != model.tokenizer.end_id)
    return int(np.argmin(np.bincount(text.row, weights=text.nats)))
