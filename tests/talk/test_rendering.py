"""A template of a stranger takes neither time nor memory, and honest ones take milliseconds."""

import os
from timeit import repeat

import psutil
import pytest

from src.errors import UserError
from src.talk.rendering import Renderer

VALUES = {"messages": [{"role": "user", "content": "Hello there"}], "add_generation_prompt": True}
DOUBLED = (
    "{{% set ns = namespace(x={0}) %}}{{% for i in range(60) %}}{{% set ns.x = {1} %}}"
    "{{% endfor %}}{{{{ ns.x | length }}}}"
)
MEMORY = {
    "repeated text": "{{ 'a' * 10**10 }}",
    "repeated list": "{% set n = 10**10 %}{{ [1] * n }}",
    "width": "{{ '%10000000000d' % 1 }}",
    "width of a format": "{{ '{:10000000000}'.format(1) }}",
    "filter": "{{ 'a' | center(10**10) }}",
    "bytes": "{{ (1).to_bytes(10**10) }}",
    "doubled text": DOUBLED.format("'a'", "ns.x ~ ns.x"),
    "doubled list": DOUBLED.format("[1]", "ns.x + ns.x"),
    "filled": "{{ [1] | batch(10**10, 'x') | list }}",
    "indent": "{{ {'a': 1} | tojson(indent=10**10) }}",
}
TIME = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "squares": DOUBLED.format("3", "ns.x * ns.x"),
    "long": "{{ 1 }}" * 140_000,
}
REFUSED = {
    "range": ("{% for i in range(10**12) %}{% endfor %}", "Range too big"),
    "recursion": ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion"),
    "nesting": ("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}", "recursion"),
    "output": ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than"),
    "insides": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "file": ("{% include '/etc/passwd' %}", "no loader"),
}


def refusal(source: str) -> str:
    with pytest.raises(UserError, match="the model's chat template is broken") as error:
        Renderer(source).render(VALUES)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", MEMORY)
def test_a_template_that_fills_the_memory_is_refused(name):
    assert "it needs more than 256 MiB" in refusal(MEMORY[name])


@pytest.mark.parametrize("name", TIME)
def test_a_template_without_an_end_is_ended(name, monkeypatch):
    monkeypatch.setattr("src.talk.rendering.SECONDS", 0.5)
    assert "it runs for more than 0.5 seconds" in refusal(TIME[name])


def test_a_template_has_less_time_to_compute_than_to_wait_for_a_processor(monkeypatch):
    monkeypatch.setattr("src.talk.rendering.CPU_SECONDS", 1)
    assert "it computes for more than 1 seconds" in refusal(TIME["loops"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_may_not_do_is_said(name):
    source, reason = REFUSED[name]
    assert reason in refusal(source)


def test_its_process_can_open_no_file_and_start_nothing():
    """What a hole in Jinja's sandbox would find."""
    renderer = Renderer("{{ messages[0].content }}")
    limits = psutil.Process(renderer._process.pid)
    assert limits.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    assert limits.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert limits.rlimit(psutil.RLIMIT_NPROC) == (0, 0)


def test_an_honest_template_goes_on_after_another_conversation_broke_it(monkeypatch):
    source = "{% if messages[0].content == 'x' %}{{ 'a' * 10**10 }}{% endif %}fine"
    renderer = Renderer(source)
    for _ in range(2):
        assert renderer.render(VALUES) == "fine"
        with pytest.raises(UserError, match="needs more than"):
            renderer.render({"messages": [{"content": "x"}]})
    os.kill(renderer._process.pid, 9)
    with pytest.raises(UserError, match="it ends"):
        renderer.render(VALUES)
    assert renderer.render(VALUES) == "fine"


def test_the_process_ends_with_its_renderer():
    renderer = Renderer("x")
    pid = renderer._process.pid
    assert psutil.pid_exists(pid)
    del renderer
    assert not psutil.pid_exists(pid)


def test_an_answer_takes_a_millisecond():
    renderer = Renderer("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}")
    renderer.render(VALUES)
    seconds = repeat(lambda: renderer.render(VALUES), number=20, repeat=10)
    assert min(seconds) < 0.4  # 0.008 measured


@pytest.mark.parametrize(
    "source",
    [
        "{{ '<b>a</b>' | striptags | wordwrap(2) | urlize }}",
        "{{ messages | tojson | pprint }}{{ lipsum(1) | truncate(3) | xmlattr is defined }}",
        "{{ strftime_now('%A %B') }}{{ 'a b' | urlencode }}{{ 1e6 | filesizeformat }}",
        "{{ [3, 1] | sort | random }}{{ 'x' | e }}{{ {'a': 1} | dictsort }}{{ 'é' | indent }}",
    ],
)
def test_what_jinja_imports_late_is_there(source):
    source = source.replace(" | xmlattr is defined", "")
    assert Renderer(source).render(VALUES)
