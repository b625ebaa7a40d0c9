"""What the pages promise is there: every command composes, every file and make target exists."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from src import signals
from src.benchmark.config import BenchmarkConfig
from src.chat import ChatConfig
from src.command import cli, flags
from src.command.cli import CONF, typed
from src.evaluate import EvaluateConfig
from src.export import ExportConfig
from src.inspect_data import InspectConfig
from src.rank import RankConfig
from src.rlhf.config import RLHFConfig
from src.runs import RunsConfig
from src.serving.config import ServeConfig
from src.sweep import SweepConfig
from src.train import read_settings
from src.web import WebConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "[!.]*/README.md", "src/**/README.md")
    for path in ROOT.glob(pattern)
)
ASSETS = ROOT / ".assets"
MAX_LINES = 170  # of the front page
TYPES: dict[str, type] = {
    "benchmark": BenchmarkConfig,
    "chat": ChatConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "inspect_data": InspectConfig,
    "rank": RankConfig,
    "rlhf": RLHFConfig,
    "runs": RunsConfig,
    "serve": ServeConfig,
    "sweep": SweepConfig,
    "web": WebConfig,
}


class Door(NamedTuple):
    """What a door hands to ``run_door``."""

    job: Callable[..., None]
    config_name: str
    free_text: tuple[str, ...] = ()
    join: Callable[[], list[str] | None] = lambda: None
    rewrite: Callable[[list[str]], list[str]] = list
    around: Callable[[list[str]], Any] = nullcontext
    check: Callable[..., object] | None = None
    alone: str = ""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(page: Path) -> list[tuple[str, str]]:
    """Return (module, the rest of its command line) of every ``-m src.*`` of a page."""
    return re.findall(r"-m (src(?:\.\w+)+)([^`\n]*)", page.read_text())


def code(page: Path) -> str:
    """Return what a page shows as code: fenced, indented, or between backticks."""
    fences = re.split(r"^```.*$", page.read_text(), flags=re.M)
    indented = [line for text in fences[::2] for line in re.findall(r"^ {4}.*$", text, re.M)]
    spans = [span for text in fences[::2] for span in re.findall(r"`([^`\n]+)`", text)]
    return "\n".join((*fences[1::2], *indented, *spans))


def words(rest: str) -> list[str]:
    """Return the arguments as a shell hands them over, up to a comment, a pipe or an ``&&``."""
    shell = shlex.shlex(rest, posix=True, punctuation_chars=True)
    shell.whitespace_split = True
    arguments: list[str] = []
    for word in shell:
        if set(word) <= set("();<>|&"):
            break
        arguments.append(word)
    return arguments


def door(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Door:
    """Start the door as ``python -m`` does, up to where it would compose."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    calls: list[Door] = []
    monkeypatch.setattr(cli, "run_door", lambda *a, **options: calls.append(Door(*a, **options)))
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(signals, "take", lambda: None)  # until the process ends, which is ours
    runpy.run_path(str(path), run_name="__main__")
    assert calls, f"{module} is no door"
    return calls[0]


def jobs(config_name: str, overrides: list[str], multirun: bool) -> list[list[str]]:
    """Return the overrides of every run that Hydra would start."""
    if not multirun:
        return [overrides]
    parser = OverridesParser.create()
    plain = [o.input_line for o in parser.parse_overrides(overrides) if not o.is_sweep_override()]
    sweeper = compose(config_name, plain, return_hydra_config=True).hydra.sweeper
    sweep = [f"{key}={values}" for key, values in (sweeper.params or {}).items()]
    every = parser.parse_overrides([*sweep, *overrides])
    return BasicSweeper.split_arguments(every, max_batch_size=None)[0]


def check(config_name: str, config: DictConfig, text: dict[str, str]) -> Any:
    """Return the values with their types and ranges checked, as the door does."""
    if config_name == "train":
        return read_settings(config)
    return typed(TYPES[config_name], config, **text)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No page counts on what lies in the folder of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("page", "module", "rest"),
    [
        pytest.param(page, *line, id=f"{name(page)}: {''.join(line)[:80]}")
        for page in PAGES
        for line in dict.fromkeys(commands(page))
    ],
)
def test_every_command_composes_to_a_checked_config(page, module, rest, monkeypatch):
    arguments = words(rest)
    entry = door(module, arguments, monkeypatch)
    if entry.alone:
        arguments = flags.read(arguments).with_key(entry.alone).arguments()
    text, others = cli._take_free_text(arguments, entry.free_text)
    if not any(argument.startswith("resume=") for argument in others):  # there is no run here
        others = entry.rewrite(cli.readable(cli.composable(others)))
    parsed = get_args_parser().parse_args(others)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for overrides in jobs(entry.config_name, parsed.overrides, parsed.multirun):
            check(entry.config_name, compose(entry.config_name, overrides), text)


def test_the_pages_show_every_door():
    modules = {module for page in PAGES for module, _ in commands(page)}
    doors = {f"src.{path.stem}" for path in CONF.glob("*.yaml")}
    assert doors <= modules


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_is_in_the_makefile(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", code(page))) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_preset_that_a_page_names_is_there(page):
    groups = "|".join(path.name for path in CONF.iterdir() if path.is_dir())
    for group, preset in re.findall(rf"(?<![\w.])({groups})=([\w-]+)", code(page)):
        assert (CONF / group / f"{preset}.yaml").exists(), f"{group}={preset}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_and_every_path_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    for link in links:
        assert re.match(r"https?://", link) or (page.parent / link).exists(), link
    paths = re.findall(r"^((?:src|conf|tests|notebooks|outputs)/[\w./-]*\w/?)$", code(page), re.M)
    for path in paths:
        assert (ROOT / path).exists() or "/NAME" in path, path


def test_the_pictures_of_the_pages_are_those_that_make_pictures_makes():
    made = {f"{name}.png" for name in runpy.run_path(str(ASSETS / "pictures.py"))["PICTURES"]}
    shown = {
        Path(link).name
        for page in PAGES
        for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())
    }
    assert made == shown == {path.name for path in ASSETS.glob("*.png")}


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.png")), ids=name)
def test_a_picture_is_small(path):
    content = path.read_bytes()
    assert len(content) <= 150_000
    assert int.from_bytes(content[16:20], "big") <= 1200  # pixels wide, as a PNG begins


def test_what_is_to_be_changed_is_in_the_file_that_the_table_says():
    """Of each row of the table, every name in backticks stands in one of the row's files."""
    table = (
        (ROOT / "CONTRIBUTING.md").read_text().split("\n## To change", 1)[1].split("\n## ", 1)[0]
    )
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 12
    for row in rows:
        spans = re.findall(r"`([^`]+)`", row)
        paths = [ROOT / span for span in spans if "/" in span]
        texts = [path.read_text() for path in paths if path.is_file()]
        assert texts or any("/NAME" in str(path) and path.parent.is_dir() for path in paths), row
        for symbol in (span for span in spans if "/" not in span):
            assert any(re.search(rf"\b{symbol}\b", text) for text in texts), (symbol, row)


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_LINES
