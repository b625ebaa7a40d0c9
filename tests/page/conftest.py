import pytest
import torch

from src.page.models import Models
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def folders(tokenizer, tmp_path) -> list[str]:
    names = []
    for seed, name in enumerate(("first", "second")):
        config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128)
        save_model_folder(
            tmp_path / name / "model", random_model(config, seed), tokenizer, greedy(8)
        )
        names.append(str(tmp_path / name / "model"))
    return names


@pytest.fixture
def models() -> Models:
    return Models(torch.device("cpu"))
