"""Bits flipped in checkpoints, and checkpoints cut: the newest whole one is used, and said."""

import random
import shutil

import pytest
import torch

from src.errors import UserError
from src.training.checkpoint_file import TRAILER, write
from src.training.checkpoints import find_checkpoint, read_weights, resolve_checkpoint
from tests.faults.conftest import count
from tests.training.conftest import SMALL

DIRECTORY = b"PK\x01\x02"  # begins each of its entries


def state(step: int) -> dict:
    """Return what a training run of a tiny model saves."""
    generator = torch.Generator().manual_seed(step)
    weights = {f"model.h.{i}": torch.randn(16, 16, generator=generator) for i in range(12)}
    moments = {i: {"exp_avg": torch.randn(16, 16, generator=generator)} for i in range(12)}
    return {"state_dict": weights, "optimizer_states": [{"state": moments}], "global_step": step}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2):
        write(state(step), tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path


def assert_noticed(run, content: bytes, caplog, what: object) -> None:
    """Check that a damaged last.ckpt is named, and that the one before it is used instead."""
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(content)
    caplog.clear()
    used = find_checkpoint(run)
    step, weights = read_weights(used)
    expected = state(2 if used == last else 1)
    assert step == expected["global_step"], what
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(weights[name.removeprefix("model.")], tensor), what
    assert str(last) in caplog.text, f"{what}: silent"
    if used == last:  # nothing but its checksum was cut off
        assert "has no checksum" in caplog.text, what
        assert len(content) == last.stat().st_size, what
        return
    with pytest.raises(UserError, match="is damaged") as error:
        resolve_checkpoint(str(last))
    assert "\n" not in str(error.value)


def test_no_flipped_bit_is_silent(run, caplog):
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    random.seed(15)
    start, end = whole.index(DIRECTORY) * 8, (len(whole) - TRAILER) * 8
    aimed = [random.randrange(start, end) for _ in range(126)]
    trailer = [random.randrange(end, len(whole) * 8) for _ in range(count(100, 20))]
    num_others = count(3000, 300) - len(aimed) - len(trailer)
    others = [random.randrange(len(whole) * 8) for _ in range(num_others)]
    for bit in aimed + trailer + others:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        assert_noticed(run, bytes(content), caplog, f"bit {bit}")


def test_no_cut_is_silent(run, caplog):
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    random.seed(16)
    lengths = [0, 1, len(whole) - 1, len(whole) - TRAILER, len(whole) - TRAILER - 1]
    lengths += [random.randrange(len(whole)) for _ in range(count(64, 24) - len(lengths))]
    for length in lengths:
        assert_noticed(run, whole[:length], caplog, f"cut at {length}")
    # A disk may also leave the length, and zeros for what it had not written.
    for length in lengths[: count(16, 4)]:
        content = whole[:length] + bytes(len(whole) - length)
        assert_noticed(run, content, caplog, f"zeros from {length}")


def test_what_is_damaged_is_never_kept_as_the_older_one(run):
    random.seed(17)
    last = run / "checkpoints" / "last.ckpt"
    for step in range(3, 3 + count(60, 20)):
        content = bytearray(last.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        last.write_bytes(content)
        write(state(step), last)
        assert read_weights(last)[0] == step
        assert read_weights(last.with_name("previous.ckpt"))[0] == 1


def weights(path) -> dict[str, torch.Tensor]:
    return read_weights(path)[1]


@pytest.fixture(scope="module")
def whole(doors, tmp_path_factory):
    """A run that has ended, and what it ended with."""
    place = tmp_path_factory.mktemp("whole")
    values = (f"data.corpus_dir={place / 'corpora'}", f"hydra.run.dir={place / 'run'}")
    door = doors.run("train", *SMALL, *values, folder=place)
    assert door.code == 0, door.err
    (place / "run" / "metrics.json").unlink()  # it has not quite ended
    return place / "run"


KINDS = ("bit in the directory", "all", "bit in the data", "cut")


@pytest.mark.parametrize("kind", KINDS[: count(4, 2)])
def test_a_run_goes_on_from_the_one_before_it_and_ends_as_it_would_have(
    doors, whole, tmp_path, kind
):
    shutil.copytree(whole, tmp_path / "run")
    last, previous = (tmp_path / "run" / "checkpoints" / f"{n}.ckpt" for n in ("last", "previous"))
    content = bytearray(last.read_bytes())
    if kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "bit in the data":
        content[len(content) // 2] ^= 1
    else:
        content[content.index(DIRECTORY) + 38] ^= 0x10  # "a folder": torch would read nothing
    last.write_bytes(content)
    if kind == "all":
        previous.write_bytes(b"")
    values = (f"data.corpus_dir={whole.parent / 'corpora'}", f"hydra.run.dir={tmp_path / 'run'}")
    door = doors.run("train", *SMALL, *values, f"resume={tmp_path / 'run'}", folder=tmp_path)
    assert "Traceback" not in door.err
    if kind == "all":
        assert door.code == 2
        line = door.err.splitlines()[-1]
        assert line.startswith("error: run holds no whole checkpoint")
        return
    assert door.code == 0, door.err
    assert f"{last.relative_to(tmp_path)} is damaged" in door.err
    assert "it is replaced, and previous.ckpt stays" in door.err
    for name, tensor in weights(whole / "checkpoints" / "last.ckpt").items():
        assert torch.equal(weights(last)[name], tensor), name
    assert read_weights(previous)[0] < read_weights(last)[0]
