import pytest
import torch

from src.page.models import Models
from src.page.ranking import Ranker
from src.talk.assistant import Assistant
from src.talk.model_folder import save_model_folder
from src.web import RankTabConfig
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


@pytest.fixture
def ranker(tokenizer, data_config, tmp_path) -> Ranker:
    """What asks to rank replies of a random model to 14 prompts; they go to ``a.jsonl``."""
    rows = "".join(f'{{"prompt": "question {i}"}}\n' for i in range(14))
    (tmp_path / "prompts.jsonl").write_text(rows + '{"nothing": 1}\n')
    fractions = {"validation_fraction": 0.0, "test_fraction": 0.0}
    data = data_config(source="file", path=str(tmp_path / "prompts.jsonl"), **fractions)
    settings = RankTabConfig(
        generation=greedy(8, temperature=1.0),
        prompts="train",
        max_prompts=None,
        num_replies=3,
        max_new_tokens=6,
        seed=1,
        output=str(tmp_path / "a.jsonl"),
    )
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128)
    assistant = Assistant(random_model(config, 0), tokenizer)
    return Ranker(settings, data, "model", lambda: assistant)
