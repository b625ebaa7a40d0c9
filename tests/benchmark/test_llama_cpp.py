"""llama.cpp as a peer: it decodes the same weights, and says what ours say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.benchmark.generate import Generate, read_prompts
from src.benchmark.llama_cpp import open_engine
from src.benchmark.turns import take_turns
from src.model.generation import generate
from src.model.pretrained import load_pretrained

NAMES = [
    f"llama_cpp_{dtype}{work}"
    for dtype in ("f32", "f16", "q8_0")
    for work in ("", "_batch_32", "_prompt_900")
]


def test_without_its_extra_llama_cpp_is_left_out_in_one_line(job, caplog, monkeypatch):
    monkeypatch.setattr("src.benchmark.turns.find_spec", lambda name: None)
    config = replace(job.config, variants=NAMES)
    part = Generate()
    assert not take_turns(part.name, part.variants(job.device), replace(job, config=config))
    assert len(caplog.records) == len(NAMES)
    assert "pip install 'gpt2-chat[engines,gguf]'" in caplog.text


def test_on_a_gpu_it_is_no_peer():
    assert not [v for v in Generate().variants(torch.device("cuda")) if v.needs == "llama_cpp"]


@pytest.mark.engines
def test_it_answers_and_reads_the_prompts_that_ours_do(job, repeat, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    variants = {variant.name: variant for variant in Generate().variants(job.device)}
    for name in ("llama_cpp_f32", "llama_cpp_f16_batch_32", "llama_cpp_f32_prompt_900"):
        own = variants[name.replace("llama_cpp_f32", "ours").replace("llama_cpp_f16", "ours_fp16")]
        assert repeat(variants[name]).amount == repeat(own).amount > 0
    model = load_pretrained(job.config.model_folder)
    prompts, num_tokens = read_prompts(job, 3)
    config = replace(job.config.generation, max_new_tokens=num_tokens, weights="fp32")
    steps = list(generate(model, prompts.tolist(), (), config))
    with open_engine(replace(job, folder=tmp_path / "f32"), "f32", 3, 64, repack=True) as engine:
        said = [engine.read(prompts.tolist(), 0)]
        for number in range(num_tokens - 1):
            said.append(engine.read(said[-1][:, None].tolist(), prompts.shape[1] + number))
    assert np.array(steps).shape == (num_tokens, 3)
    assert np.array_equal(said, steps)


@pytest.mark.engines
def test_where_its_process_dies_of_a_layout_the_other_is_measured(job):
    """Of q8_0 it does on a processor with matrix units."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    config = replace(job.config, variants=["llama_cpp_q8_0"], repeats=1)
    part = Generate()
    measured = take_turns(part.name, part.variants(job.device), replace(job, config=config))
    assert measured["llama_cpp_q8_0"].per_second > 0
