"""The steps of a pipeline: what each learns from, how they go on, and what is left in the end."""

import json
import re
import shutil
import signal
import time
from dataclasses import asdict, replace
from itertools import product

import pytest
from hydra import compose, initialize_config_dir

from src import rank as ranking_door
from src.command.cli import CONF, typed
from src.data.comparison import Context
from src.data.prompts import Prompts
from src.data.sources import open_source
from src.errors import UserError
from src.files.json_file import read_settings
from src.model.weights_file import find_weights
from src.objectives import rewards
from src.rlhf import __main__ as rlhf_door
from src.rlhf.config import STEPS, RLHFConfig
from src.rlhf.pipeline import Pipeline
from src.rlhf.record import Record, check_same, read_record
from src.rlhf.steps import Places, rank_arguments, run_arguments
from tests.rlhf.conftest import run, small, start
from tests.training.conftest import settings as train_settings

POLICIES = ("sft", "best_of_2", "dpo", "ppo", "rloo")
KEYS = ("gold", "gold_greedy", "perfect_greedy", "right_greedy", "win_rate_against_sft", "kl")
OF_REWARD = ("accuracy", "accuracy_ceiling", "gold_order", "calibration_error")


def config(*overrides: str) -> RLHFConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(RLHFConfig, compose("rlhf", overrides=list(overrides)))


@pytest.mark.parametrize("overrides", [[], ["pipeline=overoptimise"], ["pipeline=small"]])
def test_every_step_of_every_pipeline_is_a_command_that_composes(overrides, tmp_path):
    values = config(*overrides)
    places = Places(tmp_path, values.steps)
    for step in values.steps:
        if step == "rank":
            with initialize_config_dir(str(CONF), version_base="1.3"):
                found = compose("rank", overrides=rank_arguments("test", values, places))
                assert typed(ranking_door.RankConfig, found).labeller == "sample"
            continue
        found, _ = train_settings(*run_arguments(step, values, places, "START"))
        assert found.objective.name == step
        assert found.seed == values.seed
        assert found.exact_match is False


def test_one_key_says_what_all_steps_compute_on(tmp_path):
    for given in ("cpu", "gpu"):
        values = config(f"run.trainer.accelerator={given}")
        places = Places(tmp_path, values.steps)
        assert f"device={given}" in rank_arguments("train", values, places)
        runs = [step for step in values.steps if step != "rank"]
        assert {
            train_settings(*run_arguments(step, values, places, "START"))[0].trainer.accelerator
            for step in runs
        } == {given}


def test_no_step_learns_from_prompts_of_another(root):
    values = config()
    places = Places(root, values.steps)

    def no_ids(context: Context) -> list[int]:
        return []

    prompts = {}
    for step in ("sft", "ppo", "rloo"):
        found, _ = train_settings(*run_arguments(step, values, places, "START"))
        source = open_source(found.data)
        prompts[step] = set(Prompts.of(source, "train", no_ids, 256).contexts)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("rank", overrides=rank_arguments("train", values, places))
        source = open_source(typed(ranking_door.RankConfig, composed).data)
    prompts["rank"] = set(Prompts.of(source, "train", no_ids, 256).contexts)
    assert prompts["ppo"] == prompts["rloo"]
    parts = [prompts[step] for step in ("sft", "rank", "ppo")]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert all(len(part) > 800 for part in parts)


def test_the_reward_and_dpo_learn_from_the_rankings_alone(tmp_path):
    values, places = config(), Places(tmp_path, list(STEPS))
    for step in ("reward", "dpo"):
        found, _ = train_settings(*run_arguments(step, values, places, "START"))
        assert found.data.path == str(tmp_path / "2_rank")
        assert found.model.pretrained == str(tmp_path / "1_sft/model")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["steps=[sft,ppo]"], "ppo begins with what reward makes"),
        (["steps=[rank,sft]"], "in this order"),
        (["steps=[sft,sft]"], "each once"),
        (["steps=[sft,pppo]"], "did you mean ppo?"),
        (["share=[0.5,0.5]"], "must be 3 numbers"),
        (["+ppo.objective.reward=mine.score"], "the reward is that of the step reward"),
        (["rank.num_replies=1"], "rank.num_replies=1: must be at least 2"),
        (["evaluation.best_of=1"], "evaluation.best_of=1: must be at least 2"),
        (["name=a/b"], "name=a/b"),
    ],
)
def test_a_mistake_is_said_before_anything_is_made(door, tmp_path, overrides, said):
    code, _, err = door(rlhf_door.rlhf, "rlhf", *overrides)
    assert code == 2
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "outputs").exists()


def test_a_mistake_in_a_late_step_is_said_before_the_first_begins(door, tmp_path, root):
    own = small(root, "name=x", "rloo.optimizer.learning_rate=-1")
    code, _, err = door(rlhf_door.rlhf, "rlhf", *own)
    assert code == 2
    assert "optimizer.learning_rate=-1" in err.splitlines()[-1]
    assert not (tmp_path / "outputs").exists()


def test_a_mistyped_start_does_not_use_up_the_name(door, tmp_path, root):
    others = small(root, "name=x")[2:]
    code, _, err = door(rlhf_door.rlhf, "rlhf", "pipeline=small", "start=/nowhere", *others)
    assert code == 2
    assert "start=/nowhere: there is no such folder" in err.splitlines()[-1]
    assert not (tmp_path / "outputs").exists()


def test_all_steps_end_in_flat_figures(folder):
    metrics = read_settings(folder / "metrics.json")
    assert {f"{step}.{key}" for step in POLICIES for key in KEYS} <= metrics.keys()
    assert {f"reward.{key}" for key in OF_REWARD} <= metrics.keys()
    for step, key in product(POLICIES, KEYS):
        missing = step == "best_of_2" and key.endswith("_greedy")
        assert (metrics[f"{step}.{key}"] is None) == missing, (step, key)
    assert "NaN" not in (folder / "metrics.json").read_text(encoding="utf-8")
    assert metrics["sft.kl"] == 0
    assert metrics["best_of_2.gold_greedy"] is None
    assert metrics["seconds"] == pytest.approx(
        sum(metrics[f"{step}.seconds"] for step in (*STEPS, "evaluation"))
    )


def test_the_table_fits_the_terminal_and_says_what_is_in_the_figures(folder, said):
    assert max(map(len, said.splitlines())) <= 100
    metrics = read_settings(folder / "metrics.json")
    (row,) = [line for line in said.splitlines() if re.match(r"ppo +[+-]\d", line)]
    assert row.split()[1:3] == [f"{metrics['ppo.gold']:+.2f}", f"{metrics['ppo.gold_greedy']:+.2f}"]
    assert "reward model: " in said
    for step in ("sft", "dpo", "ppo", "rloo"):
        assert len(re.findall(rf"^  {step} ", said, re.M)) == 3, "a reply to each question"
    assert (folder / "rlhf.png").stat().st_size > 20_000
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "| question | sft | dpo | ppo | rloo |" in report


def test_a_complete_one_is_shown_again_and_another_setting_is_refused(folder, root, said, tmp_path):
    folder = shutil.copytree(folder, tmp_path / folder.relative_to(root))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    code, out, err = run(tmp_path, *small(root, "name=one"))
    assert (code, out) == (0, said), err
    code, _, err = run(tmp_path, *small(root, "name=one", "ppo.objective.kl_coef=0.7"))
    assert code == 2
    was = config().ppo["objective"]["kl_coef"]
    assert f"ppo.objective.kl_coef={was}, not 0.7" in err.splitlines()[-1]
    code, _, err = run(tmp_path, "resume=outputs/rlhf/one", "seed=3")
    assert code == 2
    assert "seed=3: what goes on keeps its settings" in err.splitlines()[-1]
    assert run(tmp_path, "resume=outputs/rlhf/one")[:2] == (0, said)
    ignored = {"rlhf.json", "run.lock"}
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {k: v for k, v in before.items() if k.name not in ignored} == {
        k: v for k, v in after.items() if k.name not in ignored
    }


def test_a_run_and_its_model_folder_are_one_start(tmp_path):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    settings = replace(config(), start=str(model.parent))
    record = Record(asdict(settings), str(model))
    check_same(record, settings, tmp_path)
    with pytest.raises(UserError, match="began with start="):
        check_same(record, replace(settings, start=str(tmp_path)), tmp_path)


def test_one_of_an_earlier_version_goes_on_with_the_keys_that_it_has(folder, root, said):
    """Its record has other keys than conf/rlhf.yaml has now; what is new stays out."""
    place = folder.with_name("earlier")
    shutil.copytree(folder, place)
    record = json.loads((place / "rlhf.json").read_text(encoding="utf-8"))
    own = record["config"]["run"]
    del own["trainer"]["accelerator"]
    own["hardware"] = "cpu"
    (place / "rlhf.json").write_text(json.dumps(record), encoding="utf-8")
    (place / "metrics.json").unlink()  # it is judged again
    code, out, err = run(root, "resume=outputs/rlhf/earlier")
    assert code == 0, err
    assert out.splitlines()[:12] == said.replace("/one", "/earlier").splitlines()[:12]
    shutil.rmtree(place)


def test_any_key_of_a_run_can_be_set(root):
    own = small(root, "name=gamma")
    code, _, err = run(root, *own, "ppo.objective.gama=0.9")
    assert code == 2
    assert "objective.gama: did you mean objective.gamma?" in err
    code, _, err = run(root, *own, "ppo.objective.gamma=1.9")
    assert code == 2
    assert "objective.gamma=1.9: must be" in err
    code, _, err = run(root, *own, "run.hardware=a100")
    assert code == 2
    assert "run.hardware=a100: all steps compute on run.trainer.accelerator=cpu" in err
    assert not (root / "outputs/rlhf/gamma").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"hydra.searchpath": "[file:///canary]"},
        {"hydra": {"run": {"dir": "canary"}}},
        {"+x": 1},
        {"~data": 1},
        {"trainer": {"logger@x": "y"}},
    ],
    ids=str,
)
def test_a_strangers_record_sets_keys_of_runs_alone(folder, root, tmp_path, values):
    place = tmp_path / "strange"
    place.mkdir()
    record = json.loads((folder / "rlhf.json").read_text(encoding="utf-8"))
    record["config"]["run"] |= values
    (place / "rlhf.json").write_text(json.dumps(record), encoding="utf-8")
    code, _, err = run(root, f"resume={place}")
    assert code == 2
    assert re.search(r"run\.\S+: is no key of conf/train\.yaml", err)
    assert [path.name for path in place.iterdir()] == ["rlhf.json"]


def test_gold_chooses_nothing(folder, tmp_path, monkeypatch):
    """With another opinion of every reply PPO learns the same weights, and keeps the same."""
    record = read_record(folder)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = typed(RLHFConfig, compose("rlhf", overrides=["pipeline=small"]))
    values.run = record.config["run"]
    arguments = run_arguments("ppo", values, Places(folder, list(STEPS)), record.start)
    asked = []

    def rising(question, reply, ended):
        asked.append(reply)
        return rewards.Verdict(len(asked) > 4, False, True, ended, 0)  # better after step 0

    monkeypatch.setattr(rewards, "judge", rising)
    from src.api import train_in

    assert train_in(tmp_path / "again", arguments) is None
    assert asked
    one, other = (find_weights(path / "model") for path in (folder / "5_ppo", tmp_path / "again"))
    assert one.shapes == other.shapes
    found = [(weights.read([name])[name]) for weights in (one, other) for name in one.shapes]
    half = len(found) // 2
    assert all(a.equal(b) for a, b in zip(found[:half], found[half:], strict=True))


def test_steps_that_are_complete_are_passed_over(folder):
    record = read_record(folder)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = typed(RLHFConfig, compose("rlhf", overrides=["pipeline=small"]))
    pipeline = Pipeline(folder, values, Record(record.config, record.start, record.seconds))

    def never(*_):
        raise AssertionError("a step began again")

    assert pipeline.run(never, never) is None
    assert all(seconds > 0 for seconds in pipeline.seconds().values())


def test_a_folder_that_is_damaged_is_named(tmp_path):
    (tmp_path / "rlhf.json").write_text('{"config": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"rlhf\.json is damaged"):
        read_record(tmp_path)
    with pytest.raises(UserError, match="no pipeline in it"):
        read_record(tmp_path / "x")


@pytest.mark.parametrize(
    "step",
    [
        *(pytest.param(name, marks=pytest.mark.whole) for name in ("1_sft", "2_rank", "4_dpo")),
        pytest.param("5_ppo", marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_middle_it_ends_with_the_same_figures(root, folder, tmp_path, step):
    name = f"killed_{step}"
    own = small(root, f"name={name}")
    running = start(*own, cwd=root)
    place = root / "outputs/rlhf" / name
    mark = place / step / ("train.jsonl" if step == "2_rank" else "history.csv")
    while not mark.exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (place / "metrics.json").exists()
    done = start(f"resume={place}", cwd=root)
    _, err = done.communicate()
    assert done.returncode == 0, err
    one, other = (read_settings(each / "metrics.json") for each in (folder, place))
    timed = {key for key in one if key.endswith("seconds")}
    assert one.keys() == other.keys()
    assert {k: one[k] for k in one if k not in timed} == {
        k: other[k] for k in one if k not in timed
    }
    shutil.rmtree(place)


@pytest.mark.slow
def test_a_signal_ends_it_in_good_order_and_says_how_it_goes_on(root):
    own = small(root, "name=stopped", "ppo.max_steps=100000")  # not over before the signal comes
    running = start(*own, cwd=root)
    place = root / "outputs/rlhf/stopped"
    while not (place / "5_ppo/history.csv").exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate()
    assert running.returncode == 143
    assert f"go on with: python -m src.rlhf resume={place.relative_to(root)}" in err
    status = json.loads((place / "5_ppo/status.json").read_text(encoding="utf-8"))
    assert status["state"] == "stopped"
    shutil.rmtree(place)
