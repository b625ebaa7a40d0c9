"""The notebooks run from top to bottom on a finished quickstart run, and are stored clean."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST_LOOK = ROOT / "notebooks" / "01_first_look.ipynb"


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


@pytest.fixture(scope="module", params=["notebooks", "."])
def first_look(request, quickstart_run) -> NotebookNode:
    """The first notebook after its cells ran, started in either folder."""
    notebook = nbformat.read(FIRST_LOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_CHAT_RUN", str(quickstart_run))
        folder = str(ROOT / request.param)
        resources = {"metadata": {"path": folder}}
        return NotebookClient(notebook, timeout=300, resources=resources).execute()


def outputs_of(notebook: NotebookNode, kind: str) -> Iterator[str]:
    """Yield all outputs of a MIME type, or of a stream such as "stdout", in order."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == kind:
                yield output.text
            elif kind in output.get("data", {}):
                yield output.data[kind]


@pytest.mark.slow
def test_first_look_describes_the_lengths(first_look):
    (table,) = outputs_of(first_look, "text/markdown")
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names == ["count", "mean", "std", "min", "25%", "50%", "75%", "max"]


@pytest.mark.slow
def test_first_look_draws_its_pictures(first_look):
    lengths, curves, families = outputs_of(first_look, "image/png")
    assert min(map(len, (lengths, curves, families))) > 5_000


@pytest.mark.slow
def test_first_look_shows_what_is_taught(first_look):
    (block,) = outputs_of(first_look, "text/html")
    assert block.count("<li>") > 1
    assert "#cfe2ff" in block
    assert "#eeeeee" in block


@pytest.mark.slow
def test_first_look_answers_three_questions(first_look):
    *_, said = outputs_of(first_look, "stdout")
    for question in ("What is the capital of France?", "And of Spain?", "What did I just ask?"):
        answer = said.split(f"{question}\n", maxsplit=1)[1].splitlines()[0]
        assert answer.strip()


@pytest.mark.slow
def test_first_look_warns_of_nothing(first_look):
    assert not list(outputs_of(first_look, "stderr"))
