"""Any text that a person types after a key arrives as it is, and what we print can be pasted."""

import json
import os
import random
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.command.cli import CONF, task_overrides
from src.command.overrides import readable
from src.errors import UserError
from src.train import recorded, resume_arguments
from src.training.record import read_record
from src.wording.command_line import command, grammatical, option, quoted, unquoted

ODD = [
    "rows (1) = 数据, it's #1.jsonl",
    "outputs/train/2026_lr=1e-4,bs=4/model",
    "réponse (final)",
    "a b",
    " both ends ",
    r"C:\data\(new)\rows.jsonl",
    r"\\server\share",
    'say "it\'s"',
    "${nothing}",
    r"\${nothing}",
    "$HOME `id` $(id) !x",
    "%20 #5; & | > <",
    "[a, b",
    "{a}, {b}",
    "rows[0-9]*.jsonl",
    "1e3",
    "007",
    "-1_000",
    "true",
    "nan",
    ".5",
    "~no such person",
    "trailing\\",
    "new\nline",
    "choice(a,b)",
    "🙂",
]


def composed(*arguments: str, name: str = "train", multirun: bool = False):
    given = readable([*(["-m"] if multirun else []), *arguments])[multirun:]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, given)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ODD)
def test_a_path_and_a_column_have_any_characters(text, here):
    keys = ("data.path", "data.corpus_dir", "model.pretrained", "model.tokenizer", "resume")
    config = composed(*(f"{key}={text}" for key in keys), f"+data.columns.prompt={text}")
    assert [OmegaConf.select(config, key) for key in keys] == [text] * len(keys)
    assert config.data.columns.prompt == text


@pytest.mark.parametrize("text", ODD)
def test_a_command_that_we_print_can_be_pasted(text):
    printed = command("chat", model_path=text, data__path=text)
    assert printed.startswith("python -m src.chat model_path=")
    words = shlex.split(printed)[3:]
    assert len(words) == 2
    for arguments in (words, readable(words)):  # by Hydra alone, and by our door
        parsed = [OverridesParser.create().parse_override(word) for word in arguments]
        assert [OmegaConf.create({"k": each.value()}).k for each in parsed] == [text, text]
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {option('key', text)}"], capture_output=True, check=True
    )
    assert shell.stdout.decode() == f"key={grammatical(text)}\0"


def test_any_text_can_be_quoted_and_is_the_same_again():
    draw = random.Random(1)
    parse = OverridesParser.create().parse_override
    for _ in range(500):
        text = "".join(draw.choices("ab1.\\'\"${}x, =()#%[]é\n\t", k=draw.randrange(9)))
        text = text.replace("$", "${") if draw.random() < 0.3 else text
        for value in (quoted(text), grammatical(text)):
            read = OmegaConf.create({"k": parse(f"k={value}").value()}).k
            assert (read, unquoted(value)) == (text, text)
        assert readable([f"data.columns.a={grammatical(text)}"]) == [
            f"data.columns.a={grammatical(text)}"
        ]


def test_plain_paths_are_printed_plainly():
    assert command("chat", model_path="outputs/train/a-1/model") == (
        "python -m src.chat model_path=outputs/train/a-1/model"
    )


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("data.path=[a (1).jsonl,b.jsonl]", ["a (1).jsonl", "b.jsonl"]),
        ("data.path=[x,y.jsonl, z.jsonl]", ["x,y.jsonl", "z.jsonl"]),  # there is an x,y.jsonl
        ("data.path=['a, b', \"c\"]", ["a, b", "c"]),
        ("data.path=[]", []),
        ("data.path='a (1)'", "a (1)"),
        ("data.path=null", None),
        ("data.path=", ""),
        ("data.path=a\\,b", "a,b"),  # Hydra's own escape
        ("data.path=x,y.jsonl", "x,y.jsonl"),
        ("data.path=~/rows", os.path.expanduser("~/rows")),
        ("data.path=${data.corpus_dir}/rows", "outputs/corpora/rows"),
        ("data.path=${oc.env:FOLDER}/rows", "/here/rows"),
        ("data.train_split=train[:10%]", "train[:10%]"),
        ("+data.columns={prompt: ma question (1), response: b}", None),
        ("sample_prompts=[What's up? (1),b]", ["What's up? (1)", "b"]),
    ],
)
def test_what_hydra_reads_already_means_what_it_meant(argument, value, here, monkeypatch):
    monkeypatch.setenv("FOLDER", "/here")
    (here / "x,y.jsonl").touch()
    if "columns" in argument:
        config = composed(argument)
        assert config.data.columns == {"prompt": "ma question (1)", "response": "b"}
        return
    assert OmegaConf.select(composed(argument), argument.partition("=")[0]) == value


def test_a_list_of_objects_holds_any_paths():
    (argument,) = readable(["+data.sources=[{path: a (1).jsonl, weight: 2}, {path: hub/name}]"])
    parsed = OverridesParser.create().parse_override(argument).value()
    assert parsed == [{"path": "a (1).jsonl", "weight": 2}, {"path": "hub/name"}]


def test_a_file_that_is_there_wins(here):
    for name in ("null", "~home", "'a'", "[a]", "a,b", "${seed}"):
        (here / name).touch()
        expected = "./~home" if name == "~home" else name
        assert composed(f"data.path={name}").data.path == expected
        assert readable(["-m", f"data.path={name}"]) == [
            "-m",
            f"data.path={grammatical(expected)}",
        ]


def test_a_comma_parts_values_in_a_sweep_only(here):
    (here / "a,b").touch()
    given = ["data.path=a,b", "data.path=a (1),c", "model.pretrained=choice(a,b)", "seed=1,2"]
    assert readable(given) == [
        'data.path="a,b"',
        'data.path="a (1),c"',
        'model.pretrained="choice(a,b)"',
        "seed=1,2",
    ]
    assert readable(["-m", *given])[1:] == [
        'data.path="a,b"',
        'data.path="a (1)",c',
        "model.pretrained=choice(a,b)",
        "seed=1,2",
    ]


def test_other_keys_say_by_their_type_what_is_wrong(door):
    from src import train

    code, _, err = door(train.train, "train", "seed=1 (or 2)")
    assert (code, err.count("\n")) == (2, 1)
    assert "seed: Value '1 (or 2)'" in err


def test_a_run_folder_has_no_interpolation_in_its_name():
    with pytest.raises(UserError, match=r"hydra.run.dir=.*choose another"):
        readable(["hydra.run.dir=out/${x}"])
    assert readable(["hydra.run.dir=out/${now:%Y}"]) == ["hydra.run.dir=out/${now:%Y}"]


def test_flags_and_their_values_stay():
    arguments = ["--config-dir", "a=b (c)", "--cfg", "job", "~stop", "What is it?"]
    assert readable(arguments) == arguments


def test_the_runs_of_a_sweep_get_what_was_typed(door, tmp_path):
    seen = []

    def job(config):
        seen.append((config.seed, config.data.path, config.data.columns, task_overrides()))

    given = ["seed=1,2", f"data.path={ODD[0]}", "+data.columns.prompt=\\${x} (1)"]
    (tmp_path / ODD[0]).touch()  # so that its comma parts nothing
    code, _, err = door(job, "train", "-m", *given)
    assert (code, err) == (0, "")
    assert [(seed, path) for seed, path, *_ in seen] == [(1, ODD[0]), (2, ODD[0])]
    for seed, path, columns, overrides in seen:  # what a later time composes of them
        again = composed(*overrides)
        assert (again.seed, again.data.path, again.data.columns) == (seed, path, columns)


@pytest.mark.parametrize("text", ODD)
def test_a_run_of_any_name_and_any_rows_goes_on(text, here):
    if "${" in text:
        pytest.skip("Hydra makes no such folder")
    folder = here / "runs" / text
    folder.mkdir(parents=True)
    record = {"settings": {}, "machine": {}, "config": {"data": {"path": text}}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    for name in (str(folder), grammatical(folder)):
        arguments = resume_arguments(readable([f"resume={name}", "seed=3"]))
        assert readable(arguments) == arguments
        values = {}
        for argument in arguments:
            override = OverridesParser.create().parse_override(argument)
            values[override.key_or_group] = OmegaConf.create({"k": override.value()}).k
        assert values["resume"] == values["hydra.run.dir"] == str(folder)
        assert values["seed"] == 3
        empty = OmegaConf.create({"data": {"path": None}})
        config = recorded(empty, read_record(folder).config, ["seed=3"])
        assert config.data.path == text
