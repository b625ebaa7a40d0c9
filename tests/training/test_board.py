"""What TensorBoard's files hold: charts, the row of a run, tables and histograms."""

import html
import json
import math
import random
import re

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from src.objectives.positions import positions
from src.training.events import event_files, events_folder
from src.training.gradient_norms import MOST, GradientNorms
from src.training.hparams import VISIBLE, Choices, Row, start_summaries
from src.training.loggers import config_table
from src.training.shown import BINS, histogram, markdown_table
from tests.conftest import greedy
from tests.training.conftest import curves
from tests.training.test_resume import Killed, kill_at

DEFAULTS = {
    "batch_size": 32,
    "seed": 1,
    "max_steps": None,
    "optimizer.learning_rate": 2.5e-4,
    "optimizer.weight_decay": 0.01,
    "data.packing": True,
    "data.path": None,
    "data.corpus_dir": "outputs/corpora",
    "micro_batch_size": "auto",
}


def row(swept=(), **changes) -> Row:
    asked = DEFAULTS | {key.replace("__", "."): value for key, value in changes.items()}
    return Row(asked | {"micro_batch_size": 4}, asked, Choices(DEFAULTS, dict(swept)))


def start_info(one: Row):
    experiment, start = start_summaries(one, ["val/loss"])
    return (
        metadata.parse_experiment_plugin_data(content(experiment)),
        metadata.parse_session_start_info_plugin_data(content(start)),
    )


def content(summary) -> bytes:
    return summary.value[0].metadata.plugin_data.content


def events(run) -> EventAccumulator:
    found = EventAccumulator(str(run), size_guidance={"tensors": 0, "histograms": 0})
    return found.Reload()


def test_a_row_holds_what_was_swept_or_differs_each_as_what_it_is():
    one = row(
        {"batch_size": "32", "model": "tiny"},
        data__path="rows.jsonl",
        data__packing=False,
        optimizer__weight_decay=0.1,
        data__corpus_dir="elsewhere",
    )
    experiment, start = start_info(one)
    values = {key: value.WhichOneof("kind") for key, value in start.hparams.items()}
    assert values == {
        "batch_size": "number_value",  # swept, though it is the default
        "model": "string_value",
        "optimizer.learning_rate": "number_value",
        "optimizer.weight_decay": "number_value",
        "seed": "number_value",
        "data.path": "string_value",
        "data.packing": "bool_value",
    }
    assert start.hparams["optimizer.weight_decay"].number_value == 0.1
    # The rest can be asked for: another run may differ in it.
    infos = {info.name: info.differs for info in experiment.hparam_infos}
    assert infos.keys() == {*values, "max_steps"}
    assert sum(infos.values()) == VISIBLE
    assert {key for key, seen in infos.items() if seen} > {"batch_size", "model", "seed"}
    assert [info.name.tag for info in experiment.metric_infos] == ["val/loss"]


def test_the_table_of_the_config_names_the_default_beside_what_is_another():
    columns, rows = config_table(row(optimizer__weight_decay=0.1))
    assert len(columns) == 3
    assert rows[0] == ["optimizer.weight_decay", "0.1", "0.01"]
    assert ["micro_batch_size", "4", ""] in rows
    assert len(rows) == len(DEFAULTS)


def test_what_was_decided_is_no_difference():
    assert row().differing == []
    assert "micro_batch_size" not in row().values
    assert row({"micro_batch_size": "auto"}).values["micro_batch_size"] == 4


@pytest.mark.parametrize(
    "text",
    [
        "a | b || c",
        "one\ntwo\n\n  three",
        "<b>bold</b> <script>alert(1)</script> <!-- x",
        "**a** _b_ `c|d` ``` ~~e~~ [f](http://g) ![h](i) \\| \\",
        "# head\n- item\n| x | y |\n|---|---|",
        "&lt; &#124; &amp",
        "\x00\x1b[31m\u202e",
        "",
    ],
)
def test_a_table_shows_any_text_as_it_is(text):
    shown = markdown_to_safe_html(markdown_table(["prompt", text], [["x", text], [text, "y"]]))
    assert shown.count("<td>") == 4
    assert shown.count("<th>") == 2
    cell = shown.split("<td>")[2].split("</td>")[0].replace("<br>", "\n")
    assert "<" not in cell
    lines = [line.strip() for line in text.strip().split("\n")]
    expected = "\n".join(
        "".join(c if c.isprintable() else "\ufffd" for c in line) for line in lines
    )
    assert html.unescape(cell).strip() == expected.strip()


def test_a_run_shows_charts_tables_and_histograms_from_its_start(small_run):
    run = small_run("data.max_rows=90")
    scalars, found = curves(run), events(run)
    assert not {tag for tag in scalars if tag == "epoch" or tag.startswith("final/")}
    config = layout_pb2.Layout.FromString(
        found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    charts = {c.title: list(c.multiline.tag) for group in config.category for c in group.chart}
    assert charts["loss: train and val"] == ["(train|val)/loss$"]
    drawn = {tag for tag in scalars for tags in charts.values() if _matches(tags, tag)}
    assert drawn >= {"train/loss", "val/loss", "val/accuracy", "lr", "grad_norm", "grad_norm/max"}
    assert drawn >= {
        "grad_norm/clipped_share",
        "perf/tokens_per_second",
        "perf/memory_gib",
        "tokens",
    }
    assert scalars["tokens"][12] > scalars["tokens"][1] > 0
    assert 0.05 < scalars["perf/memory_gib"][12] < 100

    def text(tag: str) -> list[str]:
        return [e.tensor_proto.string_val[0].decode() for e in found.Tensors(f"{tag}/text_summary")]

    (settings,) = text("settings")
    assert "\n| optimizer.warmup&#95;steps | 2 |" in settings
    replies = text("sample_replies")
    assert [line.count(" | ") for line in replies[-1].splitlines()] == [4] * len(
        replies[-1].splitlines()
    )
    assert replies[-1].startswith("| prompt | step 0 | step 5 | step 10 | step 12 |")
    assert {"train_rows/tokens_per_example", "val/loss_by_position"} <= set(
        found.Tags()["histograms"]
    )
    # TensorBoard's histograms are drawn in as many bars as ours have.
    assert len(found.Histograms("val/loss_by_position")) == 4


def _matches(expressions: list[str], tag: str) -> bool:
    return any(re.match(expression, tag) for expression in expressions)


def test_the_row_of_a_run_is_there_before_its_first_step(small_run, monkeypatch, tmp_path):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr("src.training.run.Run.fit", stop)
    with pytest.raises(Stop):
        small_run()
    found = events(tmp_path / "run")
    assert metadata.SESSION_START_INFO_TAG in found.summary_metadata
    assert metadata.SESSION_END_INFO_TAG not in found.summary_metadata


@pytest.mark.parametrize("num_steps", [1, 7, MOST + 5])
def test_the_norms_since_the_last_log_are_those_of_every_step(num_steps):
    draw = random.Random(num_steps)
    values = [draw.uniform(0.1, 2.0) for _ in range(num_steps)]
    norms = GradientNorms()
    for number, value in enumerate(values):
        norms.add(torch.tensor(value))
        norms.add(torch.tensor(math.inf if number % 2 else math.nan))  # skipped steps
        if number == num_steps // 2:  # a run that is interrupted here
            resumed = GradientNorms()
            resumed.restore(norms.values())
            norms = resumed
    figures = norms.figures(1.0)
    assert figures["grad_norm"] == pytest.approx(np.mean(values), rel=1e-4)
    assert figures["grad_norm/max"] == pytest.approx(max(values))
    assert figures["grad_norm/clipped_share"] == pytest.approx(np.mean(np.array(values) > 1.0))
    assert norms.figures(1.0) == {}
    norms.add(torch.tensor(3.0))
    assert norms.figures(None) == {"grad_norm": 3.0, "grad_norm/max": 3.0}


def test_norms_of_a_gpu_go_on_from_those_of_a_checkpoint_which_are_on_the_cpu():
    norms = GradientNorms()
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        norms.restore(torch.ones(2))
        norms.add(FakeTensor(mode, torch.empty((), device="meta"), torch.device("cuda")))
        assert norms.values().device.type == "cpu"


def test_positions_count_from_the_beginning_of_each_response():
    index = torch.tensor([3, 4, 5, 9, 12, 13, 20])
    assert positions(index).tolist() == [0, 1, 2, 0, 0, 1, 0]
    assert positions(index[:0]).tolist() == []


@pytest.mark.parametrize(
    "values", [np.array([5]), np.arange(1000), np.array([3, 3, 9]), np.array([0.25, 1.0, 0.7])]
)
def test_a_histogram_counts_every_value_once(values):
    edges, heights = histogram(values)
    assert heights.sum() == len(values)
    assert len(heights) <= BINS
    assert np.all(np.diff(edges) > 0)


def test_the_loss_by_position_is_that_of_the_validation(small_run, monkeypatch):
    """With room for all tokens, the bars' sums over their counts are the loss itself."""
    from src.objectives.positions import LossByPosition

    seen = []
    original = LossByPosition.on_validation_end

    def hook(self, trainer, module):
        loss, count = self.sums.double().sum(1).tolist()
        seen.append((loss / count, module.latest["val/loss"]))
        original(self, trainer, module)

    monkeypatch.setattr("src.objectives.positions.MOST_TOKENS", 10**9)
    monkeypatch.setattr(LossByPosition, "on_validation_end", hook)
    small_run()
    assert len(seen) == 4
    for mean, loss in seen:
        assert mean == pytest.approx(loss, rel=1e-5)


def test_replies_of_an_interrupted_run_stand_beside_later_ones():
    from src.objectives.replies import SampleReplies

    one = SampleReplies(["a"], None, greedy(4), 10.0)
    one.by_step = {0: ["x"], 5: ["y"]}
    state = json.loads(json.dumps(one.state_dict()))
    assert state["prompts"] == ["a"]
    other = SampleReplies(["b"], None, greedy(4), 10.0)
    other.load_state_dict(one.state_dict())
    assert other.by_step == {}  # other questions


def test_an_older_run_goes_on_in_the_folder_of_its_points(small_run, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run("trainer.checkpoint_every_n_steps=3")
    run = tmp_path / "run"
    (run / "tensorboard").mkdir()
    for path in event_files(run):
        path.rename(run / "tensorboard" / path.name)
    small_run("trainer.checkpoint_every_n_steps=3", f"resume={run}")
    assert event_files(run) == []
    assert events_folder(run) == run / "tensorboard"
    assert list(curves(run)["train/loss"]) == list(range(1, 13))
