"""Bad replies are made of good ones, and scored."""

import numpy as np
import pytest
import torch

from src.data.comparison_corpus import Group
from src.objectives.probes import KINDS, preferred, probe, probe_lines, rewards
from tests.objectives.conftest import END, blocks_of, random_groups


class Told:
    """Rewards by a rule in place of a model's."""

    def __init__(self, rule):
        self.rule = rule

    def to(self, device):
        return self

    def eval(self):
        return self


@pytest.fixture
def probed(monkeypatch):
    """Figures of a model that gives rewards by a rule of the reply's tokens."""

    def figures(rule, groups):
        contexts = {tuple(g.replies[0][: g.num_context]): g.num_context for g in groups}

        def told(model, rows):
            found = []
            for row in rows:
                context = next(n for prompt, n in contexts.items() if tuple(row[:n]) == prompt)
                found.append(float(rule(row[context:])))
            return torch.tensor(found)

        monkeypatch.setattr("src.objectives.probes.rewards", told)
        return probe(Told(rule), blocks_of(groups), 64, "cpu")

    return figures


def test_the_preferred_reply_of_each_prompt_is_found():
    groups = random_groups([2, 4, 3])
    upside_down = [Group(g.replies[::-1], g.num_context, list(g.ranks)[::-1]) for g in groups]
    found = {tuple(r.prompt): r for r in preferred(blocks_of(upside_down, block_size=128))}
    assert len(found) == 3
    for group in groups:
        prompt, best = group.replies[0][: group.num_context], group.replies[0]
        reply = found[tuple(prompt)]
        assert reply.has_ended
        assert [*reply.prompt, *reply.tokens, END] == best


def test_tied_best_replies_are_one_probe():
    assert len(list(preferred(blocks_of(random_groups([4], tied=True))))) == 1


def test_a_model_that_likes_length_is_fooled_and_told_apart(probed):
    groups = random_groups([2] * 20, seed=1)
    found = probed(len, groups)
    assert found["probe/empty"] == 1.0
    assert found["probe/repeated"] == 0.0
    assert found["probe/stuffed"] == 0.0
    assert found["probe/truncated"] == 1.0
    assert found["probe/shuffled"] == 0.5  # of the same length
    said = " ".join(probe_lines(found))
    assert "repeated 0%" in said
    assert "do not train against it yet" in said
    assert "as good ones: repeated, shuffled, stuffed;" in said


def test_a_model_that_wants_an_end_finds_the_truncated(probed):
    found = probed(lambda reply: reply[-1:] == [END], random_groups([2] * 20, seed=1))
    assert found["probe/truncated"] == 1.0
    assert found["probe/repeated"] == 0.5


def test_a_good_model_passes_all(probed):
    groups = random_groups([2] * 20, seed=1)
    best = {tuple(g.replies[0][g.num_context :]) for g in groups}
    found = probed(lambda reply: tuple(reply) in best, groups)
    assert {found[f"probe/{kind}"] for kind in KINDS} == {1.0}
    assert "do not train" not in " ".join(probe_lines(found))


def test_rewards_of_many_rows_are_those_of_each_alone(scalar, monkeypatch):
    monkeypatch.setattr("src.objectives.probes.TOKENS_AT_A_TIME", 20)
    rows = [reply for group in random_groups([3, 2, 2]) for reply in group.replies]
    together = rewards(scalar, rows)
    alone = torch.cat([rewards(scalar, [row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert np.isfinite(together.numpy()).all()
