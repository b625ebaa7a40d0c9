"""transformers' ``AutoTokenizer``, which sees of a stranger's folder no more than it needs."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.data.tokenizer_limits import is_too_large
from src.files.json_file import read_settings
from src.files.model_files import read_file


def auto_tokenizer(folder: Path, patterns: Sequence[str], has_config: bool) -> Any:
    """Return what transformers makes of the files that match ``patterns``; no code of theirs runs.

    Raises:
        Exception: any, for a folder that it does not understand.
    """
    from transformers import AutoTokenizer, GPT2Config
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it gives advice on how to save the folder anew
    try:
        options: dict[str, Any] = {} if has_config else {"config": GPT2Config()}
        with tempfile.TemporaryDirectory() as clean:
            _copy(folder, patterns, Path(clean))
            return AutoTokenizer.from_pretrained(
                clean, trust_remote_code=False, local_files_only=True, **options
            )
    finally:
        logging.set_verbosity(verbosity)


def _copy(folder: Path, patterns: Sequence[str], clean: Path) -> None:
    """Copy the files, without the settings that name others or that count what is to be built.

    It would open any template beside them, and make as many layers as a config names.
    """
    for path in sorted(folder.iterdir()):
        if any(path.match(pattern) for pattern in patterns):
            (clean / path.name).write_bytes(read_file(path))
    for path in (clean / "tokenizer_config.json", clean / "config.json"):
        values = read_settings(path)
        kept = {key: value for key, value in values.items() if not _is_left_out(key, value)}
        if kept != values:
            path.write_text(json.dumps(kept), encoding="utf-8")


def _is_left_out(key: str, value: Any) -> bool:
    return key.endswith(("_file", "_files", "template")) or is_too_large(key, value)
