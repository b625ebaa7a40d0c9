"""NaN and infinity, put where they may come from: none is ever written, and one line says where.

Each run is of seconds, at a real command line, in this process: faults are patched in.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.model.pretrained import save_pretrained
from src.objectives.sft import SFTModule
from src.train import process_arguments, train
from src.training.run import Run
from tests.faults.conftest import count
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import SMALL

NAN, INF = float("nan"), float("inf")
ROW = 33  # of train: which one a broken row is
SHAPE = {"vocab_size": 50257, "n_layer": 1, "n_embd": 16, "n_head": 2}
LORA = ("lora.rank=2", "lora.alpha=4")


@pytest.fixture
def run(door, tmp_path) -> Callable[..., tuple[int, str, Path]]:
    """Train; return exit code, standard error and the run folder."""

    def start(*overrides: str) -> tuple[int, str, Path]:
        folder = tmp_path / "run"
        own = [f"data.corpus_dir={tmp_path / 'corpora'}", f"hydra.run.dir={folder}"]
        arguments = [*SMALL, *own, "trainer.checkpoint_every_n_steps=1", *overrides]
        if any(o.startswith("resume=") for o in overrides):
            arguments = list(overrides)
        code, _, err = door(train, "train", *arguments, rewrite=process_arguments)
        return code, err, folder

    return start


def errors(err: str) -> list[str]:
    """The lines of a message, and of nothing but a message."""
    assert "Traceback" not in err, err
    return [line for line in err.splitlines() if line.startswith("error: ")]


def numbers(value) -> Iterator[float | torch.Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (float, torch.Tensor)):
        yield value


def assert_all_finite(folder: Path) -> list[str]:
    """Look at every number of a run; return the names of the files that were looked at."""
    seen = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".ckpt":
            content = torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":
            content = load_file(path)
        elif path.suffix == ".json":
            content = json.loads(path.read_text())  # reads NaN as one
        else:
            continue
        seen.append(path.name)
        for number in numbers(content):
            assert torch.as_tensor(number).double().isfinite().all(), path
    return seen


def in_sums(monkeypatch, value: float, is_bad: Callable[[SFTModule, dict], bool]) -> None:
    """Add ``value`` to the loss of some micro-batches; its gradient stays finite."""
    original = SFTModule.sums

    def sums(self, batch):
        found = original(self, batch)
        return found._replace(loss=found.loss + value) if is_bad(self, batch) else found

    monkeypatch.setattr(SFTModule, "sums", sums)


def holds_row(row: int, split: str) -> Callable[[SFTModule, dict], bool]:
    """Whether a batch holds a row of a split, by its tokens."""

    def holds(self: SFTModule, batch: dict) -> bool:
        corpus = self.trainer.datamodule.splits[split].corpus
        first, last = corpus.offsets[row : row + 2]
        ids = corpus.input_ids[first : min(last, first + batch["input_ids"].shape[1])]
        ids = torch.from_numpy(ids.astype("int64"))
        return bool((batch["input_ids"].unfold(1, len(ids), 1) == ids).all(-1).any())

    return holds


def from_step(first: int) -> Callable[[SFTModule, dict], bool]:
    return lambda self, batch: self.trainer.state.fn == "fit" and self.trainer.global_step >= first


def in_update(monkeypatch, step: int, value: float) -> None:
    """Make the update of a step too large, though its gradient is finite."""
    original = SFTModule.optimizer_step

    def optimizer_step(self, *args):
        original(self, *args)
        if self.trainer.global_step + 1 == step:
            weight = next(p for p in self.model.parameters() if p.requires_grad)
            weight.data.view(-1)[0] = value

    monkeypatch.setattr(SFTModule, "optimizer_step", optimizer_step)


def base(folder: Path, tokenizer, value: float | None = None) -> tuple[str, ...]:
    """A pretrained folder, perhaps with ``value`` in the middle of a weight; how to train it."""
    model = random_model(tiny_config(**SHAPE))
    if value is not None:
        model.h[0].mlp.c_fc.weight.data[5, 7] = value
    folder.mkdir()
    save_pretrained(model, folder, 50256)
    tokenizer.save(folder)
    return (f"model.pretrained={folder}", f"model.tokenizer={folder}")


@pytest.mark.parametrize("value", [NAN, -INF][: count(2, 1)])
def test_a_loaded_folder(value, run, tmp_path, gpt2_tokenizer):
    code, err, folder = run(*base(tmp_path / "base", gpt2_tokenizer, value))
    (line,) = errors(err)
    assert code == 2
    assert "h.0.mlp.c_fc.weight" in line
    assert str(tmp_path / "base") in line
    assert not list(folder.rglob("*.ckpt"))


@pytest.mark.parametrize("value", [INF, NAN][: count(2, 1)])
def test_every_loss(value, run, monkeypatch):
    """No log point and no save is near, and the run still stops as soon as it promises."""
    steps = []
    in_sums(monkeypatch, value, from_step(4))
    original = SFTModule.training_step

    def count(self, batch, index):
        steps.append(self.trainer.global_step + 1)
        return original(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", count)
    far = ("trainer.log_every_n_steps=90", "trainer.val_every_n_steps=95")
    code, err, folder = run("max_steps=100", *far, "trainer.checkpoint_every_n_steps=80")
    (line,) = errors(err)
    assert code == 2
    assert max(steps) == 24
    assert "at step 24 the gradient has not been finite for 20 steps" in line
    assert "step 5 is skipped" in err
    assert "train row" in err
    assert "model.safetensors" in assert_all_finite(folder)


@pytest.mark.parametrize("step", [12, 6][: count(2, 1)])
def test_every_gradient_of_one_step(step, run, monkeypatch):
    """In the middle, and in the last step: it is skipped, which is said, and the run ends well."""
    original = SFTModule.configure_gradient_clipping

    def clip(self, optimizer, **options):
        if self.trainer.global_step + 1 == step:
            self.model.wpe.weight.grad[3, 4] = NAN
        original(self, optimizer, **options)

    monkeypatch.setattr(SFTModule, "configure_gradient_clipping", clip)
    code, err, folder = run()
    assert (code, errors(err)) == (0, [])
    assert f"step {step} is skipped" in err
    assert "metrics.json" in assert_all_finite(folder)


@pytest.mark.parametrize(("step", "value"), [(12, INF), (6, NAN)][: count(2, 1)])
def test_an_update(step, value, run, monkeypatch):
    with monkeypatch.context() as patch:
        in_update(patch, step, value)
        code, err, folder = run()
    (line,) = errors(err)
    assert code == 2
    assert f"after step {step} the weight wte.weight is not finite" in line
    assert "optimizer.learning_rate" in line
    assert "run/model" in line
    assert assert_all_finite(folder)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step - 1
    assert run(f"resume={folder}")[0] == 0, "without the fault it goes on"
    assert_all_finite(folder)


def test_an_update_of_adapters(run, monkeypatch, tmp_path, gpt2_tokenizer):
    pytest.importorskip("peft")
    in_update(monkeypatch, 6, INF)
    code, err, folder = run(*base(tmp_path / "base", gpt2_tokenizer), *LORA)
    (line,) = errors(err)
    assert code == 2
    assert ".lora_A." in line
    assert assert_all_finite(folder)


@pytest.mark.parametrize("micro_batch_size", [2, 8][: count(2, 1)])
def test_one_row(micro_batch_size, run, monkeypatch):
    in_sums(monkeypatch, NAN, holds_row(ROW, "train"))
    code, err, folder = run(f"micro_batch_size={micro_batch_size}", "max_steps=30")
    (line,) = errors(err)
    assert code == 2
    assert f"train row {ROW} (in block " in line
    assert "'### Prompt: " in line
    assert line.count("train row") == 1
    assert assert_all_finite(folder)


def test_one_row_whose_gradient_alone_is_not_finite(run, monkeypatch):
    holds, original = holds_row(ROW, "train"), SFTModule.sums

    def sums(self, batch):
        found = original(self, batch)
        if self.trainer.state.fn == "fit" and torch.is_grad_enabled() and holds(self, batch):
            # The root of nothing: 0, with an infinite derivative.
            found = found._replace(loss=found.loss + (0 * self.model.wte.weight[0, 0]).sqrt())
        return found

    monkeypatch.setattr(SFTModule, "sums", sums)
    code, err, folder = run("max_steps=30")
    (line,) = errors(err)
    assert code == 2
    assert f"train row {ROW} " in line
    assert assert_all_finite(folder)


@pytest.mark.parametrize("split", ["validation", "test"][: count(2, 1)])
def test_one_row_of_a_held_out_split(split, run, monkeypatch):
    holds = holds_row(1, split)
    in_sums(monkeypatch, INF, lambda self, batch: not self.training and holds(self, batch))
    code, err, folder = run("data.validation_fraction=0.2", "data.test_fraction=0.2")
    (line,) = errors(err)
    assert code == 2
    assert f"{split} row 1 (in block " in line
    assert "metrics.json" not in assert_all_finite(folder)


def test_a_scale_that_is_too_large_is_no_fault(run, monkeypatch):
    """What fp16 needs: a scaler that begins far too high skips steps, and nobody is told."""
    original = Run.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        plugin = self.trainer.precision_plugin
        plugin.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)

    monkeypatch.setattr(Run, "__init__", init)
    code, err, folder = run("trainer.precision=bf16-mixed", "max_steps=30")
    assert (code, errors(err)) == (0, [])
    assert "is skipped" not in err
    assert_all_finite(folder)


def test_numbers_are_found():
    """What the other tests stand on."""
    assert not all(map(math.isfinite, numbers({"a": [{"b": (1.0, NAN)}]})))
