"""Runs of objective=ppo, rloo and grpo from prompts to their result."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from src.command.overrides import CONF, of_its_objective
from src.data.sample.questions import questions
from src.errors import UserError
from src.model.pretrained import load_pretrained
from src.model.scalar import ScalarGPT2
from src.objectives import policy_module, rewards
from src.objectives.ppo import PPO
from src.objectives.prompt_data import Asked
from src.talk.reward_folder import save_reward_folder
from src.train import read_settings, unchangeable
from src.training.record import check_functions
from src.training.resume import finished_lines
from tests.training.conftest import SMALL, curves, metrics, settings, small_run  # noqa: F401
from tests.training.test_distributed import finish, start
from tests.training.test_resume import Killed, assert_same_run, kill_at

OWN = (
    "data=file",
    "data.validation_fraction=0.2",
    "data.test_fraction=0.1",
    "model.n_positions=64",
    "batch_size=16",
    "micro_batch_size=8",
    "sample_prompts=[]",
    "objective.num_minibatches=2",
    "objective.max_new_tokens=8",
    "objective.missing_end_penalty=0",
    "objective.most_unended=null",
    "objective.best_of=0",
)
PPO_RUN = ("objective=ppo", "objective.reward=letters", *OWN)
RLOO_RUN = ("objective=rloo", "objective.reward=letters", *OWN)
GRPO_RUN = ("objective=grpo", "objective.reward=letters", *OWN)


def letters(asked, reply: str, ended: bool) -> float:
    """How many of the letters a and e the reply has."""
    return float(sum(letter in "ae" for letter in reply))


@pytest.fixture
def run(small_run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(rewards.BUILT_IN, "letters", letters)
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "response": f"A sum, {2 * i}."} for i in range(90)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def train(*overrides: str, folder: str = "run") -> Path:
        return small_run(f"data.path={path}", *overrides, folder=folder)

    return train


def test_a_policy_learns_what_is_rewarded(run, caplog):
    caplog.set_level("INFO")
    more = ("max_steps=40", "optimizer.learning_rate=1e-2", "objective.best_of=4")
    folder = run(*PPO_RUN, *more)
    found, curve = metrics(folder), curves(folder)
    scores = list(curve["val/score"].values())
    assert scores[-1] > scores[0] + 1
    assert list(curve["ppo/score"].values())[-1] > scores[0] + 1
    assert set(curve["ppo/first_ratio_error"].values()) == {0.0}
    assert curve["val/kl"][0] == 0.0
    assert curve["ppo/kl"][0] == 0.0
    assert list(curve["ppo/kl"].values())[-1] > 0.1
    assert max(curve["rollout/logprob_gap"].values()) < 1e-5
    assert found["best_val/objective"] == pytest.approx(max(curve["val/objective"].values()))
    assert math.isfinite(found["test/score"])
    pattern = r"one reply scores (.*) in the mean of \d+ prompts, the best of 2 (.*), the best of "
    pattern += r"4 (.*): the ceiling to beat"
    one, of_2, of_4 = map(float, re.search(pattern, caplog.text).groups())
    assert one < of_2 < of_4
    assert curve["val/best_of_4"][0] == pytest.approx(of_4, abs=1e-3)
    names = "ppo/entropy ppo/clip_fraction ppo/approx_kl ppo/value_loss ppo/explained_variance"
    assert set(names.split()) <= curve.keys()
    assert {"grad_norm/policy", "grad_norm/value", "perf/share_rollout"} <= curve.keys()
    assert curve["val/best_of_4"][0] > scores[0]
    assert load_pretrained(str(folder / "model")).config.n_positions == 64


# 12 steps of 2 an iteration, saved every 3: inside an iteration and between two.
KEPT = ("trainer.checkpoint_every_n_steps=3", "trainer.log_every_n_steps=4", "micro_batch_size=4")


@pytest.mark.parametrize(
    ("objective", "step", "when"),
    [
        (PPO_RUN, 4, "on_train_batch_end"),
        pytest.param(PPO_RUN, 9, "on_train_batch_end", marks=pytest.mark.slow),
        pytest.param(PPO_RUN, 10, "on_validation_end", marks=pytest.mark.slow),
        (RLOO_RUN, 8, "on_train_batch_end"),
        pytest.param(GRPO_RUN, 8, "on_train_batch_end", marks=pytest.mark.slow),
    ],
    ids=["inside", "after-a-checkpoint", "in-validation", "rloo", "grpo"],
)
def test_a_killed_run_goes_on_to_the_same_weights_bit_by_bit(
    run, objective, step, when, monkeypatch
):
    layout = (*objective, *KEPT, "objective.target_kl=1", "optimizer.learning_rate=1e-3")
    whole = run(*layout, folder="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, step, when)
        with pytest.raises(Killed):
            run(*layout, folder="killed")
    torch.manual_seed(999)
    resumed = run(*layout, "resume=auto", folder="killed")
    assert_same_run(resumed, whole)
    for tag in ("ppo/score", "ppo/kl", "ppo/kl_coef", "ppo/first_ratio_error", "val/objective"):
        assert curves(resumed)[tag] == curves(whole)[tag], tag


@pytest.mark.parametrize("objective", [PPO_RUN, RLOO_RUN, GRPO_RUN], ids=["ppo", "rloo", "grpo"])
def test_the_batch_may_be_cut_any_way(run, objective):
    whole = run(*objective, "micro_batch_size=16", "max_steps=4", folder="whole")
    cut = run(*objective, "micro_batch_size=4", "max_steps=4", folder="cut")
    for tag in ("train/loss", "val/objective", "grad_norm", "ppo/score", "ppo/entropy"):
        one, other = (list(curves(folder)[tag].values()) for folder in (whole, cut))
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4), tag


def test_rows_of_prompts_alone_serve(run, tmp_path):
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(60)))
    folder = run(*RLOO_RUN, f"data.path={rows}", "max_steps=2")
    assert "val/score" in curves(folder)
    # What it says when it is resumed is a command that it takes: it knows no continue_from.
    pretrained = f"objective=rloo model.pretrained={folder / 'model'} ..."
    assert finished_lines(folder)[-1].endswith(pretrained)


def test_a_row_that_a_reward_of_ours_cannot_judge_stops_a_run_before_it_begins(run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What is {i} + {i}?", "response": f"{2 * i}"} for i in range(80)]
    lines[17]["response"] = ""
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    exact = (*RLOO_RUN, "objective.reward=exact_match", "objective.best_of=2")
    with pytest.raises(UserError, match=r"17 \+ 17\?' has no reply .*: leave such"):
        run(*exact, f"data.path={rows}", "data.on_bad_row=skip", folder="refused")
    assert not list((tmp_path / "refused").glob("**/*.ckpt"))
    assert not list((tmp_path / "refused").glob("**/events*"))


@pytest.mark.parametrize("limit", ["objective.most_kl=0.01", "objective.most_unended=0.5"])
def test_it_stops_with_the_reason_when_it_runs_away(run, limit, caplog):
    caplog.set_level("INFO")
    folder = run(*PPO_RUN, "optimizer.learning_rate=1e-2", limit)
    assert metrics(folder)["num_steps"] < 12
    assert f"more than {limit}: raise objective." in caplog.text


def test_a_reward_model_gives_rewards_and_the_value_network_begins_as_it(run, tmp_path):
    from src.data.tokenizer import load_tokenizer

    start_model = run(*PPO_RUN, "max_steps=1", folder="start") / "model"
    scalar = ScalarGPT2.of(load_pretrained(str(start_model)))
    reward_folder = tmp_path / "reward_model"
    save_reward_folder(reward_folder, scalar, load_tokenizer(str(start_model)), 0.0)
    own = ("objective=ppo", *OWN, f"objective.reward_model={reward_folder}")
    again = (f"model.pretrained={start_model}", f"model.tokenizer={start_model}", "max_steps=2")
    folder = run(*own, *again, "trainer.checkpoint_every_n_steps=1")
    assert curves(folder)["val/kl"][0] == 0.0
    assert curves(folder)["ppo/score"][0] != 0.0


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ((), "needs a reward: objective.reward_model="),
        (("objective.reward=gold", "objective.reward_model=x"), "one reward, not two"),
        (("objective.reward=gold", "lora.rank=4"), "lora.rank=4"),
        (("objective.reward=gold", "trainer.strategy=fsdp"), "use ddp"),
        (("objective.reward=gold", "continue_from=x"), "model.pretrained="),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, what):
    with pytest.raises(UserError, match=what):
        PPO(settings("objective=ppo", "experiment=quickstart", *overrides)[0])


def test_another_reward_model_of_the_same_name_is_found_out(run, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 4, "on_train_batch_end")
        with pytest.raises(Killed):
            run(*PPO_RUN, "trainer.checkpoint_every_n_steps=3", folder="killed")
    monkeypatch.setattr(policy_module, "frozen_checksums", lambda *_: {"reference": "other"})
    with pytest.raises(UserError, match=r"objective\.reference is not what it was"):
        run(*PPO_RUN, "trainer.checkpoint_every_n_steps=3", "resume=auto", folder="killed")


def test_validations_answer_as_many_prompts_as_asked_for_always_the_same(run, caplog):
    caplog.set_level("INFO")
    folder = run(*PPO_RUN, "max_steps=2", "trainer.max_val_blocks=5", "trainer.max_test_blocks=3")
    found = metrics(folder)
    assert (found["val/num_rows"], found["test/num_rows"]) == (5, 3)
    assert "5 of " in caplog.text
    assert "prompts (5 random rows, always the same)" in caplog.text
    assert "16 replies = 2 x 8 (micro-batches, replies)" in caplog.text


def test_gold_chooses_no_weights():
    for name in ("ppo", "rloo", "grpo"):
        found = settings(f"objective={name}", "objective.reward=exact_match")[1]
        assert found.best.figure == "val/objective"
        assert not found.best.lower_is_better
        assert not any("gold" in figure for figure, _ in found.bar.values())
    source = Path(__file__).parents[2] / "src" / "training" / "best.py"
    assert "gold" not in source.read_text()


def test_a_function_of_ones_own_is_called_with_prompt_and_replies(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "def score(prompt, replies):\n    return [len(prompt) + len(r) for r in replies]\n"
        "def odd(prompt, replies):\n    return 'much'\n"
        "def tensor(prompt, replies):\n    import torch\n    return torch.tensor([0.5])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    asked = Asked("What?", False, None)
    found = rewards.function_rewards("own_rewards.score", None)
    assert found.function(asked, "yes", True) == 8
    tensor = rewards.function_rewards("own_rewards.tensor", None)
    assert isinstance(tensor.function(asked, "yes", True), float)
    with pytest.raises(UserError, match=r"own_rewards\.odd: score\(prompt, replies\) returns"):
        rewards.function_rewards("own_rewards.odd", None).function(asked, "yes", True)
    for name in ("own_rewards.none", "no_such_module.score", "gld"):
        with pytest.raises(UserError, match=f"objective.reward={name}"):
            rewards.function_rewards(name, None)


def test_rewards_of_ours_know_what_is_right():
    asked = Asked("What?", False, " Yes, it is. ")
    assert rewards.exact_match(asked, "Yes, it is.", True) == 1
    assert rewards.exact_match(asked, "Yes, it is.", False) == 0
    assert rewards.exact_match(asked, "Yes", True) == 0
    with pytest.raises(UserError, match="has no reply to compare with"):
        rewards.exact_match(Asked("What?", False, None), "Yes", True)
    with pytest.raises(UserError, match="the labeller does not know 'What'"):
        rewards.gold(Asked("What", False, None), "Yes", True)
    question = questions()[0]
    best = rewards.gold(Asked(question.prompt, False, None), question.response, True)
    worst = rewards.gold(Asked(question.prompt, False, None), "No", False)
    assert best > worst


def test_a_run_folder_calls_nothing_that_the_command_line_does_not_name(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 4, "on_train_batch_end")
        with pytest.raises(Killed):
            run(*PPO_RUN, "trainer.checkpoint_every_n_steps=3", folder="killed")
    folder = tmp_path / "killed"
    record = json.loads((folder / "run.json").read_text())
    record["config"]["objective"]["reward"] = "os.system"
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"resume=.* objective\.reward=os\.system: .* add it"):
        settings(f"resume={folder}")
    typed = of_its_objective([f"resume={folder}", "objective.reward=os.system"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config, _ = read_settings(compose("train", overrides=typed), typed)
    assert (config.objective.name, config.objective.reward) == ("ppo", "os.system")
    assert unchangeable([*typed, "++objective.kl_coef=1"]) == ["objective.kl_coef"]  # in a sweep


@pytest.mark.slow
def test_a_few_iterations_raise_the_true_reward_of_the_embedded_labeller(tmp_path):
    from src.training.start import start_run

    shared = ("experiment=quickstart", "data=demonstrations", "exact_match=false")
    shared += (f"data.corpus_dir={tmp_path / 'corpora'}", "sample_prompts=[]", "model.n_layer=2")
    shared += ("trainer.max_val_blocks=100", "trainer.max_test_blocks=4")
    learning = {
        "sft": ("max_steps=200", "trainer.val_every_n_steps=200"),
        "ppo": (
            *("objective=ppo", "objective.reward=gold", "objective.best_of=0", "max_steps=24"),
            *("batch_size=32", "micro_batch_size=32", "optimizer.learning_rate=3e-4"),
            *(f"model.{key}={tmp_path / 'sft' / 'model'}" for key in ("pretrained", "tokenizer")),
        ),
    }
    for name, own in learning.items():
        (tmp_path / name).mkdir()
        overrides = [*shared, *own]
        start_run(*settings(*overrides), tmp_path / name, overrides)
    found = curves(tmp_path / "ppo")
    assert found["val/gold"] == pytest.approx(found["val/score"], abs=1.0)  # but for missing ends
    gold = list(found["val/gold"].values())
    assert gold[-1] > gold[0] + 0.5


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(run, tmp_path):
    own = [o for o in PPO_RUN if "reward=" not in o] + ["objective.reward=exact_match"]
    own += ["objective.missing_end_penalty=1", "trainer.accelerator=cpu", "max_steps=6"]
    one = run(*own, folder="one")
    two = tmp_path / "two"
    paths = (f"data.corpus_dir={tmp_path / 'corpora'}", f"data.path={tmp_path / 'rows.jsonl'}")
    finish(start(*SMALL, *own, *paths, "trainer.devices=2", f"hydra.run.dir={two}"))
    for tag in ("train/loss", "val/objective", "ppo/kl", "grad_norm"):
        expected, found = (list(curves(folder)[tag].values()) for folder in (one, two))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5), tag


def test_a_function_stands_on_the_command_line_itself():
    values = {"objective": {"name": "ppo", "reward": "mine.score"}}
    check_functions(values, ["objective=ppo", "objective.reward=mine.score"])
    for harmless in ({"objective": {"reward": "gold"}}, {"objective": "sft"}, {}):
        check_functions(harmless, [])
    with pytest.raises(UserError, match=r"objective\.reward=mine\.score: a config names this"):
        check_functions(values, ["objective=ppo", "experiment=mine"])
