"""A stand-in for a GPU: torch's ``meta`` device, which holds no numbers.

What has to wait for a GPU raises there: ``.item()``, ``bool``, ``nonzero``, a boolean mask, a copy
to the CPU. ``CudaStandIn`` refuses what ``meta`` lets pass, copies from the CPU among it, and makes
CUDA's choice where torch asks for the device: autocast, attention, fused and foreach kernels.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec, module_from_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from src.model import attention, loss
from src.model.varlen import VarlenAttention

aten = torch.ops.aten
ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")


class Refused(AssertionError):
    """A GPU would be waited for."""


class Launches(TorchDispatchMode):
    """Counts what is launched and refuses what waits; views and allocations launch nothing."""

    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.ops.prim.device.default:
            with self:  # in inference mode, operations come that are made of others
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **kwargs)
        outputs = [x for x in tree_iter(result) if isinstance(x, Tensor)]
        if any(x.is_meta for x in [*inputs, *outputs]):
            copies = func in (aten._to_copy.default, aten.copy_.default)
            if any(x.is_cpu and (x.dim() or copies) for x in inputs):
                raise Refused(f"{func} of a tensor on the CPU")
            if func.name().startswith("aten::index") and any(x.dtype == torch.bool for x in inputs):
                raise Refused(f"{func} by a boolean mask")
            name = func.name().partition(".")[0]
            if not (func.is_view or name in (*ALLOCATIONS, "aten::_unsafe_view")):
                self.count[name] += 1
        return result


class Kernel:
    """Stands for a Triton kernel, and counts its launches: ``kernel[grid](...)``."""

    def __init__(self, count: Counter[str], name: str):
        self.count, self.name = count, name

    def __getitem__(self, grid):
        return self

    def __call__(self, *args, **kwargs):
        if any(isinstance(x, Tensor) and not x.is_meta for x in args):
            raise Refused(f"{self.name} of a tensor on the CPU")
        self.count[self.name] += 1


def tensor(make: Callable[..., Tensor], data, *, device=None, **rest) -> Tensor:
    """Refuse to make a tensor on the device of numbers that the CPU has."""
    if str(device) == "meta":
        raise Refused("torch.tensor of numbers on the CPU")
    return make(data, device=device, **rest)


def memory_efficient(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Attend by the kernel that every CUDA device has; ``meta`` is given plain products else."""
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(~bias, float("-inf"))
        bias = bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    attend = aten._scaled_dot_product_efficient_attention
    return attend(q, k, v, bias, torch.is_grad_enabled(), dropout_p, is_causal)[0]


class CudaStandIn:
    """A card of a capability, with our Triton kernels or without.

    Args:
        monkeypatch: undoes it all.
        capability: 7: Turing; 8 and above: has the varlen kernel and bf16.
        dtype: of autocast; None: it is off.
        has_kernels: whether our own kernels are there.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capability: int,
        dtype: torch.dtype | None,
        has_kernels: bool,
    ):
        self.launches = Launches()
        self.dtype = dtype
        patch = monkeypatch.setattr
        patch(attention, "compute_capability", lambda device: capability)
        patch(attention, "VarlenAttention", VarlenAttention, raising=False)
        fused = _foreach_utils._get_fused_kernels_supported_devices()
        patch(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused, "meta"])
        foreach = _foreach_utils._get_foreach_kernels_supported_devices()
        patch(_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: [*foreach, "meta"])
        patch(F, "scaled_dot_product_attention", memory_efficient)
        patch(torch, "tensor", functools.partial(tensor, torch.tensor))
        self._patch_autocast(monkeypatch)
        patch(loss, "HAS_KERNEL", has_kernels)
        if has_kernels:
            patch(loss, "score_", self.kernels("fused_scores").score_, raising=False)

    def _patch_autocast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have products computed in ``dtype``: autocast does not know ``meta``.

        What else autocast changes, fp32 in norms, is as it is: the residual path is fp32.
        """
        is_on, dtype_of, linear = torch.is_autocast_enabled, torch.get_autocast_dtype, F.linear
        ours = ("meta", "cuda")

        def is_autocast_enabled(kind: str = "cuda") -> bool:
            return self.dtype is not None if kind in ours else is_on(kind)

        def get_autocast_dtype(kind: str) -> torch.dtype:
            return self.dtype if kind in ours else dtype_of(kind)

        def autocast(kind: str, enabled: bool) -> nullcontext:
            assert (kind, enabled) == ("meta", False)
            return nullcontext()  # what is computed in it has one type already

        def cast_linear(*inputs: Tensor | None) -> Tensor:
            if self.dtype is not None:
                inputs = [None if x is None else x.to(self.dtype) for x in inputs]
            return linear(*inputs)

        for function in (is_autocast_enabled, get_autocast_dtype, autocast):
            monkeypatch.setattr(torch, function.__name__, function)
        monkeypatch.setattr(F, "linear", cast_linear)

    def kernels(self, name: str) -> ModuleType:
        """Return a module of our kernels; what it launches is counted, and Triton not needed."""
        spec = find_spec(f"src.model.{name}")
        module = module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "triton", self._triton())
            patch.setitem(sys.modules, "triton.language", ModuleType("triton.language"))
            spec.loader.exec_module(module)
        return module

    def _triton(self) -> ModuleType:
        triton = ModuleType("triton")
        triton.language = SimpleNamespace(constexpr=int)
        triton.jit = lambda function: Kernel(self.launches.count, function.__name__)
        triton.cdiv = lambda a, b: -(-a // b)
        triton.next_power_of_2 = lambda n: 1 << (n - 1).bit_length()
        return triton

    @contextmanager
    def __call__(self) -> Iterator[Counter[str]]:
        """Run on the card, and give how often each operation is launched."""
        self.launches.count.clear()
        with self.launches:
            yield self.launches.count
