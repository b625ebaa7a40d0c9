"""TensorBoard as a person sees it: a real sweep, a real server and a real browser."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.training.layout import layout
from tests.training.conftest import SMALL

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
MINUTES = 3 * 60_000  # milliseconds that anything may take, on a busy machine
BATCH_SIZES, RATES = (4, 8, 16), ("1e-3", "2e-3", "5e-3")
REPLY = "a | <b>b</b> | `c`"  # among the prompts: it must not break the table


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The folder of nine runs; the last was killed while it trained."""
    folder = tmp_path_factory.mktemp("outputs") / "sweep"
    own = [override for override in SMALL if not override.startswith(("batch_size", "micro_"))]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "src.train", "-m", *own, "micro_batch_size=4"),
            f"batch_size={','.join(map(str, BATCH_SIZES))}",
            f"optimizer.learning_rate={','.join(RATES)}",
            f"sample_prompts=['Who are you?','{REPLY}']",
            f"data.corpus_dir={folder.parent / 'corpora'}",
            f"hydra.sweep.dir={folder}",
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 500
    while process.poll() is None and time.monotonic() < end:
        paths = sorted(folder.glob("*/history.csv"), key=lambda path: path.stat().st_ctime)
        if len(paths) == 9 and paths[-1].read_text(encoding="utf-8").count("\n") > 3:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(folder.glob("*/history.csv"))) == 9
    return folder


@pytest.fixture(scope="module")
def address(sweep) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep)]
    server = subprocess.Popen(
        [*command, "--port", "0", "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True
    )
    try:
        lines = iter(server.stderr.readline, "")
        yield next(m[1] for line in lines if (m := re.search(r"at (http://[\d.:]+/)", line)))
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def tab(browser, address) -> Iterator:
    """Open a tab of TensorBoard."""
    page = browser.new_page(viewport={"width": 1500, "height": 3000})
    page.set_default_timeout(MINUTES)

    def opened(name: str):
        page.goto(f"{address}#{name}", wait_until="commit")
        return page

    yield opened
    page.close()


def test_the_charts_are_on_one_screen(tab):
    page = tab("custom_scalars")
    page.get_by_text("Matches (18)").first.wait_for()  # train and val of nine runs
    titles = page.locator("tf-custom-scalar-multi-line-chart-card figcaption").all_inner_texts()
    expected = [title for charts in layout(["loss", "accuracy"], []).values() for title in charts]
    assert [title.strip() for title in titles] == expected


def test_hparams_has_a_row_for_each_run_of_a_sweep_and_columns_for_what_was_swept(tab, sweep):
    page = tab("hparams")
    names = sorted(path.parent.name for path in sweep.glob("*/run.json"))
    cells = page.locator("tf-hparams-table-view vaadin-grid-cell-content")
    cells.get_by_text(names[0], exact=True).wait_for()
    texts = [text.strip() for text in cells.all_inner_texts()]
    assert sorted(text for text in texts if text in names) == names
    assert len(names) == 9
    assert {"batch_size", "optimizer.learning_rate", "val/loss"} <= set(texts)
    assert not [text for text in texts if text.startswith(("final/", "epoch"))]
    assert texts.count("0.0010000") == texts.count("16.000") == 3


def test_the_tab_text_shows_settings_and_replies_as_tables(tab):
    page = tab("text")
    page.get_by_text("sample_replies/text_summary").first.wait_for()
    table = page.locator("table", has_text="Who are you?").first
    table.wait_for()
    assert table.locator("th").all_inner_texts()[:2] == ["prompt", "step 0"]
    assert table.locator("tr").count() == 3
    assert table.locator("tr").nth(2).locator("td").first.inner_text() == REPLY
    page.get_by_text("instead of the default").first.wait_for()


def test_the_first_tab_calls_the_runs_by_their_folders_and_has_no_epoch(tab, sweep):
    page = tab("timeseries")
    page.get_by_text("grad_norm").first.wait_for()
    for path in sweep.glob("*/run.json"):
        page.get_by_text(path.parent.name, exact=True).first.wait_for()
    groups = page.locator("mat-card-title, .group-name").all_inner_texts()
    assert not [name for name in groups if "epoch" in name or "final" in name]
