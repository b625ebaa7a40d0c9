"""One model after another: its figures' columns over the rows, and its replies.

Shape letters: N rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from src.errors import UserError
from src.evaluation.candidates import Candidate
from src.evaluation.encoded import Encoded, encode
from src.evaluation.endpoint import Endpoint
from src.evaluation.figures import Columns, spread
from src.evaluation.progress import Progress
from src.evaluation.replies import Answer, answer_all
from src.evaluation.rows import EvaluationRow
from src.evaluation.text_figures import text_columns
from src.evaluation.token_figures import article_columns, token_columns
from src.evaluation.token_scores import TokenScores, score_tokens
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.talk.assistant import Assistant
from src.talk.model_folder import load_model_folder

SHORTEST = 2  # tokens of a block: one to read and one to score


@dataclass(frozen=True)
class How:
    """How the models are judged.

    Attributes:
        supervise: what is scored of a row, as in ``conf/data``.
        block_size: tokens at which rows are cut; None: as each model's run did.
        batch_size: blocks and replies at a time.
        asked: the numbers of the rows that are asked.
        exact_match: whether replies should equal their references.
        precision: of the products.
        device: to compute on.
        generation: how replies are decoded.
    """

    supervise: str
    block_size: int | None
    batch_size: int
    asked: Sequence[int]
    exact_match: bool
    precision: str
    device: torch.device
    generation: GenerationConfig


@dataclass
class Judged:
    """What one model did.

    Attributes:
        candidate: the model.
        columns: of each of its figures, (N, ...).
        answers: (N,) its replies; None: not asked.
        tokens: equal for models that read and score the same tokens; None: nothing was scored.
        cut: (N,) bool: rows that lost their tail, or all that is scored of them.
        max_length: tokens at which rows were cut; None: nothing was scored.
        notes: what a reader of the figures must know.
    """

    candidate: Candidate
    columns: dict[str, Columns]
    answers: list[Answer | None]
    tokens: str | None = None
    cut: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    max_length: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Readings:
    """The scored rows as one tokenizer sees them, in each way of scoring them."""

    ours: Encoded
    article: Encoded

    def main(self, supervise: str) -> Encoded:
        return self.article if supervise == "article" else self.ours

    @property
    def same_ids(self) -> bool:
        ours, article = self.ours.corpus, self.article.corpus
        return np.array_equal(ours.input_ids, article.input_ids) and np.array_equal(
            ours.offsets, article.offsets
        )


def judge_all(
    candidates: Sequence[Candidate],
    rows: Sequence[EvaluationRow],
    how: How,
    endpoints: Mapping[str, Endpoint],
) -> list[Judged]:
    """Return what each model did with the rows, in their order.

    Models whose tokenizers read the rows alike are cut at the same length, so that the same tokens
    are scored. ``endpoints`` holds those that are behind URLs, by their names.

    Raises:
        UserError: a model cannot be loaded or asked, or the device has too little memory.
    """
    scored = [i for i, row in enumerate(rows) if row.conversation is not None]
    here = [candidate for candidate in candidates if candidate.url is None]
    readings = _read(here, rows, scored) if scored else {}
    lengths = _lengths(here, readings, how) if scored else {}
    judged = []
    for number, candidate in enumerate(candidates, start=1):
        title = f"model {number} of {len(candidates)}"
        if candidate.url is not None:
            judged.append(_judge_endpoint(candidate, endpoints[candidate.name], rows, how, title))
            continue
        try:
            reading, length = readings.get(candidate.name), lengths.get(candidate.name)
            judged.append(_judge_here(candidate, rows, scored, reading, length, how, title))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{how.device.type} ran out of memory with batch_size={how.batch_size}: lower it"
            ) from error
    return judged


def _read(
    candidates: Sequence[Candidate], rows: Sequence[EvaluationRow], scored: Sequence[int]
) -> dict[str, _Readings]:
    """Return the scored rows as each model's tokenizer reads them, by the model's name."""
    conversations = [c for i in scored if (c := rows[i].conversation) is not None]
    by_tokenizer: dict[str, _Readings] = {}
    found = {}
    for candidate in candidates:
        tokenizer = candidate.tokenizer()
        key = tokenizer.fingerprint()
        if key not in by_tokenizer:
            modes = ("responses", "article")
            by_tokenizer[key] = _Readings(*(encode(conversations, tokenizer, m) for m in modes))
        found[candidate.name] = by_tokenizer[key]
    return found


def _lengths(
    candidates: Sequence[Candidate], readings: Mapping[str, _Readings], how: How
) -> dict[str, int]:
    """Return at how many tokens the rows are cut for each model, by its name."""
    shortest: dict[str, int] = {}
    keys = {c.name: readings[c.name].main(how.supervise).key for c in candidates}
    for candidate in candidates:
        most = candidate.num_positions
        length = min(how.block_size or candidate.block_size or most, most)
        key = keys[candidate.name]
        shortest[key] = max(SHORTEST, min(length, shortest.get(key, length)))
    return {name: shortest[key] for name, key in keys.items()}


def _judge_here(
    candidate: Candidate,
    rows: Sequence[EvaluationRow],
    scored: Sequence[int],
    reading: _Readings | None,
    max_length: int | None,
    how: How,
    title: str,
) -> Judged:
    folder = load_model_folder(str(candidate.folder), "model_path")
    model = folder.model.to(how.device).eval()
    judged = Judged(candidate, {}, [])
    if reading is not None and max_length is not None:
        with Progress(len(scored), f"{title}: scoring rows") as progress:
            _score(judged, model, reading, max_length, how, progress.add)
        judged.columns = {
            name: spread(columns, scored, len(rows)) for name, columns in judged.columns.items()
        }
        cut = np.zeros(len(rows), dtype=bool)
        cut[np.array(scored, dtype=np.int64)] = judged.cut
        judged.cut = cut
        if (logged := candidate.settings.get("precision", how.precision)) != how.precision:
            judged.notes.append(
                f"its run logged its loss in {logged}, which rounds otherwise: to compare with "
                f"that, precision={logged}"
            )
        if not candidate.has_our_template:
            judged.notes.append(
                "it has a chat template of its own; its replies follow that, but its rows are "
                "scored in ours"
            )
    assistant = Assistant(model, folder.tokenizer, folder.template, folder.end_ids)
    with Progress(len(how.asked), f"{title}: replies") as progress:
        questions = [rows[i].messages for i in how.asked]
        answers = answer_all(assistant, questions, how.generation, how.batch_size, progress.add)
    _add_replies(judged, rows, answers, how)
    return judged


def _judge_endpoint(
    candidate: Candidate,
    endpoint: Endpoint,
    rows: Sequence[EvaluationRow],
    how: How,
    title: str,
) -> Judged:
    judged = Judged(candidate, {}, [])
    judged.notes.append("behind a URL: its replies alone are judged")
    with Progress(len(how.asked), f"{title}: replies") as progress:
        questions = [rows[i].messages for i in how.asked]
        answers = endpoint.answer_all(questions, how.generation, progress.add)
    _add_replies(judged, rows, answers, how)
    return judged


def _score(
    judged: Judged,
    model: GPT2,
    reading: _Readings,
    max_length: int,
    how: How,
    progress: Callable[[int], object],
) -> None:
    """Add the figures of scored tokens, over the scored rows."""

    def scores_of(encoded: Encoded) -> TokenScores:
        return score_tokens(
            model,
            encoded,
            block_size=max_length,
            batch_size=how.batch_size,
            precision=how.precision,
            progress=progress,
        )

    main = reading.main(how.supervise)
    article = scores_of(reading.article)
    if main is reading.article:
        scores = article
    elif reading.same_ids:  # the article scores all that we do, and a constant
        token = main.corpus.offsets[article.row] + article.position
        scores = article.where(np.asarray(main.corpus.supervised)[token])
    else:
        scores = scores_of(main)
    judged.columns = token_columns(scores, main, max_length)
    judged.columns["accuracy_article"] = article_columns(article, len(main.conversations))
    judged.tokens, judged.max_length = main.key, max_length
    judged.cut = main.cut(max_length)
    unscored = ~judged.columns["loss"].used
    if judged.cut.any():
        judged.notes.append(
            f"{judged.cut.sum():,} of {len(judged.cut):,} rows are longer than {max_length:,} "
            f"tokens and were cut"
            + (f"; nothing is left to score of {unscored.sum():,}" if unscored.any() else "")
        )
    broken = ~np.isfinite(judged.columns["loss"].values[:, 0])
    if broken.any():
        judged.notes.append(
            f"the loss of {broken.sum():,} rows is not finite, so there is no loss over all: its "
            f"weights hold what is no number, or no longer one"
        )


def _add_replies(
    judged: Judged, rows: Sequence[EvaluationRow], answers: Sequence[Answer], how: How
) -> None:
    judged.answers = [None] * len(rows)
    for number, answer in zip(how.asked, answers, strict=True):
        judged.answers[number] = answer
    if how.asked:
        judged.columns |= text_columns(rows, judged.answers, how.exact_match)
    if unread := sum(not answer.was_asked for answer in answers):
        judged.notes.append(f"{unread:,} of {len(answers):,} questions are too long for it")
