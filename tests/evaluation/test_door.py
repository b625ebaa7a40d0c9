"""The door of evaluation, on the small runs that the training's tests train."""

import json
import shlex
import shutil

import pytest

from src.command.cli import named_file
from src.evaluate import FREE_TEXT, evaluate
from src.sweeps.state import Job, Sweep, write_sweep
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.evaluation.conftest import DATA, ROUNDING
from tests.model.conftest import random_model, tiny_config

FEW = (*DATA, "data.block_size=64", "num_replies=20", "generation.max_new_tokens=4")


@pytest.fixture
def judge(door, tmp_path):
    """Evaluate; return the results, standard output and standard error."""

    def run(*arguments: str):
        code, out, err = door(
            evaluate,
            "evaluate",
            *arguments,
            f"output={tmp_path / 'out'}",
            free_text=FREE_TEXT,
            rewrite=named_file,
        )
        assert code == 0, err
        return json.loads((tmp_path / "out/results.json").read_text()), out, err

    return run


@pytest.fixture
def refused(door):
    """Evaluate what cannot be; return the one line."""

    def run(*arguments: str) -> str:
        code, out, err = door(evaluate, "evaluate", *arguments, free_text=FREE_TEXT)
        assert (code, out) == (2, "")
        *_, last = err.splitlines()
        assert last.startswith("error: ")
        return last

    return run


def test_one_model(judge, runs, tmp_path):
    run = runs()
    results, out, err = judge(f"model_path={run}", *FEW)
    figures = results["models"][str(run)]
    logged = json.loads((run / "metrics.json").read_text())
    assert figures["loss"]["value"] == pytest.approx(logged["test/loss"], abs=ROUNDING)
    assert figures["accuracy"]["value"] == pytest.approx(logged["test/accuracy"], abs=1e-6)
    for name in ("loss", "perplexity", "bits_per_byte", "accuracy", "accuracy_article"):
        assert figures[name]["low"] < figures[name]["value"] < figures[name]["high"]
    assert {"exact_match", "exact_match/turn_1", "loss/turn_1", "ended"} <= figures.keys()
    assert len(results["rows"]) == results["data"]["num_rows"] == 120
    assert sum("reply" in row["models"][str(run)] for row in results["rows"]) == 20
    parts = [row["models"][str(run)] for row in results["rows"]]
    parts = [part for part in parts if "loss" in part]  # the others are too long for the model
    nats = sum(part["loss"] * part["num_scored_tokens"] for part in parts)
    count = sum(part["num_scored_tokens"] for part in parts)
    assert nats / count == pytest.approx(figures["loss"]["value"])
    assert results["differences"] == {}
    *lines, report, found = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert report == f"report:  {tmp_path / 'out/report.html'}"
    assert found == f"figures: {tmp_path / 'out/results.json'}"
    assert "scoring rows" in err
    assert results["commit"]
    assert results["versions"]["torch"]
    assert shlex.split(results["command"])[:3] == ["python", "-m", "src.evaluate"]
    page = (tmp_path / "out/report.html").read_text()
    assert results["commit"] in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_run_cuts_its_rows_as_it_did_in_training(judge, runs):
    run = runs()
    results, *_ = judge(f"model_path={run}", *DATA, "num_replies=0")
    logged = json.loads((run / "metrics.json").read_text())
    value = results["models"][str(run)]["loss"]["value"]
    assert value == pytest.approx(logged["test/loss"], abs=ROUNDING)
    assert results["about"][str(run)]["cut_at"] == 64
    assert "exact_match" not in results["models"][str(run)]


def test_an_articles_run_is_scored_its_way(judge, runs):
    run = runs("data.supervise=article")
    results, *_ = judge(f"model_path={run}", *FEW, "data.supervise=article", "num_replies=0")
    logged = json.loads((run / "metrics.json").read_text())
    figures = results["models"][str(run)]
    assert figures["loss"]["value"] == pytest.approx(logged["test/loss"], abs=ROUNDING)
    assert figures["accuracy"]["value"] == pytest.approx(logged["test/accuracy"], abs=1e-6)
    assert figures["accuracy_article"]["value"] == pytest.approx(logged["test/accuracy"], abs=0.02)


def test_exact_match_is_the_one_that_training_scored(judge, runs):
    run = runs("exact_match=true")
    results, *_ = judge(f"model_path={run}", *FEW, "num_replies=null")
    logged = json.loads((run / "metrics.json").read_text())
    figures = results["models"][str(run)]
    names = {name for name in figures if name.startswith("exact_match")}
    assert names == {n for n in logged if n.startswith("exact_match")} - {
        "exact_match_nearest_neighbour"
    }
    assert all(figures[name]["value"] == logged[name] for name in names)


def test_the_same_model_twice_has_no_difference(judge, runs, tmp_path):
    copy = tmp_path / "a copy, with a comma"
    shutil.copytree(runs() / "model", copy)
    results, out, _ = judge(f"model_path={runs()},{copy},{copy}", *FEW)
    assert list(results["models"]) == [str(runs()), str(copy), f"{copy} (2)"]
    assert "no difference" in out
    assert "better" not in out
    assert not any(
        found["certain"] or found["value"]
        for models in results["differences"].values()
        for found in models.values()
    )


def test_seeds_of_one_setting_are_grouped(judge, runs):
    both = [str(runs()), str(runs("seed=2"))]
    results, out, _ = judge(f"model_path={','.join(both)}", *FEW)
    (group,) = results["seeds"]
    assert group["models"] == both
    assert group["figures"]["loss"]["standard_deviation"] > 0
    assert "differ in nothing but their seed" in " ".join(out.split())


def test_models_with_different_tokenizers(judge, runs):
    other = runs("model.vocab_size=400")
    results, out, _ = judge(f"model_path=[{runs()},{other}]", *FEW, "data.block_size=null")
    assert "loss" not in results["differences"]
    assert "bits_per_byte" in results["differences"]
    assert "chrf" in results["differences"] or "exact_match" in results["differences"]
    assert "Different tokenizers" in out


def test_a_file_of_prompts(judge, runs, tmp_path):
    path = tmp_path / "what's asked, here.jsonl"
    path.write_text('{"prompt": "Who are you?"}\n{"prompt": "1 + 1", "response": "<b>2</b>"}\n')
    results, out, _ = judge(f"model_path={runs()}", f"prompts={path}", *FEW)
    assert results["data"] == {
        "rows": "prompts",
        "source": str(path),
        "num_rows": 2,
        "num_scored": 1,
        "num_asked": 2,
    }
    assert [row["reference"] for row in results["rows"]] == [None, "<b>2</b>"]
    figures = results["models"][str(runs())]
    assert figures["loss"] == {"value": figures["loss"]["value"], "low": None, "high": None}
    assert "Only 2 rows" in out


def test_prompts_alone_have_figures_of_replies_alone(judge, runs, tmp_path):
    (tmp_path / "ask.txt").write_text("Who are you?\n" + "too long " * 500)
    results, out, _ = judge(f"model_path={runs()}", f"prompts={tmp_path / 'ask.txt'}", *FEW)
    figures = results["models"][str(runs())]
    assert "loss" not in figures
    assert figures["ended"]["value"] is not None
    assert "1 of 2 questions are too long for it" in out


def test_a_model_that_is_not_finite_is_said_to_be(judge, tokenizer, tmp_path):
    import torch

    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        model.wte.weight[5] = 1e30
        model.ln_f.weight.fill_(1e30)
    save_model_folder(tmp_path / "model", model, tokenizer, greedy(4))
    results, out, _ = judge(f"model_path={tmp_path / 'model'}", *FEW, "num_replies=0")
    assert results["models"][str(tmp_path / "model")]["loss"]["value"] is None
    assert "rows is not finite" in " ".join(out.split())


def test_without_a_model_of_ours_it_says_what_to_do(refused):
    assert "no trained model in outputs/train" in refused()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model_path=nowhere/at/all"], "model_path=nowhere/at/all"),
        (["model_path=a,,b"], "is empty"),
        (["model_path=http://127.0.0.1:9/v1"], "no OpenAI-compatible server"),
        (["batch_size=0"], "batch_size=0: must be at least 1"),
        (["num_resamples=10"], "num_resamples=10: must be at least 1000"),
        (["split=dev"], "split=dev: must be one of train, validation, test"),
        (["exact_match=perhaps"], "exact_match=perhaps: must be one of auto, true, false"),
        (["precision=8"], "precision=8: must be one of"),
    ],
)
def test_mistakes_are_one_line(refused, arguments, words):
    assert words in refused(*arguments)


def test_mistakes_beside_a_model_are_one_line(refused, runs, tmp_path):
    model = f"model_path={runs()}"
    assert "there is no such file" in refused(model, "prompts=none.jsonl")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "response": "Ho"}\n')
    no_test = refused(model, "data=file", f"data.path={rows}")
    assert "split=test: the data has no rows there (1 in train" in no_test
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "there is something in it" in refused(model, f"output={tmp_path / 'full'}")
    assert not (tmp_path / "outputs").exists()  # no folder before the settings are right


def test_rows_of_training_are_no_test(judge, runs, tmp_path):
    """Said on the terminal and in the results; the rows and figures stay what was asked for."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"p{i}", "response": "r"}) + "\n" for i in range(60))
    )
    run = shutil.copytree(runs(), tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["settings"] |= {
        "data.path": str(rows),
        "data.test_fraction": 0.1,
        "data.validation_fraction": 0.1,
    }
    (run / "run.json").write_text(json.dumps(record))
    data = ("data=file", f"data.path={rows}", "num_replies=0")
    results, out, _ = judge(f"model_path={run}", *data, "data.test_fraction=0.4")
    assert "may have learned from some of these rows" in " ".join(out.split())
    assert any("may have learned" in note for note in results["about"][str(run)]["notes"])
    shutil.rmtree(tmp_path / "out")
    results, out, _ = judge(f"model_path={run}", *data, "data.test_fraction=0.1")
    assert "may have learned" not in out


def test_the_rows_are_those_of_the_run_unless_others_are_chosen(judge, runs, tmp_path):
    run = runs()
    results, out, _ = judge(f"model_path={run}", "num_replies=0")
    logged = json.loads((run / "metrics.json").read_text())
    value = results["models"][str(run)]["loss"]["value"]
    assert value == pytest.approx(logged["test/loss"], abs=ROUNDING)
    assert results["data"]["num_rows"] == 120  # data.max_rows of the run
    assert f"rows: the rows that {run} held out" in " ".join(out.split())
    assert max(map(len, out.splitlines()[:-2])) <= 100
    shutil.rmtree(tmp_path / "out")
    results, out, _ = judge(f"model_path={run}", "num_replies=0", "data.max_rows=40")
    assert results["data"]["num_rows"] == 40
    assert "held out" in out
    shutil.rmtree(tmp_path / "out")
    results, out, _ = judge(f"model_path={run}", "num_replies=0", "data=sample")
    assert results["data"]["num_rows"] > 120
    assert "held out" not in out


def test_a_path_alone_is_a_file(judge, runs, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "1 + 1", "response": "2"}\n' * 3)
    results, *_ = judge(f"model_path={runs()}", f"data.path={path}", "split=train", "num_replies=0")
    assert (results["data"]["source"], results["data"]["num_rows"]) == (str(path), 3)


def copy_of(run, folder, **data):
    """Copy a run as one that learned from other data."""
    shutil.copytree(run, folder)
    record = json.loads((folder / "run.json").read_text())
    record["config"]["data"] |= data
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_runs_of_different_rows_are_judged_on_those_of_the_first(judge, runs, tmp_path):
    path = tmp_path / "${rows}.jsonl"
    path.write_text('{"prompt": "1 + 1", "response": "2"}\n' * 3)
    other = copy_of(runs(), tmp_path / "other", source="file", path=str(path))
    results, out, _ = judge(f"model_path=[{runs()},{other}]", "num_replies=0")
    assert results["data"]["num_rows"] == 120
    notes = results["about"][str(other)]["notes"]
    assert f"its run learned from other rows than these: {path}" in notes
    assert not any("other rows" in note for note in results["about"][str(runs())]["notes"])
    shutil.rmtree(tmp_path / "out")
    results, out, _ = judge(f"model_path=[{other},{runs()}]", "num_replies=0", "split=train")
    assert (results["data"]["source"], results["data"]["num_rows"]) == (str(path), 3)
    assert f"rows: the rows that {other} held out" in " ".join(out.split())


def test_a_folder_of_runs_is_all_of_them(judge, refused, runs, tmp_path):
    sweep = tmp_path / "sweep"
    for name in ("lr1_10", "lr1_9", "lr1_8"):
        copy_of(runs() if name != "lr1_10" else runs("seed=2"), sweep / name)
    (sweep / "lr1_11").mkdir()
    (sweep / "lr1_11/run.json").write_text("{}")  # it failed
    jobs = tuple(Job(f"lr1_{number}", {"lr": number}) for number in range(8, 14))
    write_sweep(sweep, Sweep(num_jobs=len(jobs), jobs=jobs))
    (sweep / "lr1_12").mkdir()  # refused: it has a status alone; the last was never begun
    refusal = {"state": "failed", "reason": "batch_size=0: must be at least 1", "exit_code": 2}
    (sweep / "lr1_12/status.json").write_text(json.dumps(refusal))
    stopped = json.loads((sweep / "lr1_9/status.json").read_text())
    stopped |= {"state": "stopped", "reason": "SIGINT"}
    (sweep / "lr1_9/status.json").write_text(json.dumps(stopped))
    results, out, err = judge(f"model_path={sweep}", "num_replies=0")
    assert [*results["models"]] == [str(sweep / f"lr1_{n}") for n in (8, 9, 10)]
    left_out = [
        f"{sweep}/lr1_11 (killed)",
        f"{sweep}/lr1_12 (failed: batch_size=0: must be at least 1)",
        f"{sweep}/lr1_13 (waiting)",
    ]
    assert f"left out, as they have no model: {', '.join(left_out)}" in err
    assert results["left_out"] == left_out
    assert "lr1_12 (failed: batch_size=0" in (tmp_path / "out/report.html").read_text("utf-8")
    assert f"judged as they are, not finished: {sweep}/lr1_9 (stopped: SIGINT)" in err
    assert "the best first: 1. lr1_" in " ".join(out.split())
    for name in ("lr1_8", "lr1_9", "lr1_10"):
        shutil.rmtree(sweep / name)
    assert "none of its 1 runs has a model yet" in refused(f"model_path={sweep}")
    assert "there is no such folder" in refused(f"model_path={tmp_path / 'swep'}")


def test_the_rows_of_a_run_that_are_gone_are_named(refused, runs, tmp_path):
    run = copy_of(runs(), tmp_path / "run", source="file", path="gone.jsonl")
    said = refused(f"model_path={run}")
    assert "data.path=gone.jsonl: there is no such file" in said
    assert f"the rows that {run} held out; data=... names others" in said
