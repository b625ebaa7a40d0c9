"""Counts operations of torch, each some microseconds beside its arithmetic."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = (
    *("view", "split", "unbind", "slice", "unsqueeze", "expand", "select", "squeeze", "detach"),
    *("transpose", "t.", "permute", "alias", "as_strided", "_unsafe_view"),
)


class Operations(TorchDispatchMode):
    """Counts what is called, but for views."""

    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2]
        if not f"{name}.".startswith(VIEWS):
            self.count[name.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))
