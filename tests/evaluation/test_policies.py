"""Policies against their reference: what each figure says, held against plain recomputation."""

import shutil
from itertools import combinations

import numpy as np
import pytest
import torch

from src.data.tokenizer import train_tokenizer
from src.errors import UserError
from src.evaluation.best_of import best_of_weights, sizes_up_to, wins
from src.evaluation.judges import Judge, Opinion, choose_judge
from src.evaluation.length_control import length_controlled
from src.evaluation.limits import MOST_BEST_OF
from src.evaluation.policies import judge_policies
from src.evaluation.policy_replies import (
    POOL,
    REFERENCE,
    Drawing,
    Examination,
    examination,
    load_policy,
)
from src.evaluation.rows import EvaluationRow
from src.model.rollout import Sampling
from src.model.scalar import ScalarGPT2
from src.ranking.labellers import reward_labeller
from src.talk.assistant import Assistant
from src.talk.chat_template import jinja_template
from src.talk.messages import Message
from src.talk.model_folder import load_model_folder, save_model_folder
from src.talk.reward_folder import load_reward_folder, save_reward_folder
from tests.conftest import TEXTS, greedy
from tests.model.conftest import random_model, tiny_config

CPU = torch.device("cpu")
DRAWING = Drawing(max_new_tokens=10, num_slots=16, seed=5, device=CPU)
ROWS = [
    EvaluationRow([Message("user", f"What is {i} + {i}?")], str(2 * i), None, []) for i in range(24)
]
LONG = EvaluationRow([Message("user", "What? " * 80)], "Yes.", None, [])
LETTERS = Judge("letters", lambda row, reply, ended: Opinion(float(len(set(reply)))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A reference, another policy, a reward model; and a policy of another tokenizer."""
    base = tmp_path_factory.mktemp("policies")
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=320)
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=96)
    for number, name in enumerate(("sft", "ppo", "reward")):
        model = random_model(config, number)
        with torch.no_grad():  # so that some replies end
            end = model.wte.weight[tokenizer.end_id]
            model.ln_f.bias += 3 * end / end.norm()
        save_model_folder(base / name, model, tokenizer, greedy(8))
    scalar = ScalarGPT2.of(load_model_folder(str(base / "reward")).model)
    save_reward_folder(base / "reward_model", scalar, tokenizer, 0.0)
    other = train_tokenizer(TEXTS, vocab_size=300)
    stranger = random_model(tiny_config(vocab_size=300, n_positions=96))
    save_model_folder(base / "stranger", stranger, other, greedy(8))
    return base


def judged(folders, rows=ROWS, judge=LETTERS, drawing=DRAWING, **values):
    policies = {name: str(folders / name) for name in values.pop("names", ("ppo",))}
    return judge_policies(policies, ("sft", str(folders / "sft")), rows, judge, drawing, **values)


def replies_of(folders, name, first=0, temperature=1.0, rows=ROWS):
    """The rollouts of a policy, drawn one at a time."""
    folder = load_model_folder(str(folders / name))
    sampling = Sampling(5, temperature, 10, folder.tokenizer.end_id, 1)
    ids = [folder.template(row.messages) for row in rows]
    chance = [first + i for i in range(len(rows))]
    return ids, sampling.rollouts(folder.model.eval(), ids, chance), folder.tokenizer


def letters(rollouts, tokenizer):
    texts = [tokenizer.decode(r.tokens[: -1 if r.ended else None]).strip() for r in rollouts]
    return np.array([len(set(text)) for text in texts]), texts


def test_its_figures_are_those_of_replies_drawn_and_scored_alone(folders):
    found = judged(folders, reward_model=str(folders / "reward_model"))
    ids, ours, tokenizer = replies_of(folders, "ppo")
    _, theirs, _ = replies_of(folders, "sft", REFERENCE)
    gold, texts = letters(ours, tokenizer)
    their_gold, their_texts = letters(theirs, tokenizer)
    assert found.by_name["ppo"].sampled == texts
    assert found.by_name["sft"].sampled == their_texts
    assert texts != their_texts
    assert {r.ended for r in ours} == {True, False}
    policy, sft = found.by_name["ppo"].columns, found.by_name["sft"].columns
    assert policy["gold"].figure() == pytest.approx(gold.mean())
    assert sft["gold"].figure() == pytest.approx(their_gold.mean())
    points = (gold > their_gold) + 0.5 * (gold == their_gold)
    assert policy["win_rate"].figure() == pytest.approx(points.mean())
    lengths = [np.array([len(r.tokens) for r in each]) for each in (ours, theirs)]
    alike = np.minimum(*lengths) >= 0.8 * np.maximum(*lengths)
    assert 0 < alike.sum() < len(ROWS)
    controlled = length_controlled(points, lengths[0] - lengths[1])
    assert np.isfinite(controlled.figure())
    assert policy["win_rate_length_controlled"].figure() == pytest.approx(controlled.figure())
    assert policy["win_rate_like_length"].figure() == pytest.approx(points[alike].mean())
    models = [load_model_folder(str(folders / name)).model.eval() for name in ("ppo", "sft")]
    kl = []
    for prompt, reply in zip(ids, ours, strict=True):
        whole = torch.tensor([[*prompt, *reply.tokens]])
        with torch.no_grad():
            scores = [model.logits(model(whole)).log_softmax(-1)[0] for model in models]
        at = torch.arange(len(prompt) - 1, whole.shape[1] - 1)
        one, other = (each[at, whole[0, at + 1]].sum() for each in scores)
        kl.append(float(one - other))
    assert policy["kl"].by_row() == pytest.approx(kl, abs=1e-3)
    assert np.mean(kl) > 1
    assert "kl" not in sft
    assert "win_rate" not in sft
    reward = load_reward_folder(str(folders / "reward_model")).model.eval()
    with torch.no_grad():
        proxy = [
            reward.values(reward(torch.tensor([[*prompt, *reply.tokens]])))[0, -1].item()
            for prompt, reply in zip(ids, ours, strict=True)
        ]
    assert policy["proxy"].by_row() == pytest.approx(proxy, abs=1e-4)


def test_greedy_replies_are_the_likeliest_whatever_the_seed(folders):
    one, other = judged(folders), judged(folders, drawing=DRAWING._replace(seed=6, num_slots=3))
    assert one.by_name["ppo"].greedy == other.by_name["ppo"].greedy
    assert one.by_name["ppo"].sampled != other.by_name["ppo"].sampled
    _, likeliest, tokenizer = replies_of(folders, "ppo", temperature=0.0)
    assert one.by_name["ppo"].greedy == letters(likeliest, tokenizer)[1]


def test_a_policy_is_judged_the_same_whatever_else_is(folders):
    alone = judged(folders, drawing=DRAWING._replace(num_slots=2)).by_name["ppo"]
    beside = judged(folders, names=("reward", "sft", "ppo"))
    assert list(beside.by_name) == ["reward", "sft", "ppo"]
    both = beside.by_name["ppo"]
    assert both.sampled == alone.sampled
    assert both.columns["kl"].figure() == pytest.approx(alone.columns["kl"].figure(), abs=1e-4)


def test_a_reply_does_not_depend_on_which_other_rows_are_asked(folders):
    found = judged(folders).by_name["ppo"]
    some = judged(folders, asked=[3, 7]).by_name["ppo"]
    assert some.sampled[7] == found.sampled[7]
    assert some.sampled.count(None) == len(ROWS) - 2
    assert some.columns["kl"].used.nonzero()[0].tolist() == [3, 7]


def test_the_reference_under_another_name_is_no_better_than_itself(folders):
    found = judge_policies(
        {"copy": str(folders / "sft")}, ("sft", str(folders / "sft")), ROWS, LETTERS, DRAWING
    ).by_name["copy"]
    assert found.columns["kl"].figure() == 0.0
    assert found.columns["win_rate_greedy"].figure() == 0.5
    points = found.columns["win_rate"].by_row()
    assert set(points) == {0.0, 0.5, 1.0}  # its chance is not the reference's


def test_a_prompt_without_room_counts_for_nobody(folders):
    found = judged(folders, rows=[LONG, *ROWS])
    assert (found.num_asked, found.num_left_out) == (len(ROWS), 1)
    assert found.by_name["ppo"].sampled[0] is None
    assert not found.by_name["ppo"].columns["gold"].used[0]
    with pytest.raises(UserError, match="no prompt leaves room"):
        judged(folders, rows=[LONG])


def test_a_question_that_the_chat_template_refuses_counts_for_nobody(folders):
    base = load_policy(str(folders / "sft"), CPU, "against")

    def template(messages):
        if messages[0].role == "system":
            raise UserError("no system texts here")
        return base.template(messages)

    refused = EvaluationRow([Message("system", "Be brief."), *ROWS[0].messages], None, None, [])
    strict = base._replace(template=template)
    exam = examination(strict, {}, [refused, *ROWS[:2]], None, LETTERS, None, DRAWING)
    assert exam.numbers == [1, 2]


def test_figures_have_intervals(folders):
    figures = judged(folders).figures(num_resamples=1000, seed=1)
    assert {"gold", "gold_greedy", "win_rate", "kl"} <= figures["ppo"].keys()
    for found in figures["ppo"].values():
        assert found.low <= found.value <= found.high
    assert figures["ppo"]["gold"].low < figures["ppo"]["gold"].high
    assert "perfect" not in figures["ppo"]  # this judge does not say


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_best_of_n_is_the_mean_over_all_choices(n):
    values = np.array([0.3, 1.0, 1.5, 4.0, 9.0])
    expected = np.mean([max(choice) for choice in combinations(values, n)])
    assert best_of_weights(5, n) @ values == pytest.approx(expected)
    assert best_of_weights(5, n).sum() == pytest.approx(1)


def test_best_of_n_chooses_by_the_reward_model_and_is_judged_by_the_judge(folders):
    base = load_policy(str(folders / "sft"), CPU, "against")
    exam = examination(base, {}, ROWS, None, LETTERS, str(folders / "reward_model"), DRAWING)
    pool = exam.pool(base.model, 6)
    found = judged(folders, reward_model=str(folders / "reward_model"), best_of_most=6)
    assert [each.n for each in found.best_of] == [1, 2, 4, 6] == sizes_up_to(6)
    proxy, gold = pool.proxy.reshape(-1, 6), pool.gold.reshape(-1, 6)
    for each in found.best_of:
        chosen = [
            (proxy[row, list(c)].max(), gold[row, max(c, key=lambda k: proxy[row, k])])
            for row in range(len(ROWS))
            for c in combinations(range(6), each.n)
        ]
        expected = np.mean(chosen, axis=0)
        figures = each.columns["proxy"].figure(), each.columns["gold"].figure()
        assert figures == pytest.approx(expected, abs=1e-5)
    bound = found.best_of_figures(1000, 1)[4]["kl"]
    assert bound.value == pytest.approx(np.log(4) - 3 / 4)
    fewer = exam.pool(base.model, 2)
    assert fewer.texts == [pool.texts[6 * i + k] for i in range(len(ROWS)) for k in range(2)]
    assert REFERENCE + len(ROWS) < POOL


def test_ties_are_half_and_what_is_not_known_is_none():
    ours, theirs = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 2.0, 2.0, 1.0])
    assert wins(ours, theirs)[:3].tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(wins(ours, theirs)[3])


def test_the_embedded_labeller_judges_the_rows_that_it_knows():
    row = EvaluationRow([Message("user", "What is the capital of France?")], "?", None, [])
    judge = choose_judge("auto", [row])
    assert judge is not None
    assert judge.name == "gold"
    answer = "Of course! The capital of France is Paris."
    assert judge.says(row, answer, True) == Opinion(3.0, True, True)
    assert judge.says(row, answer, False).gold == 2.0
    history = [Message("user", "Hello"), Message("assistant", "Hi"), *row.messages]
    assert judge.says(EvaluationRow(history, "?", None, []), answer, True) is None


def test_elsewhere_exact_match_judges_short_answers_and_nobody_long_ones():
    judge = choose_judge("auto", [LONG])
    assert judge is not None
    assert judge.name == "exact_match"
    assert judge.says(LONG, " Yes. ", True) == Opinion(1.0, True, True)
    assert judge.says(LONG, "Yes.", False).gold == 0.0
    long = EvaluationRow(LONG.messages, "A long answer. " * 20, None, [])
    assert choose_judge("auto", [long]) is None
    assert choose_judge("none", [LONG]) is None


def test_a_person_names_a_judge(tmp_path, monkeypatch):
    (tmp_path / "own_judge.py").write_text(
        "def score(prompt, replies): return [len(r) for r in replies]"
    )
    (tmp_path / "odd_judge.py").write_text("def score(prompt, replies): return [float('nan')]")
    monkeypatch.chdir(tmp_path)
    assert choose_judge("own_judge.score", [LONG]).says(LONG, "four", True) == Opinion(4.0)
    with pytest.raises(UserError, match=r"judge=odd_judge.score: it must return a number"):
        choose_judge("odd_judge.score", [LONG]).says(LONG, "four", True)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"names": ("stranger",)}, "model_path=stranger has another tokenizer than against="),
        ({"names": ("nothing",)}, "nothing"),
        ({"reward_model": "sft"}, "no reward model: there is no score.weight"),
        ({"reward_model": "nothing"}, "reward_model="),
    ],
)
def test_a_mistake_is_one_line(folders, values, what):
    if "reward_model" in values:
        values = values | {"reward_model": str(folders / values["reward_model"])}
    with pytest.raises(UserError, match=what) as caught:
        judged(folders, **values)
    assert "\n" not in str(caught.value)


def test_each_of_the_most_replies_has_a_chance_of_its_own(folders, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        Examination, "_ask", lambda self, model, temperature, rows, chance: drawn.append(chance)
    )
    base = load_policy(str(folders / "sft"), CPU, "against")
    exam = examination(base, {}, ROWS[:3], None, LETTERS, None, DRAWING)
    exam.pool(base.model, MOST_BEST_OF)
    (chance,) = drawn
    assert len(set(chance)) == len(chance) == 3 * MOST_BEST_OF
    assert chance == list(range(POOL, POOL + 3 * MOST_BEST_OF))


def test_another_reading_is_said_before_any_model_is_asked(folders, tmp_path, monkeypatch):
    def ask(*_):
        raise AssertionError("a model is asked")

    def load(name, *_):
        assert "sft" in name, "its weights are read"
        return load_policy(name, CPU, "against")

    monkeypatch.setattr(Examination, "_ask", ask)
    monkeypatch.setattr("src.evaluation.policies.load_policy", load)
    with pytest.raises(UserError, match="model_path=stranger has another tokenizer"):
        judged(folders, names=("ppo", "stranger"))

    def other(change):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(folders / "ppo", tmp_path / "other")
        change(tmp_path / "other")
        policies = {"ppo": str(folders / "ppo"), "late": str(tmp_path / "other")}
        with pytest.raises(UserError, match="model_path=late") as caught:
            judge_policies(policies, ("sft", str(folders / "sft")), ROWS, LETTERS, DRAWING)
        return str(caught.value)

    def template(text):
        return lambda folder: (folder / "chat_template.jinja").write_text(text)

    def two_ends(folder):
        (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')

    assert "another chat template" in other(template("{{ messages[-1].content }}"))
    assert "another chat template" in other(template("{{ raise_exception('never') }}"))
    assert "chat template is broken" in other(template("{% if %}"))
    assert "tokens end its replies" in other(two_ends)


def test_a_reward_model_is_not_asked_of_another_template(folders, tmp_path):
    shutil.copytree(folders / "sft", tmp_path / "sft")
    (tmp_path / "sft/chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    reference = ("sft", str(tmp_path / "sft"))
    with pytest.raises(UserError, match=r"reward_model=.* learned our chat template") as caught:
        judge_policies(
            {"sft": reference[1]},
            reference,
            ROWS,
            LETTERS,
            DRAWING,
            reward_model=str(folders / "reward_model"),
        )
    assert "\n" not in str(caught.value)
    assert judge_policies({"sft": reference[1]}, reference, ROWS, LETTERS, DRAWING).num_asked


def test_a_labeller_is_not_asked_of_another_template(folders):
    base = load_model_folder(str(folders / "sft"))
    reward_model = str(folders / "reward_model")
    reward_labeller(reward_model, Assistant(*base))
    other = jinja_template("{{ messages[-1].content }}", base.tokenizer)
    with pytest.raises(UserError, match=r"labeller=.* learned our chat template"):
        reward_labeller(reward_model, Assistant(*base._replace(template=other)))
