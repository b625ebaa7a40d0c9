"""The training step: cut any way the gradient is the same, and so is every logged figure."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.loss import supervised_loss
from src.objectives.sft import SFTModule
from src.training.log import TrainingLog
from src.training.run import Run
from tests.model.conftest import tiny_config
from tests.training.conftest import SMALL, curves, metrics, train_config


@pytest.fixture
def first_gradient(monkeypatch):
    """Keeps the gradient of each run's first optimizer step, before clipping."""
    kept = {}
    original = SFTModule.configure_gradient_clipping

    def hook(self, optimizer, **options):
        if self.trainer.global_step == 0:
            kept.update({n: p.grad.clone() for n, p in self.model.named_parameters()})
        original(self, optimizer, **options)

    monkeypatch.setattr(SFTModule, "configure_gradient_clipping", hook)
    return kept


def test_cut_any_way_the_gradient_and_the_figures_are_the_same(quick_run, first_gradient):
    whole = quick_run("micro_batch_size=8", folder="1x8")
    expected = dict(first_gradient)
    for micro in (4, 1):
        cut = quick_run(f"micro_batch_size={micro}", folder=f"{8 // micro}x{micro}")
        for name, gradient in first_gradient.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)
        for tag in ("train/loss", "train/accuracy", "val/loss", "grad_norm", "lr"):
            one, other = curves(whole)[tag], curves(cut)[tag]
            assert one.keys() == other.keys()
            found = list(other.values())
            assert found == pytest.approx(list(one.values()), rel=1e-3, abs=1e-4), tag
        for key in ("val/loss", "best_val/loss", "test/loss"):
            assert metrics(cut)[key] == pytest.approx(metrics(whole)[key], rel=1e-4)


def test_the_gradient_is_that_of_the_mean_over_the_global_batch(
    small_run, first_gradient, monkeypatch
):
    """Against a loss written out in full: every example alone, all logits, one mean."""
    seen = {}
    execute = Run.execute

    def keep(self):
        seen["model"] = GPT2(self.module.model.config)
        seen["model"].load_state_dict(self.module.model.state_dict())
        seen["data"] = self.data
        return execute(self)

    monkeypatch.setattr(Run, "execute", keep)
    small_run("micro_batch_size=2", "max_steps=1", "optimizer.warmup_steps=0")
    model, data = seen["model"], seen["data"]
    batches = data._micro_batches(data.splits["train"], train=True)
    blocks = batches.blocks
    losses = []
    for block in batches.global_batch(0):
        for kept in blocks.packing[block]:
            example = blocks.corpus.example(blocks.corpus_index[kept])
            ids = torch.tensor(example.input_ids[: blocks.lengths[kept]].astype(int))
            logits = model.logits(model(ids[None]))[0, :-1]
            taught = torch.tensor(example.supervised[1 : len(ids)])
            losses.append(F.cross_entropy(logits, ids[1:], reduction="none")[taught])
    torch.cat(losses).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            first_gradient[name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name
        )


def test_every_average_is_a_sum_over_a_count(small_run, monkeypatch):
    """One log line over 12 steps equals the mean over all their tokens, not over the steps."""
    seen = []
    original = SFTModule.training_step

    def hook(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        seen.append((float(loss) * batch["denominator"], len(batch["labels"])))
        return loss

    monkeypatch.setattr(SFTModule, "training_step", hook)
    run = small_run("trainer.log_every_n_steps=12")
    losses, counts = zip(*seen, strict=True)
    assert len(set(counts)) > 1
    assert curves(run)["train/loss"] == {12: pytest.approx(sum(losses) / sum(counts), rel=1e-5)}


def test_the_short_last_batch_of_an_epoch_is_a_step_of_its_own(small_run):
    run = small_run("data.max_rows=30", "batch_size=4", "micro_batch_size=2", "max_steps=8")
    assert len(curves(run)["train/loss"]) == 8


@pytest.mark.parametrize("micro", [8, 2])
def test_a_batch_larger_than_the_data_computes_no_empty_micro_batch(
    micro, small_run, first_gradient, monkeypatch, caplog
):
    """Some 5 blocks in a batch of 64: the gradient is that of a batch of as many."""
    seen = []
    original = GPT2.forward

    def forward(self, input_ids, *args, **options):
        if torch.is_grad_enabled():
            seen.append(len(input_ids))
        return original(self, input_ids, *args, **options)

    monkeypatch.setattr(GPT2, "forward", forward)
    own = ("data.max_rows=5", "max_steps=3", "data.block_size=128")
    with caplog.at_level("INFO"):
        small_run(*own, "batch_size=64", f"micro_batch_size={micro}", folder="large")
    large, expected = list(seen), dict(first_gradient)
    num_blocks = int(re.search(r"more than the (\d+) training blocks", caplog.text)[1])
    assert f"there are {num_blocks} blocks, so that every step has all of them" in caplog.text
    assert sum(large) < 3 * (num_blocks + micro)
    assert len(large) == 3 * -(-num_blocks // large[0])
    seen.clear()
    caplog.clear()
    small_run(*own, f"batch_size={num_blocks}", "micro_batch_size=1", folder="equal")
    assert "training blocks" not in caplog.text
    for name, gradient in first_gradient.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


def test_the_report_tells_the_tokens_of_a_step_and_of_the_last(small_run, caplog):
    with caplog.at_level("INFO"):
        run = small_run("data.max_rows=5", "max_steps=3", "data.block_size=128", "batch_size=64")
    (text,) = re.findall(r"about (\S+) tokens;", caplog.text)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    counted = checkpoint["callbacks"]["TrainingLog"]["num_tokens"]
    assert counted == 3 * int(text.replace(",", ""))
    caplog.clear()
    with caplog.at_level("INFO"):
        small_run("max_steps=1", folder="other")
    blocks = int(re.search(r"blocks     (\d+) train", caplog.text)[1])
    assert f"the last of each epoch has {blocks % 8} blocks" in caplog.text


@pytest.mark.parametrize("num_steps", [9, 19])
def test_it_is_validated_at_most_ten_times(num_steps, quick_run):
    run = quick_run(f"max_steps={num_steps}", "trainer.val_every_n_steps=null", "sample_prompts=[]")
    steps = curves(run)["val/loss"].keys() - {0}  # 0: before training
    assert max(steps) == num_steps
    assert len(steps) <= 10
    assert len(steps) >= 9


def test_the_logged_rate_is_that_of_the_step(quick_run, monkeypatch):
    used = []
    original = SFTModule.configure_gradient_clipping

    def hook(self, optimizer, **options):
        used.append(optimizer.param_groups[0]["lr"])
        original(self, optimizer, **options)

    monkeypatch.setattr(SFTModule, "configure_gradient_clipping", hook)
    logged = curves(quick_run())["lr"]
    assert list(logged.values()) == pytest.approx(used)
    assert used[0] > 0


def test_a_forward_pass_has_no_gradients_of_the_step_before(small_run, monkeypatch):
    present = []
    original = SFTModule.training_step

    def look(self, batch, index):
        present.append(any(p.grad is not None for p in self.model.parameters()))
        return original(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", look)
    small_run("micro_batch_size=4", "max_steps=3")
    assert present == [False, True] * 3


def test_gradients_are_clipped_to_the_norm_asked_for(quick_run, monkeypatch):
    norms = []
    original = SFTModule.configure_gradient_clipping

    def hook(self, optimizer, **options):
        original(self, optimizer, **options)
        after = torch.stack([p.grad.norm() for p in self.model.parameters()]).norm()
        norms.append((float(self.grad_norm), float(after)))

    monkeypatch.setattr(SFTModule, "configure_gradient_clipping", hook)
    quick_run("optimizer.max_grad_norm=0.1", "max_steps=3")
    assert all(before > 0.1 and after == pytest.approx(0.1, rel=1e-3) for before, after in norms)
    norms.clear()
    quick_run("optimizer.max_grad_norm=null", "max_steps=3", folder="free")
    assert all(before == pytest.approx(after) for before, after in norms)


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapters",
    [
        (),
        pytest.param(("lora.rank=4", "optimizer.learning_rate=1e-2"), marks=pytest.mark.whole),
    ],
)
def test_a_compiled_model_learns_the_same(adapters, small_run):
    if adapters:
        pytest.importorskip("peft")
    plain = small_run(*adapters, folder="plain")
    compiled = small_run(*adapters, "trainer.compile=true", folder="compiled")
    one, other = curves(plain)["train/loss"], curves(compiled)["train/loss"]
    assert list(other.values()) == pytest.approx(list(one.values()), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_gpu_learns_what_a_cpu_learns(precision, compiled, small_run):
    cpu = small_run(folder="cpu")
    on_gpu = ("trainer.accelerator=gpu", f"trainer.precision={precision}")
    gpu = small_run(*on_gpu, f"trainer.compile={compiled}", folder="gpu")
    one, other = curves(cpu)["val/loss"], curves(gpu)["val/loss"]
    assert list(other.values()) == pytest.approx(list(one.values()), rel=2e-2)


def test_scaled_gradients_are_unscaled_before_they_are_clipped():
    """What fp16 needs; its scaler runs on a CPU too, where Lightning knows no fp16."""
    config = train_config(*SMALL).optimizer
    weights, norms = [], []
    for scale in (None, 2.0**16):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        torch.manual_seed(0)
        module = SFTModule(
            GPT2(tiny_config()), replace(config, warmup_steps=0), num_steps=9, log_every_n_steps=1
        )
        module.trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
        optimizer = module.configure_optimizers()["optimizer"]
        for step in range(3):
            hidden = module.model(torch.arange(step, step + 9)[None])
            loss = supervised_loss(module.model, hidden, torch.arange(9), torch.arange(9)).loss
            scaler.scale(loss * (float("inf") if step == 1 else 1.0)).backward()
            module.configure_gradient_clipping(optimizer)
            norms.append(module.grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert module.num_skipped == 1
        weights.append([parameter.detach().clone() for parameter in module.model.parameters()])
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(norms[3], norms[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_nothing_waits_for_the_gpu_between_log_points(precision, compiled, small_run, monkeypatch):
    log_every, watched = 6, []
    begin, end = TrainingLog.on_train_batch_start, TrainingLog.on_train_batch_end

    def forbid(self, trainer, *rest):
        begin(self, trainer, *rest)
        if trainer.global_step >= log_every:  # all is compiled and allocated
            torch.cuda.set_sync_debug_mode("error")
            watched.append(trainer.global_step)

    def allow(self, trainer, *rest):
        if trainer.global_step % log_every == 0:
            torch.cuda.set_sync_debug_mode("default")
        end(self, trainer, *rest)

    monkeypatch.setattr(TrainingLog, "on_train_batch_start", forbid)
    monkeypatch.setattr(TrainingLog, "on_train_batch_end", allow)
    try:
        small_run(
            "trainer.accelerator=gpu",
            f"trainer.precision={precision}",
            f"trainer.compile={compiled}",
            f"trainer.log_every_n_steps={log_every}",
            f"trainer.val_every_n_steps={log_every}",
            "micro_batch_size=4",
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sorted(set(watched)) == list(range(log_every, 2 * log_every))


def poison(monkeypatch, steps):
    original = SFTModule.training_step

    def hook(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        return loss * float("nan") if self.trainer.global_step in steps else loss

    monkeypatch.setattr(SFTModule, "training_step", hook)


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted(small_run, monkeypatch):
    poison(monkeypatch, {3})
    run = small_run()
    assert curves(run)["train/skipped_steps"][4] == 1
    assert sum(curves(run)["train/skipped_steps"].values()) == 1
    assert math.isfinite(metrics(run)["val/loss"])
    assert metrics(run)["val/loss"] < curves(run)["val/loss"][0]


def test_a_run_that_has_diverged_stops_and_says_what_to_do(small_run, monkeypatch):
    poison(monkeypatch, range(4, 99))
    with pytest.raises(UserError, match=r"not been finite for 20 steps: lower optimizer"):
        small_run("trainer.log_every_n_steps=2", "max_steps=40")
