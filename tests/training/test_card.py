"""The model card: true, valid for the hub, and no place for other people's Markdown."""

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from src.exporting.exports import open_model_folder, write_hugging_face_folder
from src.training.card import Card, code
from src.training.purpose import PYTHON, TALKS
from tests.training.conftest import metrics, train_config

# https://huggingface.co/docs/hub/model-cards#model-card-metadata
KEYS = {
    *("language", "license", "library_name", "tags", "datasets", "metrics", "base_model"),
    *("pipeline_tag", "model-index", "license_name", "license_link"),
}


cached_config = lru_cache(train_config)


def card(*overrides: str, **of_data: Any) -> Card:
    """A card of a run that never was: rows are counts here."""
    config = cached_config(*overrides)
    data = replace(config.data, **of_data)
    blocks = SimpleNamespace(num_tokens=1000)
    module = SimpleNamespace(
        source=SimpleNamespace(sources=[SimpleNamespace(config=data)]),
        report=SimpleNamespace(
            used=Counter(train=90, validation=5, test=5), dropped=Counter(empty=3), read=103
        ),
        splits=dict.fromkeys(("train", "validation", "test"), blocks),
        max_length=64,
    )
    plan = SimpleNamespace(
        num_steps=100,
        block_size=64,
        step=SimpleNamespace(num_parameters=1234),
        machine=SimpleNamespace(precision="32-true"),
    )
    return Card(config, module, plan, "my run", TALKS)  # type: ignore[arg-type]


def header(text: str) -> dict[str, Any]:
    return ModelCard(text).data.to_dict()


def test_a_run_leaves_a_card_that_is_true(small_run, monkeypatch, capsys, tmp_path):
    run = small_run("data.max_rows=60", "max_steps=2", "sample_prompts=[]")
    path = run / "model" / "README.md"
    text = path.read_text("utf-8")
    values = metadata_load(path)
    assert values is not None
    assert set(values) <= KEYS
    assert values["license"] == "mit"
    assert values["model-index"][0]["results"]
    figures = metrics(run)
    assert f"| test loss | {figures['test/loss']:.4f} |" in text
    assert f"| validation loss | {figures['best_val/loss']:.4f} |" in text
    assert "| train | 60 |  |" in text
    scored = {"validation": figures["val/num_rows"], "test": figures["test/num_rows"]}
    for split, number in scored.items():
        (words,) = re.findall(rf"^\| {split} \| (\d+) \| (all|\d+) \|", text, re.M)
        assert number == int(words[0] if words[1] == "all" else words[1])
    assert "README.md" not in (run / "model" / "SHA256SUMS").read_text("utf-8")

    # The code of the card answers, as it stands there.
    assert PYTHON in text
    monkeypatch.chdir(run / "model")
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    assert len(capsys.readouterr().out.splitlines()) >= 1

    # An export takes it along, and it may be edited without a warning.
    monkeypatch.chdir(tmp_path)
    path.write_text(text + "\nMine.\n", "utf-8")
    source = open_model_folder(str(run / "model"))
    write_hugging_face_folder(source, tmp_path / "exported", overwrite=False)
    assert (tmp_path / "exported" / "README.md").read_text("utf-8").endswith("Mine.\n")
    assert "README.md" not in (tmp_path / "exported" / "SHA256SUMS").read_text("utf-8")


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "hub": (("model=gpt2",), {}),
    "sample": (("experiment=quickstart",), {}),
    "file": (("data=file", "data.path=rows.jsonl", "model=gpt2"), {}),
    "files": (("data=file", "data.path=[a.jsonl,b.jsonl]"), {}),
    "lora": (("model=gpt2", "lora.rank=8"), {}),
    "local": (("model=gpt2", "model.pretrained=/home/me/private/gpt2"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_header_is_read_by_the_hubs_library(case):
    overrides, of_data = CASES[case]
    text = card(*overrides, **of_data).text({"test/loss": 1.5, "exact_match": 0.5, "step": 50})
    values = header(text)
    assert set(values) <= KEYS
    assert values["pipeline_tag"] == "text-generation"
    again = ModelCard(str(ModelCard(text)))
    assert again.data.to_dict() == values
    assert again.text == ModelCard(text).text
    assert "step 50 of 100" in text


def test_it_says_how_many_conversations_were_scored():
    text = card("model=gpt2").text({"test/loss": 1.5, "test/num_rows": 4, "val/num_rows": 5})
    assert "| test | 5 | 4 | 1,000 |" in text
    assert "| validation | 5 | all | 1,000 |" in text


def test_the_header_names_what_is_on_the_hub():
    values = header(card("model=gpt2").text({}))
    assert values["base_model"] == "openai-community/gpt2"
    assert values["datasets"] == ["alespalla/chatbot_instruction_prompts"]
    assert "license" not in values  # that of the rows is not known here


def test_no_path_of_this_machine_is_in_it():
    text = card(*CASES["local"][0], source="file", path="/home/me/secret/rows.jsonl").text({})
    assert "/home/me" not in text
    assert "base_model" not in text
    assert "`rows.jsonl`" in text


HOSTILE = [
    "](https://evil.example) [click",
    "<script>alert(1)</script>",
    "a\n\n# Heading\n---\nlicense: evil\n---\n",
    "``` \n```python\nimport os",
    "`code` and ``more``",
    "| a | b |",
    "![image](x)",
    "\x1b[31mred",
    "---",
    ": {[",
    "owner/name\nlicense: evil",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("source", ["hub", "file"])
def test_the_name_of_rows_is_a_name_and_no_markdown(name, source):
    made = card("model=gpt2", source=source, path=name)
    made.name = name
    text = made.text({"test/loss": 1.0})
    values = header(text)
    assert values.get("license") is None
    assert set(values) <= KEYS
    assert ModelCard(text).text.count("\n# ") + ModelCard(text).text.startswith("# ") == 1
    body = re.sub(r"^```.*?^```", "", ModelCard(text).text, flags=re.S | re.M)
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body)
    for sign in ("evil", "<script", "alert", "\x1b", "import os", "click", "image"):
        assert sign not in outside


@pytest.mark.parametrize("text", [*HOSTILE, "", " ", "`", "a`", "``a"])
def test_code_is_one_line_whose_fence_is_longer_than_any_in_it(text):
    shown = code(text)
    assert "\n" not in shown
    fence = re.match(r"`+", shown)[0]
    assert shown.endswith(fence)
    inner = shown[len(fence) : -len(fence)]
    assert fence not in inner
    assert re.search(r"(?<!\\)\|", shown) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "text"])
def test_a_figure_that_is_no_number_is_left_out(value):
    text = card("model=gpt2").text({"val/loss": value, "test/loss": value})
    assert "None yet." in text
    assert "model-index" not in header(text)


def test_a_run_that_began_small_says_so():
    text = card("experiment=quickstart").text({"val/loss": 2.0, "step": 3})
    assert "knows nothing else" in text
    assert "random weights" in text
    assert header(text)["license"] == "mit"
    assert header(text)["language"] == "en"


@pytest.mark.parametrize("origin", ["outputs/train/RUN", "/home/me/RUN/model"])
def test_a_run_that_went_on_from_another_says_so(origin):
    text = card("experiment=quickstart", f"continue_from={origin}").text({"step": 3})
    assert "random weights, went on from those of `RUN`, with what they had learned, and" in text
    assert "/home/me" not in text
    assert "license" not in header(text)  # what the other learned from may have another
