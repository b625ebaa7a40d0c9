"""Rows of a data set on the Hugging Face hub."""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from src.data.config import DataConfig
from src.data.files.part import SPLITS, Part, Record
from src.errors import UserError
from src.hub import is_hub_name, probe_hub, whole_message


def hub_parts(config: DataConfig) -> tuple[list[Part], str]:
    """Return the splits of a hub data set and a hash of their rows.

    Raises:
        UserError: it cannot be had; with all that the hub says about it.
    """
    path = config.path
    if not isinstance(path, str) or not is_hub_name(path) or Path(path).is_file():
        raise UserError(f"data.path={path} is no hub name; for a file say data=file")
    if problem := probe_hub():
        _load_from_cache_only()

    import datasets
    import httpx2

    parts, prints = [], []
    wanted = (config.train_split or "train", config.validation_split, config.test_split)
    for split, name in zip(SPLITS, wanted, strict=True):
        if name is None:
            continue
        options = {"name": config.name} if config.name else {}
        try:
            rows = datasets.load_dataset(path, split=name, **options)
        except (
            *(ValueError, RuntimeError, OSError, KeyError),
            *(datasets.exceptions.DatasetsError, httpx2.HTTPError),
        ) as error:
            raise UserError(
                _what_to_do(error, config, f"data.{split}_split", name, problem)
            ) from error
        prints.append([split, rows._fingerprint, len(rows)])
        parts.append(Part(f"{path}[{name}]", split, partial(_records, rows), "row"))
    return parts, hashlib.sha256(json.dumps(prints).encode()).hexdigest()


def _what_to_do(
    error: Exception, config: DataConfig, key: str, split: str, problem: str | None
) -> str:
    """Return what went wrong, in the hub's words, and the way out."""
    path, said = config.path, whole_message(error)
    low = said.lower()
    if "gated" in low or "401" in said or "403" in said:
        way = (
            f"ask for access at https://huggingface.co/datasets/{path}, then log in with "
            f"`hf auth login` (or set HF_TOKEN)"
        )
        return f"data.path={path}: the hub asks for a login: {way} ({said})"
    if "config name is missing" in low or "builderconfig" in low:
        return f"data.path={path}: it has several configurations: name one with data.name ({said})"
    if "unknown split" in low or "bad split" in low:
        return f"{key}={split} of {path}: {said}"
    if "same columns" in low or "couldn't cast" in low or "features" in low:
        return (
            f"data.path={path}: its files have different columns, which the hub's reader refuses: "
            f"name one configuration with data.name, or download the files and use data=file "
            f"({said})"
        )
    if problem:
        return (
            f"data.path={path} is not in the local cache and {problem}: use a file with data=file "
            f"data.path=..., the embedded corpus with data=sample, or download it once where there "
            f"is a network ({said})"
        )
    return f"data.path={path}: the hub did not give this dataset ({said})"


def _records(rows: Any) -> Iterator[Record]:
    number = 0
    for batch in rows.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield number, dict(zip(batch, values, strict=True))


def _load_from_cache_only() -> None:
    """Switch both libraries to their caches: they read HF_HUB_OFFLINE only when imported."""
    import datasets.config
    import huggingface_hub.constants

    datasets.config.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_OFFLINE = True
