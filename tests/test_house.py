"""Who may import whom: the rooms of the house keep to themselves."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
GROUND_FILES = {
    *("__init__", "adaptation", "address", "checks", "control_groups", "download", "downloader"),
    *("errors", "free_cores", "free_memory", "free_threads", "hub", "openmp", "own_function"),
    *("phases", "progress", "shared_cores", "signals", "streams"),
}
DOORS = {path.stem for path in (ROOT / "src").glob("*.py")} - GROUND_FILES
GROUND = {"talk", "data", "model"}
ROOM_MAY_IMPORT = {
    "wording": set(),
    "files": set(),
    "command": set(),
    "data": set(),
    "model": set(),
    "talk": {"data", "model"},
    "evaluation": GROUND,
    "training": {"evaluation", *GROUND},
    "objectives": {"training", "evaluation", *GROUND},
    "sweeps": {"training", "evaluation", "command"},
    "records": {"training", *GROUND},
    "inspection": {"data"},
    "ranking": GROUND,
    "rlhf": {"ranking", "training", "evaluation", "command", *GROUND},
    "terminal": GROUND,
    "page": {"ranking", *GROUND},
    "serving": GROUND,
    "exporting": GROUND,
    "benchmark": {"objectives", "training", "evaluation", "exporting", *GROUND},
}
SHARED = {"wording", "files", *GROUND_FILES}
MAY_IMPORT_HYDRA = {"sweeps", "command"}
MAY_IMPORT_LIGHTNING = {"src/data/datamodule.py"}
LIGHTNING_ROOMS = {"training", "objectives", "benchmark"}
WEB_LIBRARIES = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_core"}
WEB_ROOMS = {"serving", "page"}
BINARY = ("rb", "wb", "ab", "rb+", "r+b")
MAY_IMPORT_DOORS = {
    "src/api.py": {"train"},  # its calls are doors of Python
    "src/rlhf/__main__.py": {"api", "rank"},  # it goes through one after another
}
ROOM_DOORS = {"src/benchmark/__main__.py", "src/rlhf/__main__.py"}  # that stand in their rooms


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_room_imports_only_what_lies_below_it(path):
    parts = path.relative_to(ROOT / "src").parts
    ours = {module.split(".")[1] for module in imports(path) if module.startswith("src.")}
    assert not ours & DOORS - MAY_IMPORT_DOORS.get(name(path), set()), "nothing imports a door"
    if len(parts) > 1 and name(path) not in ROOM_DOORS:
        assert ours <= {parts[0]} | ROOM_MAY_IMPORT[parts[0]] | SHARED
        is_hydra = any(module.split(".")[0] == "hydra" for module in imports(path))
        assert not is_hydra or parts[0] in MAY_IMPORT_HYDRA
    web = WEB_LIBRARIES & {module.split(".")[0] for module in imports(path)}
    assert not web or parts[0] in WEB_ROOMS
    lightning = any(module.split(".")[0] == "lightning" for module in imports(path))
    assert not lightning or parts[0] in LIGHTNING_ROOMS or name(path) in MAY_IMPORT_LIGHTNING


def test_no_file_imports_itself_by_way_of_others():
    files = {module_name(path): path for path in SOURCES}
    graph = {module: imports(path) & files.keys() for module, path in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_one_idea(path):
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long to read in one go"


@pytest.mark.parametrize(
    "door",
    [
        "src.chat, src.terminal.terminal",
        "src.serve, src.serving.app, src.serving.server",
        "src.web, src.page.server",
    ],
)
def test_talk_starts_without_what_only_training_needs(door):
    code = (
        f"import sys, {door}, src.talk.assistant, src.talk.model_folder;"
        "slow = {'lightning', 'datasets', 'transformers', 'tensorboard', 'matplotlib'};"
        "print(sorted(slow & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("door", "mistake"),
    [
        ("src.chat", "num_answers=0"),
        ("src.chat", "top_p=2"),
        ("src.serve", "port=-1"),
        ("src.serve", "generation.top_p=2"),
        ("src.web", "max_queue=0"),
    ],
)
def test_a_mistake_in_the_config_is_said_before_torch_is_imported(door, mistake):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", door, mistake],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "omegaconf" in imported  # the list is there
    assert not imported & {"torch", "numpy", "tokenizers", "transformers", "fastapi", "starlette"}


def test_yaml_holds_values_and_python_builds_objects():
    for path in (ROOT / "conf").rglob("*.yaml"):
        text = path.read_text()
        assert "_target_" not in text, path
        assert "_partial_" not in text, path


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_of_text_says_that_it_is_utf_8(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = ast.unparse(node)
        reads = called.endswith((".read_text", ".write_text")) and not called.startswith("atomic.")
        opens = called == "open" or (called.endswith(".open") and called != "os.open")
        if re.search(r"\b(text|stored|self|archive)\.open$|^zipfile\.|^(bz2|lzma)\.open$", called):
            continue  # a method of ours, or of bytes
        is_text = not any(f"{quote}{mode}{quote}" in given for quote in "'\"" for mode in BINARY)
        if reads or (opens and is_text and "corpus" not in called.lower()):
            assert "encoding=" in given, f"line {node.lineno}: {given}"
