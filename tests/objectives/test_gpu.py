"""What only a GPU can show of the objectives that learn from preferences."""

import gc
import math

import pytest
import torch

from src.training import start
from src.training.memory import GIB
from tests.objectives import test_comparison_runs, test_ppo
from tests.objectives.test_comparison_runs import DPO, REWARD, comparisons  # noqa: F401
from tests.objectives.test_ppo import GRPO_RUN, KEPT, PPO_RUN, RLOO_RUN
from tests.training.conftest import curves, small_run  # noqa: F401
from tests.training.test_gpu import ERROR, GPU, real_step
from tests.training.test_memory import step
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
of_comparisons, of_prompts = test_comparison_runs.run, test_ppo.run  # fixtures

EXACT = (*GPU, "trainer.precision=32-true", "trainer.deterministic=true")
POLICY = (*KEPT, "objective.target_kl=1", "optimizer.learning_rate=1e-3")
RUNS = {
    "reward": ("of_comparisons", (*REWARD, *LAYOUT)),
    "dpo": ("of_comparisons", (*DPO, *LAYOUT)),
    "ppo": ("of_prompts", (*PPO_RUN, *POLICY)),
    "rloo": ("of_prompts", (*RLOO_RUN, *POLICY)),
    "grpo": ("of_prompts", (*GRPO_RUN, *POLICY)),
}


@pytest.mark.parametrize("objective", RUNS)
def test_a_run_killed_and_resumed_equals_one_that_was_not(objective, request, monkeypatch):
    fixture, layout = RUNS[objective]
    run = request.getfixturevalue(fixture)
    whole = run(*layout, *EXACT, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            run(*layout, *EXACT, folder="killed")
    assert_same_run(run(*layout, *EXACT, "resume=auto", folder="killed"), whole)


@pytest.mark.parametrize("objective", [REWARD, DPO], ids=["reward", "dpo"])
def test_comparisons_teach_a_gpu_what_they_teach_a_cpu(objective, of_comparisons):
    layout = (*objective, "max_steps=10", "trainer.precision=32-true")
    cpu = curves(of_comparisons(*layout, folder="cpu"))
    gpu = curves(of_comparisons(*layout, *GPU, folder="gpu"))
    for tag in ("train/loss", "val/loss", "grad_norm"):
        assert list(gpu[tag].values()) == pytest.approx(list(cpu[tag].values()), rel=1e-3), tag


@pytest.mark.parametrize("objective", [PPO_RUN, RLOO_RUN], ids=["ppo", "rloo"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_what_is_drawn_on_a_gpu_is_as_likely_as_training_says(objective, precision, of_prompts):
    more = ("max_steps=8", "optimizer.learning_rate=1e-3", f"trainer.precision={precision}")
    curve = curves(of_prompts(*objective, *GPU, *more))
    assert curve["ppo/kl"][0] == pytest.approx(0.0, abs=1e-6)
    assert curve["val/kl"][0] == pytest.approx(0.0, abs=1e-6)
    assert max(curve["ppo/first_ratio_error"].values()) < 1e-6
    gap = 1e-4 if precision == "32-true" else 0.1
    assert max(curve["rollout/logprob_gap"].values()) < gap
    assert all(map(math.isfinite, curve["train/loss"].values()))


@pytest.mark.parametrize("head", ["number", "logprobs"])
@pytest.mark.parametrize("changes", [{}, {"activation_checkpointing": True}], ids=str)
def test_the_estimate_of_comparisons_is_what_the_allocator_counts(head, changes):
    described = step("gpt2", accumulates=False, head=head, **changes)
    peak = real_step(described, num_blocks=8)
    ratio = described.memory(8).total / peak
    assert abs(ratio - 1) < ERROR, f"estimated {ratio:.3f} of {peak / GIB:.2f} GiB"


@pytest.mark.parametrize("objective", [PPO_RUN, RLOO_RUN], ids=["ppo", "rloo"])
@pytest.mark.parametrize(
    "sizes",
    [("objective.num_slots=8", "micro_batch_size=32"), ("objective.num_slots=64",)],
    ids=["learning", "drawing"],
)
def test_a_policy_takes_no_more_than_the_estimate(objective, sizes, of_prompts, monkeypatch):
    plans = []
    report = start.preflight_report

    def seen(config, data, plan, *rest):
        plans.append(plan)
        return report(config, data, plan, *rest)

    monkeypatch.setattr(start, "preflight_report", seen)
    shape = ("model.n_layer=12", "model.n_embd=768", "model.n_head=12", "model.n_positions=512")
    more = ("batch_size=32", "objective.max_new_tokens=384", "max_steps=2", *shape, *sizes)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / GIB
    folder = of_prompts(*objective, *GPU, "trainer.precision=bf16-mixed", *more)
    peak = max(curves(folder)["perf/memory_gib"].values()) - before
    (plan,) = plans
    estimate = plan.step.memory(plan.batching.micro_batch_size).total / GIB
    assert 0.5 * estimate < peak < (1 + ERROR) * estimate, f"{estimate:.2f} for {peak:.2f} GiB"
