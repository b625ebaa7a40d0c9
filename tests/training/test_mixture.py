import json
import logging

import pytest

from tests.training.conftest import metrics


def test_each_source_has_its_share_and_its_figures(small_run, tmp_path, caplog):
    for name, count in (("a", 80), ("b", 40)):
        rows = [{"prompt": f"{name} asks {i}", "response": f"{i} {name}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = ", ".join(
        f"{{path: '{tmp_path / name}.jsonl', weight: {weight}}}"
        for name, weight in (("a", 2), ("b", 1))
    )
    with caplog.at_level(logging.INFO):
        run = small_run(
            "data=file",
            f"data.sources=[{sources}]",
            "data.validation_fraction=0.2",
            "data.test_fraction=0.2",
            "data.max_rows=null",
            "max_steps=2",
        )
    assert "a x 2: " in caplog.text
    figures = metrics(run)
    assert figures["train_rows/a"] % 2 == 0
    assert figures["train_tokens/a"] > figures["train_tokens/b"] > 0
    for split in ("val", "best_val", "test"):
        low, high = sorted(figures[f"{split}/loss/{name}"] for name in "ab")
        assert low <= figures[f"{split}/loss"] <= high
        assert figures[f"{split}/loss/a"] != pytest.approx(figures[f"{split}/loss/b"], abs=1e-6)
