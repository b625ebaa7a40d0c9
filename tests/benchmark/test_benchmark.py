"""The whole benchmark on a tiny model: every figure is there, and nothing is left behind."""

import json
import math
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src.benchmark import rounds
from src.benchmark.benchmark import benchmark
from src.benchmark.workers import run
from src.errors import UserError
from tests.benchmark.conftest import TINY, benchmark_config

ROOT = Path(__file__).parents[2]
TRAIN = ("ours", "bare_loop", "blog_as_written", "blog_packed", "huggingface")
GENERATE = (
    *("ours", "ours_bf16", "ours_int8", "ours_batch_32", "ours_int8_batch_32"),
    *("blog", "huggingface"),
)


class ThreadWorker:
    """A worker without a process of its own: nothing has to be imported again."""

    def __init__(self, variant, job, log):
        self.variant, self.job, self.pipe = variant, job, None

    def repeat(self, seconds):
        if self.pipe is None:
            self.pipe, theirs = multiprocessing.Pipe()
            threading.Thread(target=run, args=(self.variant, self.job, theirs)).start()
        self.pipe.send(seconds)
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        if self.pipe is not None:
            self.pipe.send(None)
            self.pipe = None


def expected_keys() -> set[str]:
    return {
        *(
            f"train.{name}.{figure}"
            for name in TRAIN
            for figure in ("real_tokens_per_second", "peak_memory_bytes", "share_of_matmul_peak")
        ),
        "train.lightning.ms_per_step",
        *(f"prepare.{name}.rows_per_second" for name in ("ours", "blog")),
        *("pack.utilisation", "pack.seconds"),
        *(f"generate.{name}.tokens_per_second" for name in GENERATE),
        *(f"ratio.train.ours_to_{name}" for name in TRAIN if name != "ours"),
        *("ratio.prepare.ours_to_blog", "ratio.generate.ours_to_blog"),
        *("ratio.generate.ours_to_huggingface", "ratio.generate.ours_batch_32_to_ours"),
    }


def test_every_figure_is_in_the_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rounds, "Worker", ThreadWorker)
    monkeypatch.setattr("src.benchmark.machine.MATMUL_SIZES", {"cpu": (64,)})
    monkeypatch.setattr("src.benchmark.machine.MATMUL_SECONDS", 0.01)
    names = f"variants=[{','.join({*TRAIN, *GENERATE})}]"
    benchmark(benchmark_config(*TINY, names), tmp_path)
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
    assert figures["train.huggingface.setting"] in [
        {key: value for key, value in tried.items() if key != "per_second"}
        for tried in figures["train.huggingface.settings"]
    ]
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    assert not (tmp_path / "work").exists()
    shown = capsys.readouterr().out
    assert "blog_as_written" in shown
    assert "machine: cpu" in shown


@pytest.fixture
def in_threads(monkeypatch):
    monkeypatch.setattr(rounds, "Worker", ThreadWorker)


@pytest.mark.usefixtures("in_threads")
def test_equal_work_from_the_command_line_to_the_table(tmp_path, capsys):
    """What would teach ours alone otherwise is taken back: dropout, adapters, other labels."""
    own = ("tiny.dropout=0.3", "lora.rank=4", "data.supervise=article", "learn.num_rows=150")
    short = ("learn.block_size=64", "learn.batch_size=4", "learn.epochs=0.3", "learn.seeds=2")
    names = "variants=[ours,huggingface,huggingface_padded]"
    what = ("what=learn", "data.max_rows=null", names)
    figures = benchmark(benchmark_config(*TINY, *own, *short, *what), tmp_path)
    assert figures["learn.ours.held_out_loss"] < figures["learn.held_out_loss_before"]
    first, second = figures["learn.ours.losses"].values()
    assert first != second
    for name in ("huggingface", "huggingface_padded"):
        assert abs(figures[f"learn.{name}.above_ours"]) < 1e-3
    assert "huggingface_padded" in capsys.readouterr().out


@pytest.mark.usefixtures("in_threads")
def test_growth_from_the_command_line_to_the_tables(tmp_path, capsys):
    sizes = [f"sizes.gpt2.{key}" for key in ("n_layer=1", "n_embd=16", "n_head=2")]
    points = ("scale.block_sizes=[32,64]", "scale.batch_sizes=[1,2]", "scale.num_rows=[50,100]")
    small = ("scale.cpu_models=[gpt2]", "scale.seconds=0", *sizes, "sizes.gpt2.vocab_size=400")
    figures = benchmark(benchmark_config(*TINY, "what=scale", *points, *small), tmp_path)
    points = {key.split(".")[3] for key in figures if key.startswith("scale.train.gpt2.")}
    assert points == {"32x1", "32x2", "64x1", "64x2"}
    assert figures["scale.prepare.100.rows_per_second"] > 0
    shown = capsys.readouterr().out
    assert "32 x 2" in shown
    assert "scale: rows" in shown


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


def test_a_variant_that_needs_a_gpu_is_named(tmp_path, caplog):
    config = benchmark_config(*TINY, "what=generate", "variants=[huggingface_static]")
    benchmark(config, tmp_path)
    assert "generate huggingface_static left out: needs a GPU" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "what=trian",
            "what=trian: must be one of train, prepare, pack, generate, scale, learn, all",
        ),
        ("variants=[our]", "variants: what=all has no our; it has bare_loop, blog"),
        ("scale.block_sizes=[2048]", "scale.block_sizes=[2048]: gpt2 has 1024 positions"),
        ("scale.seconds=inf", "scale.seconds=inf: must be 0 or more, and finite"),
        ("learn.epochs=nan", "learn.epochs=nan: must be above 0, and finite"),
        ("scale.cpu_models=[huge]", "scale.cpu_models: there is no huge; there are gpt2, medium"),
        ("learn.block_size=512", "learn.block_size=512: tiny has 256 positions"),
        ("scale.num_rows=[0]", "scale.num_rows=[0]: each must be at least 1"),
        ("learn.epochs=0", "learn.epochs=0.0: must be above 0"),
        ("repeats=0", "repeats=0: must be at least 1"),
        ("seconds=-1", "seconds=-1"),
        ("batch_size=some", "batch_size=some: must be at least 1, or auto"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        benchmark_config(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "name"), [("learn", "trl_best"), ("train", "trl"), ("pack", "ours")]
)
def test_a_variant_of_another_part_is_a_mistake(what, name):
    with pytest.raises(UserError, match=f"variants: what={what} has no {name}; it has"):
        benchmark_config(f"what={what}", f"variants=[{name}]")


def test_pretrained_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.pretrained=gpt2"):
        benchmark(benchmark_config(*TINY, "model.pretrained=gpt2", "model.tokenizer=x"), tmp_path)


@pytest.mark.slow
def test_the_command_measures_variants_of_every_part_in_processes_of_their_own(tmp_path):
    """Each kind of variant once; the others are the same work with another setting."""
    pytest.importorskip("trl")
    train = ("ours", "bare_loop", "blog_packed", "huggingface", "trl_default")
    generate = ("ours", "ours_int8", "blog", "huggingface")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "src.benchmark",
            *TINY,
            "keep_alive=true",
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
    assert {f"prepare.{name}.rows_per_second" for name in ("ours", "blog")} <= figures.keys()
    assert figures["pack.utilisation"] > 0.999
    assert len({figures[f"train.{name}.peak_memory_bytes"] for name in train}) > 1
    assert "Traceback" not in done.stderr
    assert "leaked" not in done.stderr
