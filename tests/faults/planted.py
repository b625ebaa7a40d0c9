"""A fault that a forked door commits by itself, at an exact moment (environment ``PLANTED``).

``place:number:action``: when ``place`` is reached for the ``number``-th time, the process sends
itself the signals of ``action`` (``TERM``, ``INT+INT``, ``KILL``). With the action ``count`` it
writes down how often the place was reached in the end, in the file ``$COUNTED``.
"""

import atexit
import importlib
import os
import signal
from collections.abc import Callable
from typing import Any

# Where each place is: module, class if any, function; and whether it counts there.
PLACES: dict[str, tuple[str, str, Callable[..., bool]]] = {
    "rows": ("src.data.encoding", "encode_examples", lambda *_: True),
    "corpus": ("src.data.corpus", "SplitWriter.append", lambda *_: True),
    "tokenizer": ("src.data.datamodule", "train_tokenizer", lambda *_: True),
    "packing": ("src.data.blocks", "pack", lambda *_: True),
    "first validation": (
        "src.objectives.sft",
        "SFTModule.validation_step",
        lambda self, *_: self.trainer.state.fn == "validate" and self.trainer.global_step == 0,
    ),
    "micro-batch": ("src.objectives.sft", "SFTModule.training_step", lambda *_: True),
    "validation": (
        "src.objectives.sft",
        "SFTModule.validation_step",
        lambda self, *_: self.trainer.state.fn == "fit",
    ),
    "replies": ("src.objectives.replies", "SampleReplies.ask", lambda *_: True),
    "checkpoint": ("torch", "save", lambda *_: True),
    "model": ("src.objectives.sft", "save_model_folder", lambda *_: True),
    "test": ("src.objectives.sft", "SFTModule.test_step", lambda *_: True),
    "figures": ("src.training.run", "Run._figures", lambda *_: True),
    # Of a policy that learns from its own replies.
    "rollouts": ("src.model.rollout", "Sampling.rollouts", lambda *_: True),
    "policy step": ("src.training.module", "TrainingModule.training_step", lambda *_: True),
    "validation answers": (
        "src.objectives.policy_module",
        "PolicyModule.validation_step",
        lambda *_: True,
    ),
    # Inside of everything that is saved: each flush and each new name.
    "fsync": ("os", "fsync", lambda *_: True),
    "replace": ("os", "replace", lambda *_: True),
    "rename": ("os", "rename", lambda *_: True),
    "unlink": ("os", "unlink", lambda *_: True),
}
SAVES = ("checkpoint", "model", "fsync", "replace", "rename", "unlink")


def plant(text: str) -> None:
    """Plant the faults that ``text`` describes, separated by commas."""
    for fault in text.split(","):
        name, number, action = fault.split(":")
        names = SAVES if name == "saves" else (name,)
        counter = [0]
        for place in names:
            _wrap(place, counter, int(number), action)
        if action == "count":
            atexit.register(_write, counter)


def _write(counter: list[int]) -> None:
    with open(os.environ["COUNTED"], "w", encoding="utf-8") as file:
        file.write(str(counter[0]))


def _wrap(place: str, counter: list[int], number: int, action: str) -> None:
    module, path, counts = PLACES[place]
    owner: Any = importlib.import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    original = getattr(owner, name)
    process = os.getpid()

    def planted(*args: Any, **options: Any) -> Any:
        if os.getpid() == process and counts(*args):
            counter[0] += 1
            if counter[0] == number and action != "count":
                for sent in action.split("+"):
                    os.kill(process, getattr(signal, f"SIG{sent}"))
        return original(*args, **options)

    setattr(owner, name, planted)
