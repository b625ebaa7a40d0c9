"""What shells, disks and locales do to a door: a person reads one line, or nothing."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import streams
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

ROOT = Path(__file__).parents[1]
ODD = "a=1, (b) it's 数"


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / ODD
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128))
    save_model_folder(path, model, tokenizer, greedy(4))
    return path


def shell(line: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a line of bash, in which ``door`` stands for Python's -m and ``"$@"`` for arguments."""
    python = f'door() {{ "{sys.executable}" -m "$@"; }}'
    return subprocess.run(
        ["bash", "-c", f"{python}; {line}", "bash", *arguments],
        capture_output=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        check=False,
        timeout=300,
    )


FULL, CLOSED = "No space left on device", "Bad file descriptor"
ROWS = ("src.inspect_data", "data=sample", "data.max_rows=20", "model=tiny", "num_blocks=0")


@pytest.mark.parametrize(("end", "reason"), [("> /dev/full", FULL), (">&-", CLOSED)])
def test_standard_output_that_takes_nothing_is_one_line(end, reason, folder, tmp_path):
    chat = ("src.chat", f"model_path={folder}", "prompt=Hi", "max_new_tokens=2")
    done = shell(f'door "$@" {end}', *chat, cwd=tmp_path)
    assert done.stderr.decode() == f"error: standard output: {reason}\n"
    assert done.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "reason"),
    [("> /dev/full", FULL), pytest.param(">&-", CLOSED, marks=pytest.mark.whole)],
)
def test_so_it_is_at_the_other_doors(end, reason, folder, tmp_path):
    export = ("src.export", f"model_path={folder}", "output=export", "overwrite=true")
    web = ("src.web", f"model_path={folder}", "port=0")
    pack = ("src.benchmark", "what=pack", "num_rows=64", "seconds=0.1", "repeats=1")
    for arguments in (ROWS, export, web, pack):
        done = shell(f'door "$@" {end}', *arguments, cwd=tmp_path)
        said = done.stderr.decode()
        assert said.endswith(f"error: standard output: {reason}\n"), arguments
        assert "Traceback" not in said
        assert done.returncode == 2


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """There are more rows than a pipe holds: the door cannot end before its reader."""
    rows = ("src.inspect_data", "data=sample", "format=json")
    done = shell('door "$@" | head -1; exit ${PIPESTATUS[0]}', *rows, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (141, b"")


def test_with_all_streams_closed_no_file_gets_their_text(folder, tmp_path):
    arguments = ("src.chat", f"model_path={folder}", "prompt=Hi", "max_new_tokens=2")
    done = shell('door "$@" <&- >&- 2>&-', *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


C = {"LC_ALL": "C", "PYTHONUTF8": "0"}  # Python would see through the first without the second


def test_no_locale_changes_a_text(folder, tmp_path):
    given = ("src.chat", f"model_path={folder}", "max_new_tokens=2", "format=json")
    done = shell(
        'door "$@"', *given, "prompt=Héllo 数", cwd=tmp_path, **C, PYTHONIOENCODING="ascii"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    facts = json.loads(done.stdout)
    assert (facts["prompt"], facts["model"]) == ("Héllo 数", str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "locale",
    [
        C,
        *(
            pytest.param({"PYTHONIOENCODING": name}, marks=pytest.mark.whole)
            for name in ("ascii", "latin-1")
        ),
    ],
)
def test_any_locale_will_do(locale, folder, tmp_path):
    given = ("src.chat", f"model_path={folder}", "max_new_tokens=2", "format=json")
    for line, arguments in (
        ('door "$@"', (*given, "prompt=Héllo 数")),
        ('printf "Héllo 数" | door "$@"', given),
    ):
        done = shell(line, *arguments, cwd=tmp_path, **locale)
        assert (done.returncode, done.stderr) == (0, b"")
        facts = json.loads(done.stdout)
        assert (facts["prompt"], facts["model"]) == ("Héllo 数", str(folder))

    name = f"{ODD}.jsonl"
    (tmp_path / name).write_text('{"prompt": "Frage – 数", "response": "é"}\n', encoding="utf-8")
    rows = ("src.inspect_data", "data=file", f"data.path={name}", "model=tiny")
    more = ("model.vocab_size=257", "data.validation_fraction=0", "data.test_fraction=0")
    done = shell('door "$@"', *rows, *more, cwd=tmp_path, **locale)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_a_file_that_the_system_refuses_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    done = shell('door "$@"', *ROWS, "data.corpus_dir=file", cwd=tmp_path)
    said = b"error: data.corpus_dir=file is a file: name a folder\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full here")
def test_a_log_on_a_full_disk_ends_its_run_and_prints_no_traceback(capfd):
    handler = streams.LogFile("/dev/full", encoding="utf-8")
    log = logging.Logger("on a full disk")
    log.addHandler(handler)
    with pytest.raises(OSError, match="No space left") as error:
        log.warning("text")
    assert error.value.filename == "/dev/full"
    with pytest.raises(OSError, match="No space left"):  # as logging expects it at the end
        handler.close()
    assert capfd.readouterr().err == ""


def test_a_complaint_on_a_full_disk_leaves_the_exit_code():
    code = "from src import streams; import sys; streams.complain('error: x'); sys.exit(2)"
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, check=False)
    assert done.returncode == 2
