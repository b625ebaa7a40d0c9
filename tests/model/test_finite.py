import pytest
import torch

from src.model.finite import not_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_bad_number_is_found_and_named(value, dtype):
    tensors = {name: torch.randn(70, 30, dtype=dtype) for name in "abc"}
    assert not_finite(tensors) is None
    tensors["b"][69, 29] = value
    tensors["c"][0, 0] = value
    assert not_finite(tensors) == "b"


def test_two_infinities_do_not_cancel():
    assert not_finite({"a": torch.tensor([float("inf"), -float("inf")])}) == "a"


def test_finite_numbers_whose_squares_are_not_are_finite():
    assert not_finite({"a": torch.full((9,), 3e38), "b": torch.zeros(0)}) is None


def test_what_holds_no_numbers_is_passed_over():
    assert not_finite({"steps": torch.tensor(2**40)}) is None
    assert not_finite({}) is None
