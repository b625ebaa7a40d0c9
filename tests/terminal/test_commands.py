import pytest

from src.errors import UserError
from src.talk.assistant import Assistant, Reply
from src.terminal.commands import COMMANDS, Leave, change_settings, respond
from src.terminal.session import Session
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config


@pytest.fixture
def session(tokenizer) -> Session:
    model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_positions=128))
    return Session(Assistant(model, tokenizer), greedy(4), system=None)


def hear(session: Session, line: str) -> str:
    reply = respond(session, line)
    assert isinstance(reply, Reply)
    reply.read_all()
    session.keep(reply)
    return reply.text


def test_a_line_is_a_question_unless_it_begins_with_a_slash(session):
    hear(session, "Hello")
    hear(session, " /etc: what is it?")
    assert [m.content for m in session.messages if m.role == "user"] == [
        "Hello",
        "/etc: what is it?",
    ]


def test_help_names_every_command(session):
    text = respond(session, "/help")
    assert all(f"{name} " in text for name in COMMANDS)


def test_the_commands_do_what_they_say(session, tmp_path):
    path = tmp_path / "my talk.jsonl"
    hear(session, "Hello")
    hear(session, "/retry")
    assert "saved 1 turn " in respond(session, f"/save   {path} ")
    assert path.exists()
    respond(session, "/clear")
    assert session.messages == []
    with pytest.raises(Leave):
        respond(session, "/quit\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/setings", "there is no command /setings; did you mean /settings?"),
        ("/xyz", "there is no command /xyz; there are /help, /clear"),
        ("/", "there is no command /;"),
        ("/clear all", "/clear takes nothing after it"),
        ("/retry", "nothing has been asked yet"),
        ("/save", "name the file: /save talk.jsonl"),
    ],
)
def test_a_mistake_is_one_line(line, message, session):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        respond(session, line)
    assert "\n" not in str(error.value)


def test_settings_are_shown_as_they_are_written(session):
    session.generation = greedy(4, top_p=0.5, stop=["a", '"\n'], seed=3)
    shown = respond(session, "/settings")
    assert "top_k=null" in shown.splitlines()
    assert change_settings(greedy(9), " ".join(shown.splitlines())) == session.generation


def test_settings_change_what_is_named_and_nothing_else(session):
    hear(session, "Hello")
    respond(session, "/settings temperature=0.7 seed=3 top_k=5 top_p=null stop=one two")
    assert session.generation == greedy(4, temperature=0.7, seed=3, top_k=5, stop=["one two"])
    assert len(session.messages) == 2
    respond(session, "/settings top_k=none stop=[]")
    assert session.generation == greedy(4, temperature=0.7, seed=3)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ("temperatur=1", "there is no setting temperatur; did you mean temperature?"),
        ("x=1", "there is no setting x; there are max_new_tokens, temperature"),
        ("temperature", "temperature: write temperature=VALUE"),
        ("temperature=", "temperature=: must be a number"),
        ("temperature=hot", "temperature=hot: must be a number"),
        ("temperature=nan", "temperature=nan: must be 0"),
        ("temperature=-1", "temperature=-1.0: must be 0"),
        ("temperature=1e999", "temperature=inf: must be 0"),
        ("temperature=null", "temperature=null: must be a number"),
        ("top_k=1.5", "top_k=1.5: must be a whole number, or null"),
        ("top_k=0", "top_k=0: must be at least 1"),
        ("top_p=2", "top_p=2.0: must be in"),
        ("min_p=2", "min_p=2.0: must be in [0, 1], or null"),
        ("stop=[1]", "stop=[1]: must be a text, or a list"),
        ("stop=" + "[" * 100_000, "must be a text, or a list"),
        ("stop=", "a stop string is empty"),
        ("max_new_tokens=" + "9" * 5000, "must be a whole number"),
        ("weights=int4", "weights=int4: must be one of auto, fp32, fp16, bf16, int8"),
        ("seed=3 top_p=0", "top_p=0.0: must be in"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_and_changes_nothing(assignments, message, session):
    before = session.generation
    with pytest.raises(UserError) as error:
        respond(session, f"/settings {assignments}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert session.generation is before
