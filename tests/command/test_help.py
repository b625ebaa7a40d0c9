"""``--help`` of each door: what it does, five examples, its groups, its keys and their comments."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.command import assignments, flags
from src.command.cli import CONF
from src.command.conf_text import door_text, key_names, options
from src.command.help import help_lines
from src.command.overrides import readable
from src.training.plan import flat

ROOT = Path(__file__).parents[2]
DOORS = sorted(path.stem for path in CONF.glob("*.yaml"))
FREE_TEXT = ("prompt", "system", "api_key", "allow_origins")


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("typed", [["--help"], ["seed=3", "-h"], ["help"]])
def test_every_door_has_help(door, name, typed):
    def job(config):
        raise AssertionError("the job runs")

    code, out, err = door(job, name, *typed)
    text = door_text(name)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in out
    assert lines[0].startswith(text.sentences[0][:60])
    assert len(text.examples) == 5
    assert all(f"  {command}" in out for command, _ in text.examples)
    for group in text.groups.values():
        assert f"  {group.name}=" in out
        assert set(group.options) <= set(re.split(r"[=|\s]+", out))
    for key in text.keys:
        assert re.search(rf"^  {re.escape(key)}( |$)", out, re.MULTILINE), key
    assert "Hydra" not in out


@pytest.mark.parametrize("name", DOORS)
def test_the_keys_are_those_that_hydra_composes(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        values = OmegaConf.to_container(compose(name), resolve=False)
    found = door_text(name).keys
    composed = flat(values)
    assert found.keys() == composed.keys()
    for key, value in composed.items():
        if found[key].value[:1] == "[" and not isinstance(found[key].value, str):
            continue
        if isinstance(value, list) and any(" " in str(item) for item in value):
            continue  # of a list in lines, the help says how long it is
        written = OmegaConf.create(f"key: {found[key].value}")
        assert OmegaConf.to_container(written, resolve=False)["key"] == value, key


@pytest.mark.parametrize("name", DOORS)
def test_the_comments_are_those_of_the_files(name):
    """A key that is in one file only has its comment from there, word for word."""
    text = " ".join(path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml"))
    words = " ".join(text.replace("#", " ").split())
    for key in door_text(name).keys.values():
        assert " ".join(key.comment.replace("#", " ").split()) in words
    for group in door_text(name).groups.values():
        assert group.comment, f"{group.name}: say in {name}.yaml what it chooses"
        assert group.comment in words


def test_a_comment_goes_on_below_and_a_heading_is_for_what_follows(tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "group/base.yaml").write_text("x: 1  # of base\ny: 2  # of base, too\n")
    (tmp_path / "group/one.yaml").write_text("defaults: [base, _self_]\nx: 3\ny: 4  # of one\n")
    (tmp_path / "door.yaml").write_text(
        "# What it does.\n"
        "#   python -m src.door key=1   # an example\n"
        "#   python -m src.door 'key=#2'\n"
        "defaults:\n"
        "  - group: one   # which\n"
        "  - _self_\n"
        "\n"
        "# Of both keys.\n"
        "key: '#1'   # begins here\n"
        "            # and ends here\n"
        "other: {a: 1, b: [2, 3]}   # of both\n"
        "inner:      # a section\n"
        "  deep: null\n"
    )
    text = door_text("door", tmp_path)
    assert text.sentences == ["What it does."]
    assert text.examples == [
        ("python -m src.door key=1", "an example"),
        ("python -m src.door 'key=#2'", ""),
    ]
    assert [(g.name, g.options, g.default, g.comment) for g in text.groups.values()] == [
        ("group", ("one",), "one", "which")
    ]
    assert [(k.name, k.value, k.comment, k.notes) for k in text.keys.values()] == [
        ("key", "'#1'", "begins here and ends here", ("Of both keys.",)),
        ("other.a", "1", "", ("other: of both",)),
        ("other.b", "[2, 3]", "", ()),
        ("inner.deep", "null", "", ("inner: a section",)),
        ("group.x", "3", "of base", ()),
        ("group.y", "4", "of one", ()),
    ]


EXAMPLES = [(name, command) for name in DOORS for command, _ in door_text(name).examples]


@pytest.mark.parametrize(("name", "command"), EXAMPLES)
def test_every_example_is_a_command_of_a_door(name, command):
    *_, words = [part for part in _parts(shlex.split(command)) if "-m" in part]
    module = words[words.index("-m") + 1]
    name = module.removeprefix("src.")
    line = flags.read(words[words.index(module) + 1 :])
    if name in ("sweep", "runs"):
        line = line.with_key("folder")
    assignments.check(line, name, FREE_TEXT)
    groups = door_text(name).groups
    for argument in line.others:
        key, equals, value = argument.partition("=")
        if not equals:
            continue
        assert key in (*groups, *key_names(name)), argument
        assert key not in groups or value in options(key)
    assert readable(line.arguments()) == readable(readable(line.arguments()))


def _parts(words: list[str]) -> list[list[str]]:
    """Return the commands of a pipe."""
    ends = [-1, *(i for i, word in enumerate(words) if word == "|"), len(words)]
    return [words[start + 1 : end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("width", [50, 72, 100])
def test_words_are_wrapped_at_any_width(width):
    for name in DOORS:
        lines = list(help_lines(door_text(name), width))
        too_long = [line for line in lines if len(line) > width and " " in line.strip()]
        commands = [line for line in too_long if "python -m" in line]
        assert too_long == commands


def test_headings_are_bold_at_a_terminal_only(monkeypatch):
    from src.command import help as page

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert page._is_bold(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not page._is_bold(Terminal())
    bold = list(help_lines(door_text("chat"), 100, bold=True))
    plain = list(help_lines(door_text("chat"), 100))
    assert [re.sub("\x1b.*?m", "", line) for line in bold] == plain
    assert "\x1b[1mExamples\x1b[0m" in bold


@pytest.mark.parametrize("name", ["train", "chat", "evaluate", "benchmark"])
def test_help_is_said_before_torch_is_imported(name):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"src.{name}", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "omegaconf" in imported  # the list is there
    assert not imported & {"torch", "lightning", "transformers", "datasets", "fastapi"}
