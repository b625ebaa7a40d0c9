"""Rows of a data set on the Hugging Face hub."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.data.config import DataConfig
from src.data.files.part import SPLITS, Part, Record
from src.download import download_rows, rows_folder
from src.errors import UserError, whole_message
from src.hub import PAGES, is_hub_name, way_out

log = logging.getLogger(__name__)

# What they say of a data set that they have found.
ABOUT_SPLITS = "unknown split|bad split"
ABOUT_CONFIGURATIONS = "config name is missing|builderconfig|multiple '.*' configurations"


def hub_parts(config: DataConfig) -> tuple[list[Part], str]:
    """Return the splits of a hub data set and a hash of their rows.

    Raises:
        UserError: it cannot be had; with all that the hub says about it.
    """
    path = config.path
    if not isinstance(path, str) or not is_hub_name(path) or Path(path).is_file():
        raise UserError(f"data.path={path} is no hub name; for a file say data=file")
    parts, prints = [], []
    wanted = (config.train_split or "train", config.validation_split, config.test_split)
    for split, name in zip(SPLITS, wanted, strict=True):
        if name is None:
            continue
        rows = _load(config, path, name, f"data.{split}_split")
        if config.name is None and rows.config_name not in (None, "default"):
            log.warning(
                "warning: data.name is not set: %s has the configuration %s in the cache",
                *(path, rows.config_name),
            )
        prints.append([split, rows._fingerprint, len(rows)])
        parts.append(Part(f"{path}[{name}]", split, partial(_records, rows, path), "row"))
    return parts, hashlib.sha256(json.dumps(prints).encode()).hexdigest()


def _load(config: DataConfig, path: str, split: str, key: str) -> Any:
    """Return the rows of a split from the cache, downloaded before if they are not there."""
    import datasets

    errors = (ValueError, RuntimeError, OSError, KeyError, datasets.exceptions.DatasetsError)
    try:
        return _load_from_cache(path, config.name, split)
    except errors as error:
        said = whole_message(error)
        if re.search(f"{ABOUT_SPLITS}|{ABOUT_CONFIGURATIONS}", said, re.I):
            raise UserError(_what_to_do(said, config, key, split)) from error
    problem = download_rows(path, config.name)
    if problem is not None:
        _remove_unfinished(path)
        raise UserError(_what_to_do(problem, config, key, split))
    try:
        return _load_from_cache(path, config.name, split)
    except errors as error:
        raise UserError(_what_to_do(whole_message(error), config, key, split)) from error


def _load_from_cache(path: str, configuration: str | None, split: str) -> Any:
    """Return the rows of a split without any connection.

    Both libraries read HF_HUB_OFFLINE only when they are imported. They warn that the newest rows
    of the cache may not be the newest of the hub: that is what a cache is.
    """
    import datasets
    import datasets.config
    import huggingface_hub.constants

    _remove_unfinished(path)
    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        options = {"name": configuration} if configuration else {}
        return datasets.load_dataset(path, split=split, **options)
    finally:
        datasets.logging.set_verbosity(verbosity)
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _remove_unfinished(path: str) -> None:
    """Remove what killed downloads left of a data set: ``datasets`` fails at it without a hub."""
    tables = rows_folder(path)
    for folder in tables.glob("*/*/*.incomplete"):
        finished = folder.with_suffix("")
        lock = (
            tables.parent / f"{finished.as_posix().replace('/', '_')}.lock"
        )  # as datasets names it
        with suppress(Timeout, OSError), FileLock(lock, blocking=False):  # or it is at work
            shutil.rmtree(folder, ignore_errors=True)


def _what_to_do(said: str, config: DataConfig, key: str, split: str) -> str:
    """Return what went wrong, in the words of the hub or its libraries, and the way out."""
    path, low = config.path, said.lower()
    if re.search(ABOUT_CONFIGURATIONS, said, re.I):
        return f"data.path={path}: it has several configurations: name one with data.name ({said})"
    if re.search(ABOUT_SPLITS, said, re.I):
        return f"{key}={split} of {path}: {said}"
    if "same columns" in low or "couldn't cast" in low or "features" in low:
        return (
            f"data.path={path}: its files have different columns, which the hub's reader refuses: "
            f"name one configuration with data.name, or download the files and use data=file "
            f"({said})"
        )
    way = way_out(said, f"{PAGES}/datasets/{path}")
    return (
        f"data.path={path} is not in the local cache and {said}: "
        + (f"{way}; or " if way else "")
        + "use a file with data=file data.path=..., the embedded corpus with data=sample, or "
        "download it once where there is a network"
    )


def _records(rows: Any, path: str) -> Iterator[Record]:
    import pyarrow

    number = 0
    try:
        for batch in rows.iter(batch_size=1000):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, values, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        files = ", ".join(sorted({str(Path(f["filename"]).parent) for f in rows.cache_files}))
        raise UserError(
            f"{path}, row {number + 1}: the copy in the cache cannot be read "
            f"({whole_message(error)}): remove {files} and start again"
        ) from error
