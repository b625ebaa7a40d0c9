"""The models that are compared: what a person names, and what is known of each."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data.config import DataConfig
from src.data.template import is_ours
from src.data.tokenizer import Tokenizer, load_tokenizer
from src.errors import UserError
from src.evaluation.runs import KEPT, run_settings
from src.model.pretrained_config import read_config
from src.model.weights_file import weights_paths
from src.talk.chat_template import template_source
from src.talk.model_folder import model_folder

URLS = ("http://", "https://")

# Settings in which two runs may differ and still be the same but for their seed: none of them
# changes what is learned.
INDIFFERENT = (
    "seed",
    "resume",
    "name",
    "sample_prompts",
    "exact_match",
    "reference",
    "generation.",
    "device",
    "micro_batch_size",
    "packing",
    "threads",
    "trainer.threads",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_",
    "trainer.activation_checkpointing",
    "data.corpus_dir",
    "data.num_workers",
)


@dataclass(frozen=True)
class Candidate:
    """One model.

    Attributes:
        name: as it was named; a second of the same name has a number.
        folder: of its files; None: it is behind a URL.
        url: None: it is here.
        settings: those of the run that made it; empty: unknown.
    """

    name: str
    folder: Path | None
    url: str | None
    settings: Mapping[str, Any]

    @property
    def seed(self) -> Any:
        """The seed of its run; None: unknown."""
        return self.settings.get("seed")

    @property
    def recipe(self) -> tuple[tuple[str, str], ...] | None:
        """What its run learned from and how, but for the seed; None: unknown."""
        if not self.settings:
            return None
        settings = {**self.settings}
        if self.folder is not None and self.folder.parent.name == KEPT:
            settings["kept"] = self.folder.name  # which step's model, and no other seed's
        return tuple(
            sorted(
                (key, repr(value))
                for key, value in settings.items()
                if not key.startswith(INDIFFERENT)
            )
        )

    def may_have_learned(self, data: DataConfig, split: str) -> bool:
        """Whether rows of a ``split`` of ``data`` may have been among those it learned from.

        A file is split by a hash of the prompt: the first share of all hashes is the test split,
        the next the validation split. So a larger share than the run held out reaches into its
        training rows.
        """
        run = self.settings
        if not run or not _are_same(run.get("data.path"), data.path):
            return False
        if split == "train":
            return True
        held_out = run.get("data.test_fraction", 0) + run.get("data.validation_fraction", 0)
        asked = data.test_fraction + (data.validation_fraction if split == "validation" else 0)
        return asked > held_out

    @property
    def num_positions(self) -> int:
        """Positions of the model; raises UserError if its config is broken."""
        assert self.folder is not None
        try:
            return read_config(self.folder, 0.0, None).shape.n_positions
        except UserError as error:
            raise UserError(f"model_path={self.name}: {error}") from error

    @property
    def block_size(self) -> int | None:
        """The positions that its run learned with; None: unknown."""
        value = self.settings.get("data.block_size")
        return value if isinstance(value, int) else None

    @property
    def has_our_template(self) -> bool:
        """Whether it is asked in the template that rows are scored in."""
        assert self.folder is not None
        source = template_source(self.folder)
        return source is None or is_ours(source, self.tokenizer().end_token)

    def tokenizer(self) -> Tokenizer:
        """Load its tokenizer."""
        assert self.folder is not None
        return load_tokenizer(str(self.folder), key="model_path")


def names_in(value: Any) -> list[str]:
    """Return the models that ``model_path`` names: a list, or a text with commas.

    A comma in the name of a folder that exists is part of the name.

    Raises:
        UserError: an entry is empty or no text.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        names = [str(each) for each in value]
    else:
        names = _split(str(value))
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise UserError(f"model_path={value}: a name is empty: put one comma between two models")
    return names


def _split(text: str) -> list[str]:
    parts = text.split(",")
    names: list[str] = []
    while parts:
        # The longest name of something that exists, or else up to the next comma.
        sizes = range(len(parts), 1, -1)
        size = next((n for n in sizes if os.path.lexists(_path(",".join(parts[:n])))), 1)
        names.append(",".join(parts[:size]))
        parts = parts[size:]
    return names


def _are_same(one: Any, other: Any) -> bool:
    """Whether two settings name the same rows, by whatever path."""
    if one is None or other is None:  # the embedded rows, whose splits are their own
        return False
    return one == other or os.path.realpath(_path(str(one))) == os.path.realpath(_path(str(other)))


def _path(name: str) -> str:
    return os.path.expanduser(name.strip())


def find_candidates(names: Sequence[str], key: str = "model_path") -> list[Candidate]:
    """Return the models of these names; a URL is not asked yet.

    Raises:
        UserError: a name is neither a folder with weights, a hub name that can be had, nor a URL;
            names ``key``.
    """
    seen: Counter[str] = Counter()
    candidates = []
    for name in names:
        seen[name] += 1
        shown = name if seen[name] == 1 else f"{name} ({seen[name]})"
        if name.startswith(URLS):
            candidates.append(Candidate(shown, None, name, {}))
            continue
        folder = model_folder(name, key)
        try:
            weights_paths(folder)  # before others are judged
        except UserError as error:
            raise UserError(f"{key}={name}: {error}") from error
        candidates.append(Candidate(shown, folder, None, run_settings(folder)))
    return candidates
