"""The loader of rollouts: which replies make which micro-batch, and how it goes on."""

import torch

from src.data.order import Batching
from src.model.replies import Replies
from src.model.rollout import Rollout
from src.objectives.experience import Deal, Experience, ExperienceLoader

END = 9
DEAL = Deal(Batching(4, 1, 2), num_minibatches=2, num_epochs=2, seed=1)


def experience(iteration: int) -> Experience:
    """Eight replies of 1 to 8 tokens; their numbers say what they are."""
    rollouts = [Rollout([10 * iteration + i] * i + [END], [0.0] * (i + 1), True) for i in range(8)]
    replies = Replies.of([[1] * (i % 3 + 1) for i in range(8)], rollouts, range(8))
    each = torch.arange(int(replies.reply_lengths.sum())).float() + 100 * iteration
    return Experience(replies, each, each + 1, each + 2, each + 3, each + 4)


def loader(seen: list[int], rank: int = 0, deal: Deal = DEAL) -> ExperienceLoader:
    def collect(iteration: int) -> Experience:
        seen.append(iteration)
        return experience(iteration)

    return ExperienceLoader(deal, 10, collect, rank, END, 1)


def same(one: dict, other: dict) -> bool:
    return all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def test_each_pass_sees_every_reply_once_and_each_iteration_is_collected_once():
    seen: list[int] = []
    batches = list(loader(seen))
    assert len(batches) == 20
    assert seen == [0, 1, 2]  # the third is cut short: 10 steps
    of_pass = torch.cat([b["logprobs"] for b in batches[:4]])
    assert sorted(of_pass.tolist()) == experience(0).logprobs.tolist()
    second = torch.cat([b["logprobs"] for b in batches[4:8]])
    assert sorted(second.tolist()) == sorted(of_pass.tolist())
    assert second.tolist() != of_pass.tolist()
    assert [b["is_first"] for b in batches[:4]] == [True, True, False, False]
    assert batches[0]["denominator"] == len(batches[0]["logprobs"]) + len(batches[1]["logprobs"])


def test_it_goes_on_anywhere_with_the_experience_in_hand():
    whole = list(loader([]))
    for position in (0, 3, 8, 13):
        first, seen = loader([]), []
        for _, _batch in zip(range(position), first, strict=False):
            pass
        second = loader(seen)
        second.load_state_dict(first.state_dict())
        rest = list(second)
        assert len(rest) == 20 - position
        assert all(same(a, b) for a, b in zip(rest, whole[position:], strict=True))
        assert seen == list(range(-(-position // 8), 3))


def test_ranks_share_each_micro_batch():
    two = Deal(Batching(4, 2, 1), num_minibatches=2, num_epochs=2, seed=1)
    one = list(loader([], deal=Deal(Batching(4, 1, 2), 2, 2, 1)))
    ranks = [list(loader([], rank, two)) for rank in (0, 1)]
    for whole, *parts in zip(one, *ranks, strict=True):
        together = torch.cat([part["logprobs"] for part in parts])
        assert sorted(together.tolist()) == sorted(whole["logprobs"].tolist())
        assert {part["denominator"] for part in parts} == {whole["denominator"]}
        assert {part["num_tokens"] for part in parts} == {whole["num_tokens"]}


def test_a_token_stands_behind_the_position_that_predicts_it():
    replies = experience(0).replies
    batch = replies.batch([3, 0], END, multiple=16)
    assert batch["input_ids"].tolist() == [[1, 3, 3, 3, 9, 1, 9] + [9] * 9]
    assert batch["position_ids"].tolist()[0][:7] == [0, 1, 2, 3, 4, 0, 1]
    assert batch["cu_seqlens"].tolist() == [0, 5, 7, 12, 16]
    assert batch["reply_index"].tolist() == [0, 1, 2, 3, 5]
    assert batch["reply_labels"].tolist() == [3, 3, 3, 9, 9]
    assert batch["last_index"].tolist() == [4, 6]
