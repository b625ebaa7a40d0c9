"""The part of the benchmark that keeps a core busy."""

import subprocess

import pytest
import torch

from src.benchmark import cores
from src.benchmark.cores import BESIDE, Cores
from src.benchmark.turns import Variant

VARIANTS = {variant.name: variant for variant in Cores().variants(torch.device("cpu"))}


@pytest.mark.parametrize("name", ["train_auto_beside", "train_one", "decode_auto_beside"])
def test_a_variant_measures_with_the_other_program_there(name, repeat, monkeypatch):
    programs = []
    original = subprocess.Popen

    def popen(*args, **options):
        program = original(*args, **options)
        if "os.getppid()" in args[0][-1]:
            programs.append(program)
        return program

    monkeypatch.setattr(cores.subprocess, "Popen", popen)
    threads = torch.get_num_threads()
    measured = repeat(Variant(name, VARIANTS[name].work))
    torch.set_num_threads(threads)
    assert measured.amount > 0
    assert len(programs) == (BESIDE in name)
    assert all(program.returncode is not None for program in programs)  # none is left


def test_ratios_are_of_variants_that_there_are():
    assert {name for pair in Cores.ratios for name in pair} <= VARIANTS.keys()
    assert not Cores().variants(torch.device("cuda"))
