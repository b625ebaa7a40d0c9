"""A Hugging Face hub name or a local folder becomes a local folder, without ever hanging.

Order of attempts: a local folder; the local cache, for which no connection is made; the hub.
"""

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from src.download import download_model
from src.errors import UserError
from src.errors import first_line as first_line
from src.errors import whole_message as whole_message
from src.files.model_files import check_subfolder
from src.wording.nearest import path_question

RUN = "run.json"  # in a run's folder
REWARD_MODEL = "reward_model"  # in the folder of a run that learned one
PAGES = "https://huggingface.co"

# What a problem says, as a pattern -> the way out; {page} is that of the model or data set.
WAYS_OUT = [
    (
        r"(?i)\bgot 40[13]\b|gated",
        "check the name; for a gated or private one ask for access at {page}, then log in with "
        "`hf auth login` (or set HF_TOKEN)",
    ),
    (r"\bgot 404\b", "check the name; a private one needs `hf auth login` (or HF_TOKEN)"),
    (
        r"No space left|Permission denied|Read-only|quota",
        "make room there, or set HF_HOME to another folder",
    ),
    (r"\bgot 429\b", "try again later; the hub lets those who `hf auth login` ask more often"),
    (r"\bgot 5\d\d\b|checksum is wrong|Consistency check", "try again later"),
]


def way_out(problem: str, page: str) -> str | None:
    """Return what a person can do about what the hub said; None: only do without the hub."""
    ways = (way for pattern, way in WAYS_OUT if re.search(pattern, problem))
    found = next(ways, None)
    return found and found.format(page=page)


def local_folder(
    name_or_path: str, patterns: Sequence[str], required: Sequence[str], key: str
) -> Path:
    """Return the local folder that holds the files of ``name_or_path``; of a run, its model's.

    Args:
        name_or_path: a local folder, or a hub name such as ``gpt2`` or ``owner/name``.
        patterns: the files to fetch for a hub name, e.g. ``["config.json", "*.safetensors"]``.
        required: the patterns that a complete copy in the cache must match; ``a|b`` is either.
        key: the config key, for the error message.

    Raises:
        UserError: it is neither a folder here nor a model that the hub or its cache holds.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        model = folder / "model"  # of a run folder
        if _has_config(folder):
            return folder
        if not _has_config(model):
            _refuse_runs(folder, f"{key}={name_or_path}")
            return folder
        check_subfolder(folder, model.name)
        return model
    if folder.exists():
        raise UserError(f"{key}={name_or_path} is a file: name the folder that holds it")
    if not is_hub_name(name_or_path):
        raise UserError(
            f"{key}={name_or_path}: there is no such folder{path_question(name_or_path)}"
        )

    from huggingface_hub.errors import HFValidationError

    try:
        snapshot = cached_snapshot(name_or_path, patterns)
    except HFValidationError as error:
        raise UserError(
            f"{key}={name_or_path}: no such folder, and no hub name: {error}"
        ) from error
    if snapshot is not None and all(_matches(snapshot, each) for each in required):
        return snapshot
    problem = download_model(name_or_path, patterns)
    if problem is None:
        snapshot = cached_snapshot(name_or_path, patterns)
        problem = None if snapshot else "its files are not in the cache after the download"
    if snapshot is None or problem is not None:
        way = way_out(problem or "", f"{PAGES}/{name_or_path}")
        raise UserError(
            f"{key}={name_or_path} is not a local folder or in the cache, and {problem}: "
            + (f"{way}; or " if way else "")
            + "give a local folder, or download it once where there is a network"
            + path_question(name_or_path)
        )
    return snapshot


def _refuse_runs(folder: Path, what: str) -> None:
    """Check that a folder without a model is none of runs.

    Raises:
        UserError: it is; names the newest run that has a model.
    """
    configs = [*folder.glob("*/model/config.json"), *folder.glob("*/*/model/config.json")]
    if configs:
        newest = max(configs, key=lambda path: path.parent.stat().st_mtime).parents[1]
        runs = f"{len(configs):,} runs" if len(configs) > 1 else "one run"
        raise UserError(
            f"{what} is a folder of {runs}: name one; the newest is {shlex.quote(str(newest))}"
        )
    if _has_config(folder / REWARD_MODEL):
        raise UserError(
            f"{what} is a run of a reward model, {shlex.quote(str(folder / REWARD_MODEL))}, which "
            f"gives a reply a number and says nothing"
        )
    if (folder / RUN).is_file():
        raise UserError(f"{what} is a run that has no model yet: it is written at a validation")
    if any(folder.glob(f"*/{RUN}")):
        raise UserError(f"{what} is a folder of runs, none of which has a model yet")


def cached_snapshot(name: str, patterns: Sequence[str]) -> Path | None:
    """Return the folder of a model in the cache; None: it is not there, or a file is half there.

    Raises:
        HFValidationError: ``name`` is no name that the hub can have.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=list(patterns), local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    snapshot = Path(folder)
    found = {path for pattern in patterns for path in snapshot.glob(pattern)}
    whole = found.isdisjoint(cut_files(snapshot)) and all(path.exists() for path in found)
    return snapshot if whole and all(map(_has_shards, found)) else None


def cut_files(snapshot: Path) -> set[Path]:
    """Return the files of a snapshot that have another size than on the hub, where it is known."""
    cut = set()
    # What is no listing of huggingface_hub 2 knows no sizes.
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        listing = snapshot.parents[1] / "trees" / f"{snapshot.name}.json"
        for name, facts in json.loads(listing.read_text(encoding="utf-8"))["files"].items():
            path = snapshot / name
            if path.is_file() and path.stat().st_size != facts["size"]:
                cut.add(path)
    return cut


def _has_shards(path: Path) -> bool:
    """Whether the files that an index of weights lists lie beside it; other files list none."""
    if not path.name.endswith(".index.json"):
        return True
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # whoever reads it says what is wrong
    return all((path.parent / str(name)).exists() for name in names)


def _matches(folder: Path, patterns: str) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns.split("|"))


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").exists()


def is_hub_name(name: str) -> bool:
    """Whether ``name`` looks like ``name`` or ``owner/name`` rather than a path."""
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and bool(name.strip())
