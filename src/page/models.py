"""The models of the page: loaded at their first question, the two used last kept."""

import threading
from collections import OrderedDict

import torch

from src.talk.assistant import Assistant, load_assistant


class Models:
    """Loads a model at its first question; keeps the two that were used last."""

    CAPACITY = 2

    def __init__(self, device: torch.device):
        self.device = device
        self.assistants: OrderedDict[str, Assistant] = OrderedDict()
        self.lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        """Whether the model is in memory."""
        return name in self.assistants

    def get(self, name: str) -> Assistant:
        """Return the assistant of a model folder or hub name.

        Raises:
            UserError: it cannot be loaded.
        """
        with self.lock:
            if name not in self.assistants:
                while len(self.assistants) >= self.CAPACITY:
                    self.assistants.popitem(last=False)
                self.assistants[name] = load_assistant(name, self.device)
            self.assistants.move_to_end(name)
            return self.assistants[name]
