"""The reference while a policy learns: on the disk, not in memory."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from src import phases
from src.model.gpt2 import GPT2
from src.model.pretrained import load_pretrained
from src.model.weights_file import checksum
from src.training.place import find_place

FOLDER = "reference"  # in the run folder, of one that is in no other

log = logging.getLogger(__name__)


class KeptReference:
    """Reads the reference each time it is called.

    One that is in no folder, such as a random start, is held until ``write`` puts it into one.

    Args:
        model: the reference.
        expected: the checksum of its weights.
        load: reads what may be the same model from its folder; None: it has none.
    """

    def __init__(self, model: GPT2, expected: str, load: Callable[[], GPT2] | None):
        is_there = load is not None and weights_checksum(load()) == expected
        self.model = None if is_there else model
        self.load = load if is_there else None
        self.expected = expected
        self.has_warned = False

    def write(self, run_folder: Path, save: Callable[[GPT2, Path], None]) -> None:
        """Let go of the model; if it is in no folder, ``save`` writes one, on rank 0.

        It has to be called before the policy learns, which may share the model's weights.
        """
        if self.model is None:
            return
        folder = run_folder / FOLDER
        if find_place().rank == 0:
            with phases.phase("reference"):
                save(self.model, folder)
        self.model = None
        self.load = partial(load_pretrained, str(folder), key="objective.reference")

    def __call__(self) -> GPT2 | None:
        """Return the reference; None, with a warning, if its folder holds another model by now."""
        assert self.load is not None
        model = self.load()
        if weights_checksum(model) == self.expected:
            return model
        if not self.has_warned:
            self.has_warned = True
            log.warning(
                "warning: no val/kl and no new replies of the reference: its folder has changed "
                "meanwhile"
            )
        return None


def weights_checksum(model: GPT2) -> str:
    """Return the checksum of the weights of a model on any device."""
    return checksum({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
