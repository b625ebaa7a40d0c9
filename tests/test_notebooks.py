"""The notebooks run from top to bottom on a finished quickstart run, and are stored clean."""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from src.evaluation.settings import markdown_table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def execute(name: str, start: str = "notebooks", **environment: Path) -> NotebookNode:
    """Return a notebook after its cells ran, started in a folder of the repository."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, str(value))
        resources = {"metadata": {"path": str(ROOT / start)}}
        return NotebookClient(notebook, timeout=300, resources=resources).execute()


@pytest.fixture(scope="module", params=["notebooks", "."])
def data(request, quickstart_run) -> NotebookNode:
    return execute("01_data", request.param, GPT2_CHAT_RUN=quickstart_run)


@pytest.fixture(scope="module")
def runs(quickstart_run) -> NotebookNode:
    """Trains a sweep of three short runs, and evaluates the quickstart."""
    return execute("02_runs", GPT2_CHAT_RUN=quickstart_run, GPT2_CHAT_SWEEP=quickstart_run)


@pytest.fixture(scope="module")
def talk(quickstart_run) -> NotebookNode:
    return execute("03_talk", GPT2_CHAT_RUN=quickstart_run)


def outputs_of(notebook: NotebookNode, kind: str) -> Iterator[str]:
    """Yield all outputs of a MIME type, or of a stream such as "stdout", in order."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == kind:
                yield output.text
            elif kind in output.get("data", {}):
                yield output.data[kind]


def pictures(notebook: NotebookNode) -> int:
    found = list(outputs_of(notebook, "image/png"))
    assert all(len(picture) > 5_000 for picture in found)
    return len(found)


@pytest.mark.slow
def test_the_data_are_counted_drawn_and_shown(data):
    rows, lengths = outputs_of(data, "text/markdown")
    assert "| tokens taught |" in rows
    names = [line.split("|")[1].strip() for line in lengths.splitlines()[2:]]
    assert names == ["count", "mean", "std", "min", "25%", "50%", "75%", "max"]
    example, block = outputs_of(data, "text/html")
    assert block.count("<li>") > 1
    for shown in (example, block):
        assert "#cfe2ff" in shown, "what is taught"
        assert "#eeeeee" in shown, "what is read"
        assert "#fff3cd" not in shown, "no prompt is scored"
    assert pictures(data) == 2


@pytest.mark.slow
def test_runs_are_drawn_ranked_and_evaluated(runs):
    figures, ranking = outputs_of(runs, "text/markdown")
    assert "| test |" in figures
    assert [line.split("|")[1].strip() for line in ranking.splitlines()[2:]] == ["1", "2", "3"]
    assert "optimizer.learning_rate" in ranking.splitlines()[0]
    assert "loss (nats a token)" in "".join(outputs_of(runs, "stdout"))
    assert pictures(runs) == 4


@pytest.mark.slow
def test_talking_answers_questions_and_shows_what_attention_sees(talk):
    said = "".join(outputs_of(talk, "stdout"))
    for question in ("What is the capital of France?", "And of Spain?", "What did I just ask?"):
        answer = said.split(f"{question}\n", maxsplit=1)[1].splitlines()[0]
        assert answer.strip()
    assert "temperature=1.5, top_p=0.9, seed=1" in said
    assert pictures(talk) == 5


@pytest.mark.slow
def test_they_warn_of_nothing(data, talk):
    for notebook in (data, talk):
        assert not list(outputs_of(notebook, "stderr"))


@pytest.mark.slow
def test_the_ablations_are_shown_from_the_figures_that_are_kept():
    notebook = execute("04_ablations")
    single, grid = outputs_of(notebook, "text/markdown")
    assert "data.isolate_documents=false data.reset_positions=false" in single
    assert "batch_size=16" in grid
    assert pictures(notebook) == 2


def test_the_table_of_the_readme_is_that_of_the_figures():
    kept = json.loads((FOLDER / "ablations" / "results.json").read_text(encoding="utf-8"))
    table = "\n".join(markdown_table(kept["settings"]))
    assert table in (FOLDER / "README.md").read_text(encoding="utf-8")
