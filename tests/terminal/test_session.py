import json
import os

import pytest

from src.data.conversation import Conversation
from src.data.sources import RowReport, open_source
from src.errors import UserError
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.terminal.session import Session
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def session(tokenizer) -> Session:
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=256))
    return Session(Assistant(model, tokenizer), greedy(12, temperature=1.0, seed=5), system=None)


def hear(session: Session, question: str) -> str:
    reply = session.ask(question)
    text = reply.read_all()
    session.keep(reply)
    return text


def said(session: Session) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in session.messages]


def test_what_was_said_before_is_read_before_the_next_question(session):
    first = hear(session, "Hello there")
    reply = session.ask("who are you?")
    template = session.assistant.template
    asked = [
        Message("user", "Hello there"),
        Message("assistant", first),
        Message("user", "who are you?"),
    ]
    assert reply.num_prompt_tokens == len(template(asked))


def test_a_retry_asks_again_with_the_next_seed_in_place_of_the_answer(session):
    hear(session, "Hello")
    first = hear(session, "who are you?")
    texts = [first]
    for _ in range(2):
        reply = session.retry()
        texts.append(reply.read_all())
        session.keep(reply)
    assert len(set(texts)) == 3
    assert said(session)[2:] == [("user", "who are you?"), ("assistant", texts[-1])]

    asked = [*session.messages[:2], Message("user", "who are you?")]
    seventh = greedy(12, temperature=1.0, seed=7)
    assert session.assistant.reply(asked, seventh).read_all() == texts[-1]


def test_an_answer_that_never_came_leaves_no_trace_and_can_be_asked_again(session):
    before = hear(session, "Hello") and said(session)
    reply = session.ask("who are you?")
    reply.close()
    session.keep(reply)
    assert said(session) == before
    again = session.retry()
    again.read_all()
    session.keep(again)
    assert said(session) == [*before, ("user", "who are you?"), ("assistant", again.text)]
    stopped = session.retry()
    stopped.close()
    session.keep(stopped)
    assert said(session)[-1] == ("assistant", again.text)


def test_what_came_of_a_stopped_answer_is_kept(session):
    reply = session.ask("Hello")
    piece = next(iter(reply))
    reply.close()
    session.keep(reply)
    assert said(session) == [("user", "Hello"), ("assistant", piece)]


def test_clear_forgets_all_but_the_system_text(session):
    session = Session(session.assistant, session.generation, system="Be kind.")
    hear(session, "Hello")
    session.clear()
    assert said(session) == [("system", "Be kind.")]
    with pytest.raises(UserError, match="nothing has been asked yet"):
        session.retry()


def test_a_refused_question_changes_nothing(session):
    hear(session, "Hello")
    before = said(session)
    with pytest.raises(UserError, match="leaves no room"):
        session.ask("long " * 500)
    assert said(session) == before
    assert session.question == "Hello"


def test_a_saved_conversation_is_a_row_that_training_reads(session, tmp_path, data_config):
    session = Session(session.assistant, session.generation, system="Be kind — always.")
    session.messages += [
        Message("user", 'What "is"\n2024?'),
        Message("assistant", "A year\u2028é 🙂"),
        Message("user", "And 2025?"),
        Message("assistant", "Another."),
    ]
    path = tmp_path / "talk.jsonl"
    assert session.save(str(path)) == 2
    source = open_source(data_config(source="file", path=str(path)))
    [(split, conversation)] = source.conversations(RowReport())
    assert split == "train"
    assert conversation == Conversation(
        (('What "is"\n2024?', "A year\u2028é 🙂"), ("And 2025?", "Another.")), "Be kind — always."
    )
    assert os.listdir(tmp_path) == ["talk.jsonl"]


def test_nothing_is_overwritten_or_half_written(session, tmp_path, monkeypatch):
    hear(session, "Hello")
    path = tmp_path / "talk.jsonl"
    path.write_text("precious")
    with pytest.raises(UserError, match=r"talk\.jsonl: there is such a file"):
        session.save(str(path))
    assert path.read_text() == "precious"

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"other\.jsonl: cannot write it: No space left"):
        session.save(str(tmp_path / "other.jsonl"))
    assert os.listdir(tmp_path) == ["talk.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("talk.json", "give it a name that ends in .jsonl"),
        (".jsonl", "give it a name that ends in .jsonl"),
        ("nowhere/talk.jsonl", "cannot write it: No such file or directory"),
        ("~nobody-of-this-name/talk.jsonl", "cannot write it"),
        ("nul\0.jsonl", "cannot write it"),
    ],
)
def test_a_name_that_cannot_be_used_is_one_line(name, message, session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hear(session, "Hello")
    with pytest.raises(UserError, match=message) as error:
        session.save(name)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_there_must_be_something_to_save(session, tmp_path):
    with pytest.raises(UserError, match="nothing has been answered yet"):
        session.save(str(tmp_path / "talk.jsonl"))
    assert os.listdir(tmp_path) == []


def test_a_row_is_one_line_of_json(session, tmp_path):
    hear(session, "Hello\nthere")
    session.save(str(tmp_path / "talk.jsonl"))
    [line] = (tmp_path / "talk.jsonl").read_text().split("\n")[:-1]
    assert json.loads(line)["messages"][0] == {"role": "user", "content": "Hello\nthere"}
