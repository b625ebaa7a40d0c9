"""Say which model is better, by how much, and whether it is real: ``python -m src.evaluate``.

``model_path=A,B,C`` names several, or a folder of runs; ``data=...``, ``split=`` and
``prompts=FILE`` the rows, which are else those that the first run held out; ``against=`` holds all
against one. Writes ``results.json`` and ``report.html`` into a new folder, and prints a table.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import DictConfig, OmegaConf

from src.checks import AUTO, at_least, check, one_of, within
from src.command.cli import RUNS, named_file, run_door, task_overrides, typed
from src.data.config import DataConfig
from src.data.files.part import SPLITS
from src.errors import UserError
from src.evaluation.limits import MOST_BEST_OF
from src.files.run_name import check_name, run_name
from src.model.generation_config import GenerationConfig
from src.own_function import check_typed, is_own
from src.streams import say
from src.wording.command_line import program
from src.wording.nearest import choice_question

if TYPE_CHECKING:
    from src.evaluation.against import Question
    from src.evaluation.candidates import Candidate
    from src.evaluation.evaluation import How
    from src.evaluation.rows import EvaluationRow

EVALUATIONS = Path("outputs/evaluate")
FREE_TEXT = ("prompts",)
OWN_TO_EACH = ("block_size", "corpus_dir", "num_workers")  # not taken over from a run's data
ROWS = ("data=", "data.path=", "data.sources=")  # a person who sets one has chosen the rows
PRECISIONS = ("32-true", "bf16-mixed")
LEARNED = (
    "its run may have learned from some of these rows, which flatters it: judge it on split=test, "
    "with the data.test_fraction of its run"
)
SWITCH = (AUTO, "true", "false")


@dataclass
class EvaluateConfig:
    """The values of ``conf/evaluate.yaml``."""

    data: DataConfig
    generation: GenerationConfig
    model_path: Any  # text, or a list of texts
    split: Annotated[str, one_of(SPLITS)]
    prompts: str | None
    batch_size: Annotated[int, at_least(1)]
    num_replies: Annotated[int | None, at_least(0).or_null("for all rows")]
    exact_match: Any  # auto, true or false
    against: str | None
    reward_model: str | None
    best_of: Annotated[int, within(f"[0, {MOST_BEST_OF}]")]
    judge: str
    num_resamples: Annotated[int, at_least(1000)]
    seed: Annotated[int, within("[0, 2^32)")]
    precision: Annotated[str, one_of(PRECISIONS)]
    device: str
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]
    output: str | None
    name: str | None

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        model_path, exact_match = self.model_path, self.exact_match
        self.model_path = self.exact_match = None  # their types are checked elsewhere
        check(self)
        check_name(self.name)
        if self.name is not None and self.output is not None:
            raise UserError(f"name={self.name} and output={self.output}: name the folder once")
        self.model_path, self.exact_match = model_path, str(exact_match).lower()
        if self.exact_match not in SWITCH:
            hint = choice_question(exact_match, SWITCH)
            raise UserError(f"exact_match={exact_match}: must be one of {', '.join(SWITCH)}{hint}")
        if is_own(self.judge):
            check_typed("judge", self.judge, task_overrides())


def evaluate(config: DictConfig, **text: str) -> None:
    """Judge the models, write the results and print the table."""
    settings = typed(EvaluateConfig, config, **text)
    question = _question(settings)
    folder = Path(settings.output or EVALUATIONS / run_name(settings.name)).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"output={folder}: there is something in it: name a new folder")

    from src.evaluation.against import add_reference, hold_against
    from src.evaluation.candidates import find_candidates
    from src.evaluation.comparison import compare
    from src.evaluation.endpoint import Endpoint
    from src.evaluation.evaluation import judge_all
    from src.evaluation.report import write_report
    from src.evaluation.results import build_results
    from src.evaluation.table import missing_lines, table_lines, title_lines
    from src.shared_cores import shared_cores
    from src.talk.screen import waiting

    with waiting("looking for the models and reading the rows"):
        names, left_out = _names(settings)
        candidates = find_candidates(names)
        reference = add_reference(candidates, settings.against)
        endpoints = {c.name: Endpoint(c.url) for c in candidates if c.url is not None}
        origin, others = _choose_rows(settings, config, candidates)
        rows = _rows(settings, origin)
        how = _how(settings, rows)
    with _output(folder), shared_cores(settings.threads, how.device.type):
        against = hold_against(question, candidates, reference, rows, how)
        judged = judge_all(candidates, rows, how, endpoints)
        if against:
            against.add_to(judged)
        for model in judged:
            if settings.prompts is None and model.candidate.may_have_learned(
                settings.data, settings.split
            ):
                model.notes.append(LEARNED)
            if learned := others.get(model.candidate.name):
                model.notes.append(f"its run learned from other rows than these: {learned}")
        with waiting("drawing rows for the intervals"):
            comparison = compare(judged, settings.num_resamples, settings.seed)
        facts = _facts(settings, text, candidates, rows, how)
        facts["data"] |= {"origin": origin} if origin else {}
        facts["left_out"] = left_out
        results = build_results(facts, rows, judged, comparison, against)
        write_report(folder, results, against.pictures() if against else {})
    names = [candidate.name for candidate in candidates]
    lines = [*title_lines(facts), *table_lines(names, comparison, results["conclusions"])]
    for line in [*lines, *missing_lines()]:
        say(line)
    print(f"\nreport:  {folder / 'report.html'}\nfigures: {folder / 'results.json'}")


def _question(settings: EvaluateConfig) -> "Question | None":
    """Return what is asked of policies; None: nothing."""
    from src.evaluation.against import Question, check_question

    values = (settings.against, settings.reward_model, settings.best_of, settings.judge)
    check_question(*values)
    if settings.against is None:
        return None
    return Question(settings.against, *values[1:], settings.num_resamples, settings.seed)


@contextmanager
def _output(folder: Path) -> Iterator[None]:
    """Make the folder before anything slow is done; if that fails, leave no empty one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: cannot be made: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _names(settings: EvaluateConfig) -> tuple[list[str], list[str]]:
    """Return the models, and the runs of folders among them that are left out, each with why."""
    from src.evaluation.candidates import names_in
    from src.talk.model_folder import newest_model_folder

    if settings.model_path is None:
        return [str(newest_model_folder(RUNS))], []
    parts = [_runs(name) for name in names_in(settings.model_path)]
    return [name for runs, _ in parts for name in runs], [run for _, out in parts for run in out]


def _runs(name: str) -> tuple[list[str], list[str]]:
    """Return the models that a name stands for: of a folder of runs, all that have one.

    The second value are those that have none, each with why.
    """
    from src.evaluation.runs import runs_in
    from src.sweeps.left_out import runs_left_out, runs_unfinished

    runs, without = runs_in(name)
    if without and not runs:
        raise UserError(f"model_path={name}: none of its {len(without)} runs has a model yet")
    if not runs:
        return [name], []
    left_out = runs_left_out(Path(name).expanduser(), runs, without)
    if left_out:
        say(f"{name}: left out, as they have no model: {', '.join(left_out)}", sys.stderr)
    if unfinished := runs_unfinished(runs):
        say(f"{name}: judged as they are, not finished: {', '.join(unfinished)}", sys.stderr)
    return runs, left_out


def _choose_rows(
    settings: EvaluateConfig, config: DictConfig, candidates: "list[Candidate]"
) -> tuple[str, dict[str, str]]:
    """Take the rows of the first run for those of ``settings``, unless a person has chosen some.

    Returns:
        Whose rows they are; empty: a person's choice. And the models whose runs learned from other
        rows, with the name of those.
    """
    from src.evaluation.runs import first_of_conversations, run_data, same_rows
    from src.training.record import literal

    overrides = task_overrides()
    if settings.prompts is not None or any(o.lstrip("+").startswith(ROWS) for o in overrides):
        return "", {}
    known = {c.name: run_data(c.folder) for c in candidates if c.folder is not None}
    known = {name: data for name, data in known.items() if data}
    if not known:
        return "the embedded rows, as no run says what it learned from; data=... names others", {}
    folders = {c.name: c.folder for c in candidates if c.folder is not None and c.name in known}
    data = known[first := first_of_conversations(folders)]
    kept = {*OWN_TO_EACH, *(o.split("=")[0].split(".")[1] for o in overrides if _is_data(o))}
    if any(data.get("supervise") != each.get("supervise") for each in known.values()):
        kept.add("supervise")
    own = {name: value for name, value in data.items() if name not in kept}
    values: Any = OmegaConf.to_container(config.data, resolve=True)
    settings.data = typed(DataConfig, OmegaConf.create(values | literal(own)))
    others = {name: _source(each) for name, each in known.items() if not same_rows(data, each)}
    return f"the rows that {first} held out; data=... names others", others


def _is_data(override: str) -> bool:
    return override.startswith("data.")


def _source(data: "dict[str, Any]") -> str:
    return str(data.get("path") or data.get("sources") or f"data={data.get('source')}")


def _rows(settings: EvaluateConfig, origin: str) -> "list[EvaluationRow]":
    from src.evaluation.rows import rows_of_prompts, rows_of_split

    if settings.prompts is not None:
        return rows_of_prompts(settings.prompts, settings.data)
    try:
        return rows_of_split(settings.data, settings.split)[0]
    except UserError as error:
        raise UserError(f"{error} ({origin})" if origin else str(error)) from error


def _how(settings: EvaluateConfig, rows: "list[EvaluationRow]") -> "How":
    from src.evaluation.evaluation import How
    from src.evaluation.replies import choose_rows
    from src.evaluation.text_figures import has_short_answers
    from src.model.device import choose_device

    exact_match = settings.exact_match == "true" or (
        settings.exact_match == AUTO and has_short_answers(rows)
    )
    return How(
        supervise=settings.data.supervise,
        block_size=settings.data.block_size,
        batch_size=settings.batch_size,
        asked=choose_rows(rows, settings.num_replies, settings.seed),
        exact_match=exact_match,
        precision=settings.precision,
        device=choose_device(settings.device),
        generation=settings.generation,
    )


def _facts(
    settings: EvaluateConfig,
    text: dict[str, str],
    candidates: "list[Candidate]",
    rows: "list[EvaluationRow]",
    how: "How",
) -> dict[str, Any]:
    """Return how the figures came to be."""
    from src.evaluation.record import commit, machine, versions

    arguments = [*task_overrides(), *(f"{key}={value}" for key, value in text.items())]
    return {
        "command": shlex.join([*program("evaluate"), *arguments]),
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(how.device),
        "settings": asdict(settings) | {"model_path": [c.name for c in candidates]},
        "data": {
            "rows": "prompts" if settings.prompts else settings.split,
            "source": settings.prompts or settings.data.path or settings.data.source,
            "num_rows": len(rows),
            "num_scored": sum(row.conversation is not None for row in rows),
            "num_asked": len(how.asked),
        },
    }


if __name__ == "__main__":
    run_door(evaluate, "evaluate", free_text=FREE_TEXT, rewrite=named_file)
