"""A compiled model: the same sums, compiled once for all blocks and for every packed batch."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch._dynamo.utils import counters

from src.model.gpt2 import GPT2
from src.model.loss import supervised_loss
from tests.model.conftest import random_model, relative_error, tiny_config

# Documents of two blocks of 48 positions: their number and lengths differ, so do the labels'.
PACKED = (
    ([48, 10, 38], 30),
    ([20, 28, 48], 41),
    ([1, 2, 3, 42, 9, 9, 9, 9, 12], 17),
    ([40, 8, 31, 17], 55),
    ([5] * 9 + [3] + [6] * 8, 64),
)


def batch(lengths: list[int], num_labels: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(num_labels)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    return (
        torch.randint(97, (2, 48), generator=generator),
        torch.cat([torch.arange(end - start) for start, end in pairwise(bounds)]).view(2, 48),
        bounds.int(),
        torch.randperm(96, generator=generator)[:num_labels],
        torch.randint(97, (num_labels,), generator=generator),
    )


def step(model: GPT2, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss and the gradient of the embedding, which all others flow into."""
    input_ids, position_ids, cu_seqlens, index, labels = inputs
    hidden = model(input_ids, position_ids, cu_seqlens)
    sums = supervised_loss(model, hidden, index, labels)
    model.zero_grad()
    sums.loss.backward()
    return sums.loss.detach(), model.wte.weight.grad.clone()


def check(device: str, precision: torch.dtype | None) -> list[int]:
    """Hold a compiled model against a plain one; return the graphs there were after each batch."""
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = (random_model(tiny_config()).train().to(device) for _ in range(2))
    names = list(compiled.state_dict())
    compiled.compile()
    assert list(compiled.state_dict()) == names
    num_graphs = []
    with torch.autocast(device, dtype=precision, enabled=precision is not None):
        for packed in PACKED:
            inputs = tuple(x.to(device) for x in batch(*packed))
            expected, actual = step(plain, inputs), step(compiled, inputs)
            if precision is None:
                torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
            for one, other in zip(actual, expected, strict=True):
                assert relative_error(one, other) < 2e-2
            num_graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    return num_graphs


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def backend(request, monkeypatch) -> None:
    """What is compiled, and how often, is decided before the backend, of which one is slow."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))


@pytest.mark.usefixtures("backend")
def test_every_packed_batch_and_every_block_runs_what_was_compiled_first():
    assert check("cpu", None) == [2] * len(PACKED)  # before attention, and after it


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_every_packed_batch_runs_what_was_compiled_first_on_a_gpu(precision):
    assert check("cuda", precision) == [2] * len(PACKED)
