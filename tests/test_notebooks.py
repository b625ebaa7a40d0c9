"""The notebooks run from top to bottom on a finished quickstart run, and are stored clean."""

import ast
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib
import nbformat
import pytest
from hydra import compose, initialize_config_dir
from nbclient import NotebookClient
from nbformat import NotebookNode

from src.overrides import CONF, readable
from src.training.machine import Machine
from src.training.memory import TrainingStep, choose_micro_batch_size
from src.training.place import Place
from tests.test_readme import check
from tests.training.conftest import train_config

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLAB = ROOT / "notebooks" / "00_colab.ipynb"
FIRST_LOOK = ROOT / "notebooks" / "01_first_look.ipynb"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    machine = {"accelerator", "colab"} if path == COLAB else set()  # Colab lends what it asks for
    assert set(notebook.metadata) == {"kernelspec", "language_info"} | machine
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


def cells_of(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def commands_of(path: Path) -> list[str]:
    """Return what the cells and the text tell a shell to start, without the program's name."""
    cells = nbformat.read(path, as_version=4).cells
    return [
        command.strip()
        for cell in cells
        for command in re.findall(
            r"^!gpt2-chat (.*)$" if cell.cell_type == "code" else r"`gpt2-chat ([^`]*)`",
            cell.source,
            re.M,
        )
    ]


@pytest.mark.parametrize("command", commands_of(COLAB))
def test_every_command_for_colab_composes_to_a_checked_config(command):
    door, *arguments = shlex.split(command)
    arguments = [a for a in arguments if not a.startswith("resume=")]  # there is no run here
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check(door, compose(door, readable(arguments)), {})


def test_colab_trains_on_a_t4_without_bf16():
    (line,) = [c for c in commands_of(COLAB) if "experiment=colab" in c]
    config = train_config(*shlex.split(line)[1:])
    assert config.trainer.precision == "16-mixed"
    assert config.name == "first"
    machine = Machine(Place(), "cuda", 7, 15 * 10**9, config.trainer.precision, "single")
    shape = config.model.shape(config.model.vocab_size)
    step = TrainingStep.of(config, machine, shape, shape.n_positions)
    assert choose_micro_batch_size(step, machine.memory) >= 4


def test_what_colab_runs_is_python_or_a_command():
    for cell in cells_of(COLAB):
        lines = [line for line in cell.splitlines() if not line.startswith(("!", "%"))]
        ast.parse("\n".join(lines))


@pytest.mark.slow
def test_the_cells_for_colab_look_at_a_run(quickstart_run, tmp_path, monkeypatch, capsys):
    """Those of Python: the others need a network and a GPU."""
    shutil.copytree(quickstart_run, tmp_path / "outputs" / "train" / "colab")
    monkeypatch.chdir(tmp_path)
    downloads: list[str] = []
    colab = ModuleType("google.colab")
    colab.files = SimpleNamespace(download=downloads.append)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    matplotlib.use("Agg")
    namespace: dict[str, object] = {}
    for cell in cells_of(COLAB):
        if not re.search(r"^[!%]", cell, re.M):
            exec(cell, namespace)
    assert "test/accuracy" in capsys.readouterr().out
    assert downloads == [str(tmp_path / "gpt2-chat.zip")]
    names = set(zipfile.ZipFile(downloads[0]).namelist())
    assert names >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
