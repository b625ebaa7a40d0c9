"""How many operations a step of training costs on a CPU, each some microseconds.

A small model's step is mostly these; time is not measured, for it depends on what else runs.
"""

from collections import Counter

import lightning as L

from src.model.attention import GroupedAttention
from src.training.machine import decide
from src.training.place import find_place
from src.training.start import prepare
from tests.operations import Operations
from tests.training.conftest import SMALL, settings

LAYERS = 3
A_LAYER = 37  # forward and backward, without what each group of documents takes
A_GROUP = 8  # in a layer: three operations forward, five backward
A_MASK = 2  # of a group, for all layers
OTHERS = 97  # embeddings, loss, clipping, AdamW, sums, and what Lightning adds


class Steps(L.Callback):
    """Notes the operations until the end of each step, and how many groups its documents make."""

    def __init__(self, operations: Operations):
        self.operations = operations
        self.counts: list[Counter[str]] = []
        self.groups: list[int] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.groups.append(len(GroupedAttention(batch["cu_seqlens"]).groups))
        self.counts.append(Counter(self.operations.count))


def test_a_step_costs_no_more_operations_than_it_did(tmp_path):
    overrides = (
        *(*SMALL, f"model.n_layer={LAYERS}", "trainer.threads=1", "trainer.log_every_n_steps=1000"),
        *("trainer.val_every_n_steps=1000", f"data.corpus_dir={tmp_path / 'corpora'}"),
    )
    config, objective = settings(*overrides)
    run = prepare(config, objective(config), decide(config, find_place()), tmp_path, [])
    operations = Operations()
    steps = Steps(operations)
    run.trainer.callbacks.append(steps)  # after ours, whose operations count
    with operations:
        run.fit()
    for number in range(1, len(steps.counts) - 1):  # the last step is logged and saved
        count = steps.counts[number] - steps.counts[number - 1]
        groups = steps.groups[number]
        most = OTHERS + A_MASK * groups + LAYERS * (A_LAYER + A_GROUP * groups)
        assert count.total() <= most, count
