import json

import pytest
import transformers

from src.data.template import EARLIER_JINJA, TEMPLATE_FILE, encode_prompt, save_template
from src.errors import UserError
from src.talk.chat_template import jinja_template, load_chat_template
from src.talk.messages import Message

CHATML = (
    "{% for message in messages %}"
    "{{ bos_token + message['role'] + ': ' + message['content'] | trim + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
TALK = [
    Message("system", "Be kind."),
    Message("user", "Hello there "),
    Message("assistant", "Hi"),
    Message("user", "who are you?"),
]


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    return tmp_path


def test_a_folder_without_a_template_or_with_ours_is_asked_as_we_train(folder, tokenizer):
    expected = encode_prompt(tokenizer, "who are you?", [("Hello there", "Hi")], "Be kind.")
    assert load_chat_template(folder, tokenizer)(TALK) == expected
    save_template(folder)
    assert load_chat_template(folder, tokenizer)(TALK) == expected


def test_our_template_of_earlier_versions_is_ours(folder, tokenizer):
    (folder / TEMPLATE_FILE).write_text(EARLIER_JINJA)
    opening = [Message("assistant", "Hi"), Message("user", "Hello")]  # it had no words for this
    asked = load_chat_template(folder, tokenizer)(opening)
    assert asked == encode_prompt(tokenizer, "Hello", opening="Hi")
    assert asked != jinja_template(EARLIER_JINJA, tokenizer)(opening)


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_model_with_a_template_of_its_own_is_asked_by_it(folder, tokenizer, where):
    if where.endswith(".jinja"):
        (folder / where).write_text(CHATML)
    else:
        settings = json.loads((folder / where).read_text())
        (folder / where).write_text(json.dumps(settings | {"chat_template": CHATML}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": m.role, "content": m.content} for m in TALK],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    ids = load_chat_template(folder, tokenizer)(TALK)
    assert ids == theirs["input_ids"]
    assert ids.count(tokenizer.end_id) == 4


def test_what_transformers_gives_to_templates_is_there(folder, tokenizer):
    source = (
        "{% for message in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% generation %}{% set inner = 'x' %}{{ message | tojson }}{% endgeneration %}"
        "{{ inner | default('none') }}{{ message | tojson(indent=1) }}{% endfor %}"
        "{{ strftime_now('%Y-%m-%d') }}"
    )
    (folder / "chat_template.jinja").write_text(source)
    talk = [Message("user", "<b>é & 'c'"), Message("assistant", "日"), Message("user", "no")]
    messages = [{"role": m.role, "content": m.content} for m in talk]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    before = theirs.apply_chat_template(messages, tokenize=False)
    ours = tokenizer.decode(load_chat_template(folder, tokenizer)(talk))
    after = theirs.apply_chat_template(messages, tokenize=False)
    assert ours in (before, after)  # which are of two days at midnight
    assert "<b>é & 'c'" in ours


def test_a_special_token_that_somebody_typed_is_text(folder, tokenizer):
    (folder / "chat_template.jinja").write_text(CHATML)
    typed = [Message("user", "a <|endoftext|> b")]
    ids = load_chat_template(folder, tokenizer)(typed)
    assert ids.count(tokenizer.end_id) == 1
    assert tokenizer.decode(ids) == "<|endoftext|>user: a <|endoftext|> b\nassistant:"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "broken"),
        ("{{ messages[0].content.nothing.more }}", "broken"),
        ("{{ raise_exception('no system text') }}", "refuses this conversation: no system text"),
        ("{{ ''.__class__.__mro__ }}", "broken"),  # it runs in a sandbox
        ("{{ messages + 1 }}", "broken"),
        ("", "writes nothing"),
        ("{{ 1 // 0 }}", "broken"),
        ("{{ 'abc'.index('d') }}", "broken"),
        ("{{ [].pop() }}", "broken"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "broken"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(folder, tokenizer, source, message):
    (folder / "chat_template.jinja").write_text(source)
    with pytest.raises(UserError, match=message) as error:
        load_chat_template(folder, tokenizer)(TALK)
    assert "\n" not in str(error.value)
    assert f"({folder})" in str(error.value)
