"""The door's ``against=``, on the small runs that the training's tests train."""

import json
from base64 import b64encode

import pytest

from src.command.cli import named_file
from src.data.tokenizer import load_tokenizer
from src.evaluate import FREE_TEXT, evaluate
from src.model.pretrained import load_pretrained
from src.model.scalar import ScalarGPT2
from src.talk.model_folder import save_model_folder
from src.talk.reward_folder import save_reward_folder
from tests.conftest import greedy
from tests.evaluation.conftest import DATA
from tests.model.conftest import random_model, tiny_config

FEW = (*DATA, "data.block_size=64", "num_replies=12", "generation.max_new_tokens=6")
FIGURES = ("win_rate", "win_rate_greedy", "gold", "gold_greedy", "kl", "proxy", "right_greedy")


@pytest.fixture
def folders(runs, tmp_path):
    """A run, another that learned otherwise, and a reward model of the first's weights."""
    one, other = runs(), runs("seed=2")
    model = str(one / "model")
    tokenizer = load_tokenizer(model)
    scalar = ScalarGPT2.of(load_pretrained(model))
    save_reward_folder(tmp_path / "rm/reward_model", scalar, tokenizer, 0.0)
    stranger = random_model(tiny_config(vocab_size=tokenizer.vocab_size + 8, n_positions=64))
    save_model_folder(tmp_path / "stranger", stranger, tokenizer, greedy(8))
    return {
        "ONE": one,
        "OTHER": other,
        "RM": tmp_path / "rm/reward_model",
        "STRANGER": tmp_path / "stranger",
    }


@pytest.fixture
def started(door, folders, tmp_path):
    """Run the door, with the folders by their names; return its code, its outputs."""

    def run(*arguments: str):
        named = list(arguments)
        for name, folder in folders.items():
            named = [argument.replace(name, str(folder)) for argument in named]
        return door(
            evaluate,
            "evaluate",
            *named,
            f"output={tmp_path / 'out'}",
            free_text=FREE_TEXT,
            rewrite=named_file,
        )

    return run


@pytest.mark.slow
def test_a_policy_is_held_against_what_it_was(started, folders, tmp_path):
    code, out, err = started(
        *("model_path=OTHER", "against=ONE", "reward_model=RM", "best_of=4", *FEW),
        *("judge=gold", "num_replies=40"),
    )
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    one, other = str(folders["ONE"]), str(folders["OTHER"])
    assert list(results["models"]) == [other, one]
    for name in FIGURES:
        found = results["models"][other][name]
        assert found["low"] <= found["value"] <= found["high"], name
    assert "kl" not in results["models"][one]
    assert results["models"][other]["kl"]["value"] != 0
    against = results["against"]
    assert (against["reference"], against["judge"], against["num_asked"]) == (one, "gold", 40)
    assert list(against["best_of"]) == ["1", "2", "4"]
    proxies = [against["best_of"][n]["proxy"]["value"] for n in ("1", "2", "4")]
    assert proxies == sorted(proxies)
    assert proxies[0] < proxies[2]
    assert {"gold", "perfect", "right", "win_rate", "kl"} <= against["best_of"]["4"].keys()
    asked = [row["models"] for row in results["rows"] if "sampled" in row["models"][other]]
    assert len(asked) == 40
    gold = [models[other]["gold"] for models in asked if "gold" in models[other]]
    assert len(gold) == against["num_judged"] > 0
    assert sum(gold) / len(gold) == pytest.approx(results["models"][other]["gold"]["value"])
    lines = out.splitlines()
    assert max(map(len, lines[:-2])) <= 100
    assert any(line.startswith("wins, drawn") for line in lines)
    text = " ".join(line.strip() for line in lines)
    assert f"- {folders['OTHER'].name} against {folders['ONE'].name}, by the embedded" in text
    page = (tmp_path / "out/report.html").read_text()
    for picture in ("frontier.png", "gold_and_proxy.png"):
        content = (tmp_path / "out" / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert b64encode(content).decode() in page
    assert f"<h2>Against {folders['ONE'].name}</h2>" in page


def test_the_reference_may_be_among_the_models(started, folders, tmp_path):
    code, _, err = started("model_path=OTHER,ONE", "against=ONE/model", *FEW, "num_replies=4")
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["models"]) == [str(folders["OTHER"]), str(folders["ONE"])]
    assert results["against"]["reference"] == str(folders["ONE"])
    assert results["against"]["best_of"] == {}
    assert "proxy" not in results["models"][str(folders["OTHER"])]


def test_where_nobody_judges_kl_and_the_reward_models_opinion_remain(started, folders, tmp_path):
    code, out, err = started(
        *("model_path=OTHER", "against=ONE", "reward_model=RM", "best_of=2", "judge=none", *FEW)
    )
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    found = results["models"][str(folders["OTHER"])]
    assert {"kl", "proxy", "win_rate_proxy"} <= found.keys()
    assert not {"gold", "win_rate", "perfect"} & found.keys()
    assert results["against"]["best_of"]["2"].keys() == {"proxy", "kl"}
    assert "judge=mine.score names a function of yours" in " ".join(out.split())
    assert (tmp_path / "out/frontier.png").exists()
    assert not (tmp_path / "out/gold_and_proxy.png").exists()


def test_a_reward_models_run_stands_for_its_reward_model(started, folders, tmp_path):
    folders["RUN"] = folders["RM"].parent
    code, _, err = started(
        "model_path=ONE", "against=ONE", "reward_model=RUN", *FEW, "num_replies=2"
    )
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert "proxy" in results["models"][str(folders["ONE"])]


def test_without_it_there_is_none_of_it(started, tmp_path):
    code, _, err = started("model_path=ONE", *FEW, "num_replies=2")
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["against"] is None
    assert not list((tmp_path / "out").glob("*.png"))
    assert "<h2>Against" not in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("against=http://localhost:1/v1",), "a URL tells no probabilities: name a model folder"),
        (("model_path=http://localhost:1/v1", "against=ONE"), "a URL tells no probabilities"),
        (("against=nowhere/model",), "against=nowhere/model"),
        (("against=RM",), "a reward model, which gives a reply a number"),
        (("reward_model=RM",), "it is for policies: add against=MODEL"),
        (("best_of=4",), "best_of=4: it is for policies: add against=MODEL"),
        (("judge=gold",), "judge=gold: it is for policies: add against=MODEL"),
        (("against=OTHER", "best_of=4"), "best_of=4: a reward model chooses the best: add"),
        (("against=OTHER", "best_of=-1"), "best_of"),
        (("against=OTHER", "judge=golf"), "judge=golf: must be one of auto, gold, exact_match"),
        (("against=OTHER", "judge=nowhere.score"), "judge=nowhere.score: No module named"),
        (("against=OTHER", "reward_model=OTHER"), "reward_model="),
        (("against=OTHER", "reward_model=OTHER/model"), "no reward model: there is no score"),
        (("against=OTHER", "num_replies=0"), "replies are judged: raise num_replies"),
        (
            ("against=OTHER", "--config-dir=.", "+preset=theirs"),
            "judge=os.remove: a config names this function: add it to the command line",
        ),
        (("against=STRANGER",), "has another tokenizer than against="),
        (("against=OTHER", "generation.max_new_tokens=1000"), "no prompt leaves room for a reply"),
    ],
)
def test_a_mistake_is_one_line(started, tmp_path, arguments, what):
    (tmp_path / "preset").mkdir()
    preset = tmp_path / "preset/theirs.yaml"
    preset.write_text("# @package _global_\njudge: os.remove\n", encoding="utf-8")
    model = () if arguments[0].startswith("model_path") else ("model_path=ONE",)
    code, out, err = started(*model, *FEW, "num_replies=3", *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert what in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_models_that_a_run_kept_are_points_of_one_frontier(started, runs, folders, tmp_path):
    kept = runs("trainer.keep_every_n_steps=2") / "models"
    steps = sorted(path.name for path in kept.iterdir())
    assert len(steps) > 1
    code, out, err = started(f"model_path={kept}", "against=ONE", *FEW, "num_replies=4")
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["models"])[:-1] == [str(kept / step) for step in steps]
    assert all("kl" in results["models"][str(kept / step)] for step in steps)
    assert "the same settings: only chance" not in out
