"""A Hugging Face hub name or a local folder becomes a local folder, without ever hanging.

Order of attempts: a local folder; the local cache (no connection is made); the hub, after a probe
that answers within seconds whether it can be reached at all.
"""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError
from src.model_files import check_subfolder

PROBE_SECONDS = 10.0


def hub_is_offline() -> bool:
    """Whether a person switched the hub off (``HF_HUB_OFFLINE=1``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def probe_hub() -> str | None:
    """Ask the hub for a sign of life; return what is wrong, or None if it answers.

    huggingface_hub retries a refused connection for up to 48 seconds and waits for a silent server
    forever. So this function asks first, once, and waits ``PROBE_SECONDS`` at most.
    """
    if hub_is_offline():
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(
            f"{endpoint}/api/models/openai-community/gpt2", timeout=PROBE_SECONDS
        )
    except urllib.error.HTTPError:
        return None  # it answered, whatever it said
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{endpoint} cannot be reached ({getattr(error, 'reason', None) or error})"
    return None


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
        if _has_config(folder) or not _has_config(model):
            return folder
        check_subfolder(folder, model.name)
        return model
    if folder.exists():
        raise UserError(f"{key}={name_or_path} is a file: name the folder that holds it")
    if not is_hub_name(name_or_path):
        raise UserError(f"{key}={name_or_path}: there is no such folder")

    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def download(local_files_only: bool) -> Path:
        path = snapshot_download(
            name_or_path, allow_patterns=list(patterns), local_files_only=local_files_only
        )
        return Path(path)

    try:
        snapshot = download(local_files_only=True)
        if all(any(any(snapshot.glob(p)) for p in each.split("|")) for each in required):
            return snapshot
    except HFValidationError as error:
        raise UserError(
            f"{key}={name_or_path}: no such folder, and no hub name: {error}"
        ) from error
    except LocalEntryNotFoundError:
        pass  # not in the cache: ask the hub
    if problem := probe_hub():
        raise UserError(
            f"{key}={name_or_path} is not a local folder or in the cache, and {problem}: give a "
            f"local folder, or download it once where there is a network"
        )
    try:
        return download(local_files_only=False)
    except (httpx2.HTTPError, OSError) as error:
        raise UserError(
            f"{key}={name_or_path}: the hub did not give it: {first_line(error)}"
        ) from error


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").exists()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def whole_message(error: BaseException) -> str:
    """Return all that an error and its causes say, each once, on one line."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if not any(text in other for other in said):
            said.append(text)
        cause = cause.__cause__
    return "; ".join(said)


def is_hub_name(name: str) -> bool:
    """Whether ``name`` looks like ``name`` or ``owner/name`` rather than a path."""
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and bool(name.strip())
