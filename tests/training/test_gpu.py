"""What only a GPU can show of a run: memory, determinism, the sizes that the presets promise."""

import gc
import json
from dataclasses import replace

import pytest
import torch

from src.training.machine import Machine
from src.training.memory import GIB, TrainingStep, choose_micro_batch_size
from src.training.place import Place
from tests.training.conftest import curves, train_config
from tests.training.test_memory import build, step, two_steps
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ERROR = 0.1  # of the estimate, against the allocator's own count
GPU = ("trainer.accelerator=gpu",)


def real_step(described: TrainingStep, num_blocks: int, accumulate: int = 1) -> int:
    """Return the most bytes that the allocator had given out in two whole steps."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model = build(described)
    two_steps(described, model, num_blocks, accumulate, document=128, device="cuda")
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("size", ["gpt2", "gpt2-medium"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize(
    "changes", [{}, {"activation_checkpointing": True}, {"lora_rank": 16}], ids=str
)
@pytest.mark.parametrize("num_blocks", [8])
def test_the_estimate_is_what_the_allocator_counts(size, precision, changes, num_blocks):
    described = step(size, precision=precision, accumulates=False, **changes)
    peak = real_step(described, num_blocks)
    ratio = described.memory(num_blocks).total / peak
    assert abs(ratio - 1) < ERROR, f"estimated {ratio:.3f} of {peak / GIB:.2f} GiB"


@pytest.mark.parametrize(
    ("gigabytes", "overrides"),
    [
        (24, ["experiment=gpt2-xl_24gb"]),
        (40, ["experiment=gpt2-xl_40gb"]),
        (80, ["experiment=gpt2-xl", "hardware=h100"]),
    ],
)
def test_gpt2_xl_makes_a_step_in_the_memory_that_its_preset_names(gigabytes, overrides):
    config, memory = train_config(*overrides), gigabytes * 10**9
    total = torch.cuda.get_device_properties(0).total_memory
    if total < memory:
        pytest.skip(f"needs a card of {gigabytes} GB")
    machine = Machine(Place(), "cuda", 9, memory, "bf16-mixed", "single")
    shape = config.model.shape(config.model.vocab_size)
    described = replace(TrainingStep.of(config, machine, shape, 1024), supervised_share=0.6)
    chosen = choose_micro_batch_size(described, memory)
    torch.cuda.set_per_process_memory_fraction(memory / total)
    try:
        real_step(described, chosen, accumulate=2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_ten_steps_of_a_gpu_in_fp32_are_those_of_a_cpu(small_run):
    layout = ("max_steps=10", "trainer.precision=32-true")
    cpu = curves(small_run(*layout, folder="cpu"))
    gpu = curves(small_run(*layout, *GPU, folder="gpu"))
    for tag in ("train/loss", "val/loss", "grad_norm"):
        assert list(gpu[tag].values()) == pytest.approx(list(cpu[tag].values()), rel=1e-3), tag


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_a_run_killed_and_resumed_on_a_gpu_equals_one_that_was_not(
    precision, deterministic, small_run, monkeypatch
):
    chosen = (f"trainer.precision={precision}", f"trainer.deterministic={deterministic}")
    layout = (*LAYOUT, *GPU, *chosen)
    whole = small_run(*layout, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*layout, folder="killed")
    resumed = small_run(*layout, "resume=auto", folder="killed")
    if deterministic == "true":
        assert_same_run(resumed, whole)
    one, other = curves(whole)["train/loss"], curves(resumed)["train/loss"]
    assert list(other.values()) == pytest.approx(list(one.values()), rel=1e-5)


def test_a_first_step_that_has_no_room_is_made_of_smaller_micro_batches(small_run):
    """A card of which next to nothing is free, and a block_size and width that need some."""
    layout = (*GPU, "data.max_rows=2000", "data.block_size=256", "batch_size=64", "max_steps=3")
    layout = (*layout, "model.n_embd=256", "model.n_layer=4", "model.n_positions=256")
    whole = small_run(*layout, "micro_batch_size=1", folder="cut")
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(500 * 10**6 / total)
    try:
        run = small_run(*layout, "micro_batch_size=64", folder="whole")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    used = json.loads((run / "run.json").read_text())["machine"]["micro_batch_size"]
    assert 1 <= used < 64
    one, other = curves(whole)["train/loss"], curves(run)["train/loss"]
    assert list(other.values()) == pytest.approx(list(one.values()), rel=1e-3)
