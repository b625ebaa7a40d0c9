"""The notebooks run from top to bottom on a finished quickstart run, and are stored clean."""

import ast
import json
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace

import matplotlib
import nbformat
import pytest
from hydra import compose, initialize_config_dir
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from src.command.overrides import CONF, readable
from src.evaluation.settings import markdown_table
from src.training.machine import Machine
from src.training.memory import TrainingStep, choose_micro_batch_size
from src.training.place import Place
from tests.test_readme import check
from tests.training.conftest import train_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
COLAB = FOLDER / "00_colab.ipynb"


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


def execute(name: str, start: str = "notebooks", **environment: Path) -> NotebookNode:
    """Return a notebook after its cells ran, started in a folder of the repository."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as sockets:
        for key, value in environment.items():
            patch.setenv(key, str(value))
        resources = {"metadata": {"path": str(ROOT / start)}}
        limits = {"timeout": 500, "startup_timeout": 300}  # seconds, on a busy machine
        # Not by TCP: another process may take a port between its choice and the kernel's start.
        own = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        return NotebookClient(notebook, resources=resources, config=own, **limits).execute()


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
