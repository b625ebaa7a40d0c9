"""Makes the pictures of the pages: ``make pictures``, or some: ``PICTURES="sweep page"``.

They are of the newest finished quickstart run under ``outputs/train`` (``GPT2_CHAT_RUN=FOLDER``:
of another), and of nine runs of 200 steps that are trained for it in a temporary folder, in some
minutes (``GPT2_CHAT_SWEEP=FOLDER``: of such a sweep that is there). Needs Chromium and playwright.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from src.objectives.reply_table import SIGNS, Answered, print_table
from src.records.runs import METRICS, Run, find_runs
from src.rlhf.config import PIPELINES
from src.rlhf.picture import PICTURE
from src.talk.messages import Message
from src.training.record import RECORD, read_object
from src.wording.lines import WIDTH, wrapped

ASSETS = Path(__file__).parent
ROOT = ASSETS.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOST_PIXELS, MOST_BYTES = 1200, 150_000  # of a picture: wide; in its file
MINUTES = 5 * 60_000  # milliseconds that anything may take, on a busy machine
NUM_STEPS = 200
SWEEP = (
    "experiment=quickstart",
    "optimizer.learning_rate=5e-4,2.5e-3,1e-2",
    "batch_size=1,2,4",
    f"max_steps={NUM_STEPS}",
    "optimizer.warmup_steps=20",
    "trainer.val_every_n_steps=40",
    "trainer.max_val_blocks=40",
    "trainer.max_test_blocks=40",
    "exact_match=false",
)
QUESTIONS = ("What is the capital of France?", "And the capital of Spain?")
LOG_LINE = re.compile(r"\[[\d :,-]+\]\[[\w.]+\]\[[A-Z]+\] ?(.*)")
SUMMARY = "validation, last"  # how the first line of a run's summary begins
TERMINAL = """<!doctype html><meta charset="utf-8">
<body style="margin: 0; background: {background}"><pre id="screen" style="display: inline-block;
margin: 0; padding: 16px 20px; color: {foreground}; font: 14px/16px 'DejaVu Sans Mono', monospace">
{code}</pre>"""


def refuse(reason: str) -> NoReturn:
    """End with one line."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def quickstart_run() -> Path:
    """Return the folder of the newest finished quickstart run, or of the one that is named."""
    named = os.environ.get("GPT2_CHAT_RUN")
    if named:
        for name in ("metrics.json", "replies.json", "train.log"):
            if not (Path(named) / name).is_file():
                refuse(f"GPT2_CHAT_RUN={named}: no finished run, for it has no {name}")
        return Path(named).absolute()
    runs = ROOT / "outputs" / "train"
    found = find_runs(runs) if runs.is_dir() else []
    finished = [r.folder for r in found if isinstance(r, Run) and r.state == "finished"]
    for folder in finished:
        if read_object(folder / RECORD).get("overrides") == ["experiment=quickstart"]:
            return folder
    refuse("no finished quickstart under outputs/train: run `make quickstart` first")


class Pictures:
    """Draws each picture into ``.assets``.

    Args:
        browser: of playwright.
        run: folder of a finished quickstart.
        work: an empty folder, for what is trained and written on the way.
    """

    def __init__(self, browser: Any, run: Path, work: Path):
        self.browser = browser
        self.run = run
        self.work = work

    def quickstart(self) -> bytes:
        """The end of a quickstart at the terminal."""
        from rich.console import Console
        from rich.terminal_theme import MONOKAI

        console = Console(
            record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False
        )
        print_table(answered(self.run / "replies.json"), console)
        for line in summary_lines(self.run / "train.log"):
            for part in wrapped(line, WIDTH):
                console.print(part, markup=False, highlight=False, soft_wrap=True)
        html = console.export_html(theme=MONOKAI, code_format=TERMINAL, inline_styles=True)
        page = self.page()
        page.set_content(html)
        return page.locator("#screen").screenshot()

    def tensorboard(self) -> bytes:
        """The page Custom Scalars of a quickstart."""
        runs = Path("outputs", "train")  # as the page names it
        (self.work / runs / "quickstart").mkdir(parents=True)
        for path in self.run.rglob("events.out.*"):
            shutil.copy(path, self.work / runs / "quickstart")
        command = ["tensorboard.main", "--logdir", str(runs), "--load_fast=false"]
        with server([*command, "--port", "0", "--host", "127.0.0.1"], self.work) as address:
            page = self.page(width=1500, height=1180)
            page.goto(f"{address}#custom_scalars&_smoothingWeight=0", wait_until="commit")
            page.get_by_text("Matches (2)").first.wait_for()  # train and val
            page.wait_for_timeout(5_000)  # the lines are drawn some time after their names
            return page.screenshot()

    def page_picture(self) -> bytes:
        """The web page: the quickstart beside one that ended after 200 steps."""
        models = []
        for name, run in (("quickstart", self.run), (f"{NUM_STEPS}_steps", self.best_runs[0])):
            models.append(self.work / "models" / name / "model")  # the page shows these names
            shutil.copytree(run / "model", models[-1])
        command = ["src.web", "port=0", f"model_path={models[0]}", f"compare_with={models[1]}"]
        with server(command) as address:
            page = self.page(height=520)
            page.goto(address)
            for question in QUESTIONS:
                page.locator("#question").fill(question)
                page.keyboard.press("Enter")
                page.locator("#send").wait_for()
            return page.screenshot()

    def sweep(self) -> bytes:
        """``sweep.png`` of the nine runs."""
        return (self.sweep_folder / "sweep.png").read_bytes()

    def evaluation(self) -> bytes:
        """The page of the evaluation of the two best of the nine runs."""
        output = self.work / "evaluation"
        models = ",".join(str(run) for run in self.best_runs[:2])
        door("src.evaluate", f"model_path={models}", "num_replies=100", f"output={output}")
        page = self.page(height=1150)
        page.goto((output / "report.html").as_uri())
        page.locator("article").first.wait_for()
        return page.screenshot()

    def rlhf(self) -> bytes:
        """What each step of the newest ``make rlhf`` gained."""
        return pipeline_picture("seed_")

    def overoptimise(self) -> bytes:
        """The reward rises and gold falls: of the newest ``make overoptimise``."""
        return pipeline_picture("overoptimise_")

    def page(self, width: int = MOST_PIXELS, height: int = 800) -> Any:
        """Open an empty page of the browser."""
        page = self.browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(MINUTES)
        return page

    @cached_property
    def sweep_folder(self) -> Path:
        """The nine runs, which are trained if none are named."""
        named = os.environ.get("GPT2_CHAT_SWEEP")
        folder = Path(named).absolute() if named else self.work / "quickstart_sweep"
        if not named:
            door("src.train", "-m", *SWEEP, f"hydra.sweep.dir={folder}")
        if not (folder / "sweep.png").is_file():
            refuse(f"{folder}: no finished sweep is there")
        return folder

    @cached_property
    def best_runs(self) -> list[Path]:
        """The folders of the sweep's runs, the best first."""
        with (self.sweep_folder / "results.csv").open(encoding="utf-8", newline="") as file:
            return [self.sweep_folder / row["folder"] for row in csv.DictReader(file)]


PICTURES: dict[str, Callable[[Pictures], bytes]] = {
    "quickstart": Pictures.quickstart,
    "tensorboard": Pictures.tensorboard,
    "page": Pictures.page_picture,
    "sweep": Pictures.sweep,
    "evaluation": Pictures.evaluation,
    "rlhf": Pictures.rlhf,
    "overoptimise": Pictures.overoptimise,
}


def pipeline_picture(name: str) -> bytes:
    """Return the picture of the newest complete pipeline whose name begins so."""
    found = [p for p in PIPELINES.glob(f"{name}*/{PICTURE}") if (p.parent / METRICS).is_file()]
    if not found:
        refuse(f"no complete pipeline {name}... in {PIPELINES}: make rlhf, or make overoptimise")
    return max(found, key=lambda path: path.stat().st_mtime).read_bytes()


def answered(path: Path) -> list[Answered]:
    """Return the rows of ``replies.json``."""
    return [
        Answered(messages(row["question"]), row["before"], row["after"], row["reference"])
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def messages(question: str) -> list[Message]:
    """Return the conversation of which ``question`` is the text, each message a line."""
    *before, last = question.split("\n")
    found = []
    for line in before:
        role = next(r for r in ("system", "assistant", "user") if line.startswith(SIGNS[r]))
        found.append(Message(role, line.removeprefix(SIGNS[role])))
    return [*found, Message("user", last)]


def summary_lines(log: Path) -> list[str]:
    """Return what a run said after its table."""
    matches = map(LOG_LINE.fullmatch, log.read_text(encoding="utf-8").splitlines())
    lines = [match[1] for match in matches if match]
    starts = [number for number, line in enumerate(lines) if line.startswith(SUMMARY)]
    return ["", *lines[starts[-1] :]] if starts else refuse(f"{log}: no summary in it")


def door(module: str, *arguments: str) -> None:
    """Run a command of this project; what it says goes to the terminal."""
    if subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode:
        refuse(f"{module} failed: no picture of it")


@contextmanager
def server(command: list[str], folder: Path = ROOT) -> Iterator[str]:
    """Yield the address that ``python -m command`` says it listens at."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = (re.search(r"at (http://[\d.:]+)", line) for line in process.stdout)
        address = next((match[1] for match in found if match), None)
        yield address or refuse(f"{command[0]} did not start")
    finally:
        process.terminate()
        process.wait(20)


def write(path: Path, picture: bytes) -> str:
    """Write a picture, 256 colours and 1200 pixels wide at most; return a line about it."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if image.width > MOST_PIXELS:
        size = (MOST_PIXELS, round(image.height * MOST_PIXELS / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        refuse(f"{path}: {path.stat().st_size:,} bytes, and {MOST_BYTES:,} are the most")
    return f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {path.stat().st_size:,} B"


def main(names: list[str]) -> None:
    """Make the pictures, or those of ``names``."""
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        refuse(f"{unknown[0]}: no picture of that name; there are {', '.join(PICTURES)}")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        refuse("no Chromium here (apt-get install chromium): it takes the pictures")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        refuse("no playwright here (pip install playwright): it drives the browser")
    run = quickstart_run()
    with sync_playwright() as started, tempfile.TemporaryDirectory() as work:
        browser = started.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-background-networking"]
        )
        pictures = Pictures(browser, run, Path(work))
        for name in names or PICTURES:
            print(write(ASSETS / f"{name}.png", PICTURES[name](pictures)), flush=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
