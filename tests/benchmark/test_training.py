"""The training variants do equal work, and count what they do."""

from dataclasses import replace

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from src.benchmark import article, huggingface, ours, trl_sft
from src.benchmark.article import loss_and_accuracy
from src.benchmark.inputs import open_blocks, open_data_module
from src.benchmark.stopwatch import Finished, Stopwatch
from src.benchmark.train import Train
from src.model.loss import IGNORE_INDEX, supervised_loss
from src.model.pretrained import load_pretrained, save_pretrained
from src.objectives.sft import SFTModule
from tests.model.conftest import random_model

VARIANTS = {variant.name: variant for variant in Train().variants(torch.device("cpu"))}
WITHOUT_TRL = [variant for variant in VARIANTS.values() if variant.needs is None]


@pytest.fixture(scope="module")
def packed(job):
    """Two packed blocks, and the loss that ours has on them."""
    data = open_data_module(replace(job.config, batch_size=2), 2)
    batch = next(iter(data.train_dataloader()))
    model = load_pretrained(job.config.model.pretrained)
    hidden = model(batch["input_ids"], batch["position_ids"], batch["cu_seqlens"])
    sums = supervised_loss(model, hidden, batch["supervised_index"], batch["labels"])
    return batch, float(sums.loss.detach())


@pytest.mark.parametrize("variant", WITHOUT_TRL, ids=lambda variant: variant.name)
def test_every_variant_trains_with_every_setting(variant, repeat):
    for setting in variant.settings:
        result = repeat(variant, setting)
        assert result.seconds > 0
        assert result.amount > 0


def test_padding_is_not_counted(job, repeat):
    batches = open_data_module(job.config, 4, packing=False).train_dataloader().batches
    expected = batches[1]["num_tokens"]  # step 0 warms up
    assert repeat(VARIANTS["article_as_written"]).amount == expected
    assert expected < 4 * 64 * 0.9


def test_all_packed_variants_see_the_same_tokens(repeat):
    packed = {"packed": True, "micro_batch_size": 4}
    counts = {repeat(VARIANTS["huggingface"], packed).amount}
    counts |= {repeat(VARIANTS[name]).amount for name in ("ours", "bare_loop", "article_packed")}
    assert len(counts) == 1


def test_the_bare_loop_takes_the_same_steps_as_ours(job, tmp_path):
    """Same weights after two steps, so what differs in time is Lightning and our callbacks."""
    weights = {}
    original = SFTModule.configure_gradient_clipping

    def keep(module, *args, **options):
        original(module, *args, **options)
        weights[name].append([p.detach().clone() for p in module.model.parameters()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTModule, "configure_gradient_clipping", keep)
        for name, work in (("ours", ours.train_ours), ("bare_loop", ours.train_bare_loop)):
            weights[name] = []
            L.seed_everything(1, verbose=False)
            (tmp_path / name).mkdir()
            with pytest.raises(Finished):
                work(replace(job, folder=tmp_path / name), Stopwatch(job.device, 0.0, 1))
    assert len(weights["ours"]) == len(weights["bare_loop"]) == 2
    for a, b in zip(weights["ours"][1], weights["bare_loop"][1], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("blocks_at_a_time", [2, 1])
def test_hugging_faces_packed_loss_is_ours(job, packed, blocks_at_a_time):
    """One block at a time has logits at its supervised positions only."""
    batch, expected = packed
    model = huggingface.load(job.config.model.pretrained, dropout=0.0).eval()
    data = open_data_module(replace(job.config, batch_size=2), blocks_at_a_time)
    batches = data.train_dataloader().batches
    numbers = range(2 // blocks_at_a_time)
    micro_batches = [huggingface.packed_micro_batch(batches[number]) for number in numbers]
    assert all(("logits_to_keep" in m) == (blocks_at_a_time == 1) for m in micro_batches)
    loss = sum(float(huggingface.summed_loss(model, micro).detach()) for micro in micro_batches)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert sum(micro["num_tokens"] for micro in micro_batches) == batch["num_tokens"]


def test_hugging_faces_padded_loss_is_ours(job):
    blocks = open_blocks(job.config, packing=False)
    examples = torch.tensor([3, 17, 50, 81])
    micro = huggingface.padded_micro_batch(blocks, examples, 1)
    assert micro["input_ids"].shape[1] == blocks.lengths[examples].max()
    assert micro["num_tokens"] == blocks.lengths[examples].sum()
    model = huggingface.load(job.config.model.pretrained, dropout=0.0).eval()
    batch = blocks.batch(examples.numpy(), 0)
    mine = load_pretrained(job.config.model.pretrained)
    hidden = mine(batch["input_ids"], batch["position_ids"], batch["cu_seqlens"])
    expected = supervised_loss(mine, hidden, batch["supervised_index"], batch["labels"]).loss
    loss = float(huggingface.summed_loss(model, micro))
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_the_articles_model_is_gpt2_with_its_own_activation(job, tmp_path):
    """On one document and with the exact GELU its logits are ours; on packed ones they leak."""
    shared = load_pretrained(job.config.model.pretrained, activation="gelu")
    random = random_model(shared.config)
    shared.load_state_dict(random.state_dict())
    folder = tmp_path / "model"
    folder.mkdir()
    save_pretrained(shared, folder, 0)
    model = article.load(str(folder)).eval()
    ids = torch.randint(0, 300, (2, 20))
    torch.testing.assert_close(model(ids).logits, shared.logits(shared(ids)), rtol=1e-4, atol=1e-4)
    assert model.train().transformer.h[0].mlp.dropout.p == 0.1


def test_the_articles_loss_and_accuracy_count_labels_only():
    logits = torch.randn(1, 4, 9)
    labels = torch.tensor([[IGNORE_INDEX, 3, int(logits[0, 2].argmax()), IGNORE_INDEX]])
    logits[0, 1, 4] = 99.0
    loss, accuracy = loss_and_accuracy(logits, labels)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits[0, 1:3], labels[0, 1:3])))
    assert float(accuracy) == 0.5


def test_the_article_reads_everything_again_for_every_token(job):
    model = article.load(job.config.model.pretrained).eval()
    lengths = []
    model.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].shape[1]))
    ids = article.decode(model, torch.zeros(1, 5, dtype=torch.long), 3)
    assert ids.shape == (1, 8)
    assert lengths == [5, 6, 7]


def test_trl_counts_what_is_not_padding():
    ids = torch.zeros(2, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert int(trl_sft.real_tokens({"input_ids": ids, "attention_mask": mask})) == 8
    assert trl_sft.real_tokens({"input_ids": ids}) == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trl_default", "trl_best"])
def test_trl_trains_with_every_setting(name, repeat):
    pytest.importorskip("trl")
    for setting in VARIANTS[name].settings:
        assert repeat(VARIANTS[name], setting).amount > 0
