"""Runs of objective=reward and objective=dpo from a file of comparisons to their result."""

import gc
import json
import math
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.errors import UserError
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained, save_weights
from src.model.rollout import Sampling
from src.objectives.divergence import Divergence
from src.objectives.dpo_module import DPOModule
from src.objectives.kept_reference import KeptReference, weights_checksum
from src.talk.model_folder import load_model_folder, save_model_folder
from src.talk.reward_folder import load_reward_folder
from src.training.checkpoints import resolve_checkpoint
from src.training.events import events_folder
from src.training.resume import finished_lines
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import SMALL, curves, metrics, small_run  # noqa: F401
from tests.training.test_distributed import finish, start
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at

OWN = (
    "data.validation_fraction=0.2",
    "data.test_fraction=0.1",
    "data.block_size=128",
    "model.n_positions=64",
    "batch_size=4",
    "micro_batch_size=4",
    "sample_prompts=[What is 1?]",
)
REWARD = ("objective=reward", *OWN)
DPO = ("objective=dpo", "objective.num_replies=4", *OWN)


@pytest.fixture
def comparisons(tmp_path) -> Path:
    """People prefer "yes" to "no", and either to "maybe"; some prompts have three replies."""
    path = tmp_path / "comparisons.jsonl"
    rows = []
    for number in range(120):
        prompt = f"What is {number}?"
        replies = ["yes it is", "no it is", "maybe it is"][: 2 + number % 2]
        ranks = list(range(1, len(replies) + 1))
        if number % 3 == 0:
            replies, ranks = replies[::-1], ranks[::-1]
        rows.append({"prompt": prompt, "replies": replies, "ranks": ranks})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def run(small_run, comparisons):  # noqa: F811
    def train(*overrides: str, folder: str = "run") -> Path:
        return small_run("data=file", f"data.path={comparisons}", *overrides, folder=folder)

    return train


def test_a_reward_model_learns_what_people_prefer(run, caplog):
    caplog.set_level("INFO")
    folder = run(*REWARD, "max_steps=40", "optimizer.learning_rate=3e-3")
    found = metrics(folder)
    assert found["best_val/accuracy"] > 0.95
    assert found["test/accuracy"] > 0.95
    assert found["best_val/longer_accuracy"] < 0.9
    assert "best_val/accuracy_gap_1" in found
    assert 0 <= found["best_val/calibration_error"] < 0.5
    assert set(found) >= {f"probe/{kind}" for kind in ("empty", "repeated", "shuffled")}
    assert (folder / "calibration.png").stat().st_size > 1000
    assert "the longer reply:" in caplog.text
    assert "probes: a preferred reply scores above what is made of it: empty" in caplog.text
    assert str(folder / "reward_model") in caplog.text
    card = (folder / "reward_model" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "answers questions" not in card
    assert not (folder / "model").exists()  # which chat would pick up
    prompts = metrics(folder)["test/num_rows"]
    assert 0 < prompts < 30  # of 120 prompts, with 2.5 replies each
    assert f"| {int(prompts)} |" in card or "| all |" in card
    assert "test/num_scored_tokens" not in metrics(folder)
    with pytest.raises(UserError, match="a run of a reward model"):
        load_model_folder(str(folder))
    assert f"its reward model:   {folder / 'reward_model'}" in finished_lines(folder)


def test_its_folder_has_centred_rewards_of_which_the_mean_is_zero(run):
    from src.data.template import encode_prompt

    folder = run(*REWARD)
    model, tokenizer = load_reward_folder(str(folder / "reward_model"))
    config = json.loads((folder / "reward_model" / "config.json").read_text())
    assert config["reward_offset"] == pytest.approx(metrics(folder)["best_val/reward_mean"])
    ids = [*encode_prompt(tokenizer, "What is 1?"), *tokenizer.encode(" yes it is")]
    ids.append(tokenizer.end_id)
    reward = model.rewards(model(torch.tensor([ids])), torch.tensor([len(ids) - 1]))
    spread = metrics(folder)["best_val/reward_std"]
    assert abs(float(reward.detach())) < 5 * spread + 1e-3


def test_a_policy_begins_at_log_2_and_learns_what_people_prefer(run, caplog, tmp_path):
    caplog.set_level("INFO")
    folder = run(*DPO, "max_steps=40", "optimizer.learning_rate=3e-3", "objective.beta=0.5")
    loss = curves(folder)["val/loss"]
    assert loss[0] == pytest.approx(math.log(2), abs=1e-6)
    assert curves(folder)["val/chosen_logratio"][0] == pytest.approx(0, abs=1e-5)
    assert metrics(folder)["best_val/loss"] < 0.3
    assert metrics(folder)["test/accuracy"] > 0.95
    assert "before the first step all rewards are 0" in caplog.text
    assert "reference: log-probabilities of" in caplog.text
    assert set(curves(folder)) >= {"val/reply_tokens", "val/reply_repetition", "val/reply_ended"}
    assert (folder / "model" / "model.safetensors").exists()
    assert len(list((tmp_path / "corpora").glob("*/validation.npy"))) == 1


def test_the_policy_is_measured_and_heard_beside_its_reference(run, caplog, capsys):
    caplog.set_level("INFO")
    folder = run(*DPO, "max_steps=40", "optimizer.learning_rate=3e-3", "objective.beta=0.5")
    kl = curves(folder)["val/kl"]
    assert kl[0] == 0.0
    assert kl[max(kl)] > 0.05
    assert metrics(folder)["best_val/kl"] in kl.values()
    assert re.search(r"validation, best .* KL \d+\.\d\d nats", caplog.text)
    (row,) = json.loads((folder / "replies.json").read_text())
    assert (row["question"], row["reference"]) == ("What is 1?", None)
    assert row["before"] != row["after"]
    assert "What is 1?" in capsys.readouterr().err
    text = sample_replies(folder)
    assert "| prompt | reference | step 0 |" in re.sub(" +", " ", text)


@pytest.mark.parametrize("how", ["another", "continued", "adapters"])
def test_the_policy_is_measured_whatever_its_reference_is(run, how, caplog):
    if how == "adapters":
        pytest.importorskip("peft")
        more = ("lora.rank=4", "optimizer.learning_rate=1e-2")
    else:
        first = run(*DPO, "max_steps=6", folder="first")
        keys = {
            "another": f"objective.reference={first}/model",
            "continued": f"continue_from={first}",
        }
        more = (keys[how],)
    kl = curves(run(*DPO, *more, "max_steps=10", "trainer.val_every_n_steps=5"))["val/kl"]
    assert len(kl) == (2 if how == "continued" else 3)  # which begins at step 6
    assert all(map(math.isfinite, kl.values()))
    assert (kl[min(kl)] == 0.0) is (how == "adapters")  # the others are not their reference
    assert "has changed meanwhile" not in caplog.text


def test_kl_is_that_of_the_models_and_of_an_unchanged_reference_alone(tokenizer, caplog):
    policy, reference = (random_model(tiny_config(vocab_size=320), seed) for seed in (0, 1))
    prompts = [tokenizer.encode(f"What is {n}?") for n in range(20)]
    sampling = Sampling(1, 1.0, 1, tokenizer.end_id, 64)
    measured = Divergence(prompts, sampling, lambda: reference)
    ratios = []
    for ids, rollout in zip(prompts, sampling.rollouts(policy, prompts, range(20)), strict=True):
        one, other = (_last_logprobs(model, ids) for model in (policy, reference))
        ratios.append(float((one - other)[rollout.tokens[0]]))
    assert abs(sum(ratios)) > 1e-3
    assert measured.measure(policy) == pytest.approx(sum(ratios) / 20, abs=1e-5)
    assert Divergence(prompts, sampling, lambda: policy).measure(policy) == 0.0
    assert Divergence(prompts, sampling, lambda: None).measure(policy) is None


def test_a_reference_is_read_again_and_no_other_is_taken_for_it(tmp_path, tokenizer, caplog):
    model, other = (random_model(tiny_config(vocab_size=320), seed) for seed in (0, 1))

    def save(model: GPT2, folder: Path) -> None:
        save_model_folder(folder, model, tokenizer, greedy(4))

    kept = KeptReference(model, weights_checksum(model), lambda: other)
    kept.write(tmp_path, save)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(kept()(ids), model(ids))
    assert not caplog.text
    save(other, tmp_path / "reference")
    assert (kept(), kept()) == (None, None)
    assert caplog.text.count("its folder has changed meanwhile") == 1


def sample_replies(folder: Path) -> str:
    """Return the last table of sample replies that TensorBoard has."""
    board = EventAccumulator(str(events_folder(folder)))
    board.Reload()
    event = board.Tensors("sample_replies/text_summary")[-1]
    return event.tensor_proto.string_val[0].decode()


def _last_logprobs(model, ids):
    with torch.no_grad():
        positions = torch.arange(len(ids))[None]
        bounds = torch.tensor([0, len(ids)], dtype=torch.int32)
        hidden = model(torch.tensor([ids]), positions, bounds, len(ids))
        return model.logits(hidden[0, -1]).log_softmax(-1)


def test_a_part_of_the_held_out_splits_is_scored(run):
    most = ("trainer.max_val_blocks=1", "trainer.max_test_blocks=1", "data.test_fraction=0.3")
    found = metrics(run(*DPO, *most, "max_steps=2"))
    assert found["test/accuracy"] >= 0
    assert curves(run(*DPO, *most, folder="again"))["val/loss"][0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", ["", "/model"])
def test_a_policy_does_not_go_on_from_a_run_with_another_objective(small_run, run, name):  # noqa: F811
    first = small_run("max_steps=1", folder="first")
    with pytest.raises(UserError, match=r"had objective=sft, not dpo: .* model\.pretrained="):
        run(*DPO, f"continue_from={first}{name}", folder="second")


def test_it_warns_when_chosen_replies_become_unlikely(run, caplog):
    run(*DPO, "optimizer.learning_rate=0.3", "objective.most_sinking=0.5")
    said = [r.getMessage() for r in caplog.records if "objective.most_sinking" in r.getMessage()]
    assert len(said) == 1
    assert "raise objective.beta or objective.sft_weight" in said[0]


def test_the_next_run_finds_what_the_reference_said(run, caplog):
    caplog.set_level("INFO")
    run(*DPO, "max_steps=1", folder="first")
    assert "reference: log-probabilities of" in caplog.text
    caplog.clear()
    run(*DPO, "max_steps=1", folder="second")
    assert "reference: log-probabilities of" not in caplog.text
    assert "before the first step all rewards are 0" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("objective", [REWARD, DPO], ids=["reward", "dpo"])
def test_a_killed_run_goes_on_to_the_same_weights_bit_by_bit(run, objective, monkeypatch):
    layout = (*objective, *LAYOUT, "micro_batch_size=2")
    whole = run(*layout, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            run(*layout, folder="killed")
    torch.manual_seed(999)
    assert_same_run(run(*layout, "resume=auto", folder="killed"), whole)


def test_a_run_does_not_go_on_with_another_reference(small_run, run, monkeypatch):  # noqa: F811
    model = small_run("max_steps=1", folder="sft") / "model"
    layout = (*DPO, *LAYOUT, f"model.tokenizer={model}", f"objective.reference={model}")
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            run(*layout, folder="killed")
    weights = load_pretrained(str(model))
    with torch.no_grad():
        weights.wte.weight += 0.01
    save_weights(weights, model)
    with pytest.raises(UserError, match="the reference is not what it was"):
        run(*layout, "resume=auto", folder="killed")


def models() -> list[GPT2]:
    """Return all that are in memory."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is GPT2]


@pytest.mark.parametrize("start", ["random", "another", "continued"])
def test_nothing_holds_the_reference_while_a_policy_learns(run, monkeypatch, start):
    first = "" if start == "random" else run(*DPO, "max_steps=2", folder="first")
    keys = {"random": (), "another": ("objective.reference={}/model",)}
    more = [key.format(first) for key in keys.get(start, ("continue_from={}",))]
    before, held = models(), []  # kept, so that no other takes the place of one in memory

    def look(*_):
        known = set(map(id, before))
        held.append([model for model in models() if id(model) not in known])

    monkeypatch.setattr(DPOModule, "on_train_start", look, raising=False)
    folder = run(*DPO, *more, "max_steps=4", "sample_prompts=[]")
    assert [len(each) for each in held] == [1]  # the policy
    has_folder = start == "another"
    assert (folder / "reference/model.safetensors").exists() is not has_folder
    if not has_folder:
        reference = load_model_folder(str(folder / "reference"))  # it talks
        checkpoint = torch.load(resolve_checkpoint(str(folder)), weights_only=True)
        assert weights_checksum(reference.model) == checkpoint["reference"]


def test_adapters_and_the_head_learn_a_reward(run):
    pytest.importorskip("peft")
    folder = run(*REWARD, "max_steps=40", "lora.rank=4", "optimizer.learning_rate=1e-2")
    assert metrics(folder)["best_val/accuracy"] > 0.9
    assert load_reward_folder(str(folder / "reward_model")).model.score.weight.abs().sum() > 0


def test_a_reward_model_goes_on_in_a_new_run(run, tmp_path):
    first = run(*REWARD, "trainer.keep_optimizer=false", folder="first")
    second = run(*REWARD, f"continue_from={first}", folder="second")
    accuracy = curves(second)["val/loss"][0]
    assert accuracy == pytest.approx(metrics(first)["best_val/loss"], abs=1e-4)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("objective", [REWARD, DPO], ids=["reward", "dpo"])
def test_the_batch_may_be_cut_any_way(run, objective, size):
    whole = run(*objective, folder="whole")
    cut = run(*objective, f"micro_batch_size={size}", folder="cut")
    for tag in ("train/loss", "val/loss", "train/accuracy", "grad_norm"):
        one, other = (list(curves(folder)[tag].values()) for folder in (whole, cut))
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5), tag


def test_figures_stand_by_source_too(small_run, tmp_path):  # noqa: F811
    ranked = [
        {"prompt": f"Say {n}", "replies": ["one two", "three", "four"], "ranks": [1, 2, 3]}
        for n in range(60)
    ]
    pairs = [{"prompt": f"Ask {n}", "chosen": "one", "rejected": "two"} for n in range(60)]
    for name, rows in (("ranked", ranked), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = ", ".join(f"{{path: '{tmp_path / n}.jsonl'}}" for n in ("ranked", "pairs"))
    own = ("data=file", f"data.sources=[{sources}]", "data.max_rows=null", "max_steps=2")
    found = metrics(small_run(*own, *DPO))
    assert {"best_val/accuracy/ranked", "best_val/accuracy/pairs"} <= found.keys()
    assert "best_val/accuracy_gap_2/ranked" in found
    assert "best_val/accuracy_gap_2/pairs" not in found


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [pytest.param(REWARD, id="reward"), pytest.param(DPO, id="dpo", marks=pytest.mark.whole)],
)
def test_two_processes_learn_what_one_learns(run, comparisons, objective, tmp_path):
    own = (*SMALL, "data=file", f"data.path={comparisons}", *objective, "trainer.accelerator=cpu")
    one = run(*objective, "trainer.accelerator=cpu", folder="one")
    two = tmp_path / "two"
    corpora = f"data.corpus_dir={tmp_path / 'corpora'}"
    process = start(*own, corpora, "trainer.devices=2", f"hydra.run.dir={two}")
    finish(process)
    for tag in ("train/loss", "val/loss", "val/accuracy", "grad_norm"):
        expected, found = (list(curves(folder)[tag].values()) for folder in (one, two))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), tag
