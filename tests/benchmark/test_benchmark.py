"""The whole benchmark on a tiny model: every figure is there, and nothing is left behind."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.benchmark import turns
from src.benchmark.benchmark import PARTS, chosen_parts, measure, tables, tables_of
from src.benchmark.turns import work_here
from src.errors import UserError
from tests.benchmark.conftest import TINY, benchmark_config

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
TRAIN = ("ours", "bare_loop", "article_as_written", "article_packed", "huggingface")
GENERATE = (
    *("ours", "ours_fp16", "ours_bf16", "ours_int8", "ours_batch_32", "ours_int8_batch_32"),
    *("ours_prompt_900", "ours_batch_64", "ours_sampled_batch_64", "article", "huggingface"),
)


@pytest.fixture
def in_this_process(monkeypatch):
    """Turns without processes of their own: nothing has to be imported again."""
    monkeypatch.setattr(turns, "take_turn", work_here)
    monkeypatch.setattr("src.benchmark.machine.CPU_MATMUL_SIZES", (64,))
    monkeypatch.setattr("src.benchmark.machine.MATMUL_SECONDS", 0.01)


def expected_keys() -> set[str]:
    return {
        *(
            f"train.{name}.{figure}"
            for name in TRAIN
            for figure in (
                *("real_tokens_per_second", "peak_memory_bytes"),
                *("share_of_matmul_peak", "seconds_per_step"),
            )
        ),
        "train.lightning.ms_per_step",
        *(f"prepare.{name}.rows_per_second" for name in ("ours", "article")),
        *("pack.utilisation", "pack.seconds"),
        *(f"generate.{name}.tokens_per_second" for name in GENERATE),
        *(f"ratio.train.ours_to_{name}" for name in TRAIN if name != "ours"),
        *("ratio.prepare.ours_to_article", "ratio.generate.ours_to_article"),
        *("ratio.generate.ours_to_huggingface", "ratio.generate.ours_batch_32_to_ours"),
        "ratio.generate.ours_sampled_batch_64_to_ours_batch_64",
    }


@pytest.mark.usefixtures("in_this_process")
def test_every_figure_is_in_the_json_and_in_the_tables(tmp_path, capsys):
    names = f"variants=[{','.join({*TRAIN, *GENERATE})}]"
    measure(benchmark_config(*TINY, names), tmp_path, ["what=all"])
    figures = json.loads((tmp_path / "benchmark.json").read_text())
    keys = expected_keys()
    assert keys <= figures.keys()
    for key in keys - {"train.lightning.ms_per_step"}:  # of two noisy figures the difference
        assert math.isfinite(figures[key]), key
        assert figures[key] > 0, key
    for key in keys:
        spread = figures.get(key.removesuffix(key.rpartition(".")[2]) + "spread")
        assert spread is None or spread[0] <= spread[1], key
    assert figures["pack.utilisation"] > 0.999
    assert figures["machine.cores"] >= 1
    assert figures["rows.num"] == 200
    assert figures["command"] == "python -m src.benchmark what=all"
    assert {"git.commit", "machine.torch", "machine.lightning", "date"} <= figures.keys()
    assert figures["train.huggingface.setting"] in [
        {key: value for key, value in tried.items() if key != "per_second"}
        for tried in figures["train.huggingface.settings"]
    ]
    assert not (tmp_path / "work").exists()
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out
    assert text == tables_of(figures) == tables(tmp_path / "benchmark.json")
    for shown in ("| article_as_written ", "ours_int8 is ", "Lightning costs", "Packing 258,042"):
        assert shown in text
    table_lines = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, table_lines)) <= 100


@pytest.mark.whole
@pytest.mark.usefixtures("in_this_process")
def test_equal_work_from_the_command_line_to_the_table(tmp_path, capsys, monkeypatch):
    """What would teach ours alone otherwise is taken back: dropout, adapters, other labels."""
    own = ("tiny.dropout=0.3", "lora.rank=4", "data.supervise=article", "tiny.n_positions=64")
    monkeypatch.setattr("src.benchmark.learn.EPOCHS", 0.3)
    names = "variants=[ours,huggingface,huggingface_padded]"
    what = ("what=learn", "data.max_rows=null", names)
    figures = measure(benchmark_config(*TINY, *own, *what), tmp_path)
    assert figures["learn.ours.held_out_loss"] < figures["learn.held_out_loss_before"]
    assert figures["learn.ours.num_tokens"] >= figures["rows.num"]
    first, second = figures["learn.ours.losses"].values()
    assert first != second
    for name in ("huggingface", "huggingface_padded"):
        assert abs(figures[f"learn.{name}.above_ours"]) < 1e-3
    assert "huggingface_padded" in capsys.readouterr().out


@pytest.mark.usefixtures("in_this_process")
def test_growth_with_rows_is_shown_run_by_run(tmp_path):
    for num_rows in (50, 100):
        what = ("what=prepare", "variants=[ours]", f"data.max_rows={num_rows}", "repeats=1")
        measure(benchmark_config(*TINY, *what), tmp_path / str(num_rows))
    assert tables(tmp_path).count("| ours  ") == 2


def test_a_path_alone_names_a_file_with_all_that_is_a_files():
    def shown(*overrides: str) -> str:
        command = [sys.executable, "-m", "src.benchmark", "--cfg", "job", *overrides]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout

    alone = shown("data.path=rows.jsonl")
    assert "source: file" in alone
    assert alone == shown("data=file", "data.path=rows.jsonl")
    assert alone == shown("++data.path=rows.jsonl")
    for others in (("data=sample", "data.path=rows.jsonl"), ("data.path=null",)):
        assert "source: sample" in shown(*others)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "what=trian",
            "what=trian: must be one of train, prepare, pack, generate, cores, learn, "
            "preferences, all",
        ),
        ("variants=[our]", "variants: what=all has no our; it has article, article_as_written"),
        ("repeats=0", "repeats=0: must be at least 1"),
        ("num_rows=0", "num_rows=0: must be at least 1"),
        ("seconds=-1", "seconds=-1"),
        ("batch_size=some", "batch_size=some: must be at least 1, or auto"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        chosen_parts(benchmark_config(override))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "name"), [("learn", "trl_best"), ("train", "trl"), ("pack", "ours")]
)
def test_a_variant_of_another_part_is_a_mistake(what, name):
    with pytest.raises(UserError, match=f"variants: what={what} has no {name}; it has"):
        chosen_parts(benchmark_config(f"what={what}", f"variants=[{name}]"))


def test_the_names_of_parts_and_variants_differ():
    assert len({part.name for part in PARTS}) == len(PARTS)
    for part in PARTS:
        known = set()
        for kind in ("cpu", "cuda"):
            names = [variant.name for variant in part.variants(torch.device(kind))]
            assert len(set(names)) == len(names)
            known |= set(names)
        assert {name for pair in part.ratios for name in pair} <= known


def test_pretrained_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.pretrained=gpt2"):
        measure(benchmark_config(*TINY, "model.pretrained=gpt2", "model.tokenizer=x"), tmp_path)


@pytest.mark.parametrize(
    "key",
    ["data.isolate_documents=false", "data.reset_positions=false", "data.prompt_loss_weight=1"],
)
def test_what_the_peers_do_not_do_is_refused(key, tmp_path):
    with pytest.raises(UserError, match=key.partition("=")[0]):
        measure(benchmark_config(*TINY, key), tmp_path)


@pytest.mark.whole
def test_the_command_measures_variants_of_every_part_in_processes_of_their_own(tmp_path):
    """Each kind of variant once; the others are the same work with another setting."""
    pytest.importorskip("trl")
    train = ("ours", "bare_loop", "article_packed", "huggingface", "trl_default")
    generate = ("ours", "ours_int8", "article", "huggingface")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "src.benchmark",
            *TINY,
            f"variants=[{','.join({*train, *generate})}]",
            f"hydra.run.dir={tmp_path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "benchmark.json").read_text())
    assert {f"train.{name}.real_tokens_per_second" for name in train} <= figures.keys()
    assert {f"generate.{name}.tokens_per_second" for name in generate} <= figures.keys()
    assert {f"prepare.{name}.rows_per_second" for name in ("ours", "article")} <= figures.keys()
    assert len({figures[f"train.{name}.peak_memory_bytes"] for name in train}) > 1
    assert "Traceback" not in done.stderr
    assert "leaked" not in done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "src.benchmark", f"show={tmp_path}/benchmark.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == (tmp_path / "benchmark.md").read_text().strip()
    assert not again.stderr
