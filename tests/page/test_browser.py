"""The page as a person uses it: a real server and a real browser."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.data.sources import RowReport, open_source
from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SECONDS = 60_000  # milliseconds that anything on the page may take, on a busy machine
STRANGE = "a <b and c> d &amp; <img src=x onerror=alert(1)>"  # the name of a model's folder
TEXTS = (
    "<b>bold</b> & <img src=http://example.com/a.png onerror=alert(1)>",
    "a <b and c> d",
    "&amp; &lt;b&gt; &#60;",
    "**bold** _it_ `code` [a](http://example.com) ![b](http://example.com/b.png)",
    "# head\n\n- one\n- two\n\n```\ncode\n```\n| a | b |",
    "<script>document.title = 1</script></div></textarea>",
    "  two  spaces,\ta tab\nand a line  ",
    "$x$ \\(y\\) http://example.com :smile: <a href='javascript:alert(1)'>x</a>",
    "\u202eright to left\u202c שלום 😀 \u0000 \u2028 \x1b[31m",
)
# The page, whose answers stand still after as many pieces as a file says, for as long as it does.
SERVER = """
import runpy, sys, time
from math import inf
from pathlib import Path
from src.page.answers import Answers

file, pieces = Path(sys.argv.pop(1)), Answers._pieces

def most():
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return inf

def held(answers, replies):
    for number, event in enumerate(pieces(answers, replies), start=1):
        yield event
        while number >= most():
            time.sleep(0.01)

Answers._pieces = held
runpy.run_module("src.web", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def most(tmp_path_factory) -> Path:
    """The file that says after how many pieces answers stand still."""
    return tmp_path_factory.mktemp("held") / "most"


@pytest.fixture
def lets_say(most) -> Iterator[Callable[[int | None], None]]:
    """Have answers stand still after so many pieces; None: go on to their end."""

    def let(number: int | None) -> None:
        if number is None:
            most.unlink(missing_ok=True)
        else:
            most.with_suffix(".new").write_text(str(number))
            most.with_suffix(".new").replace(most)

    yield let
    let(None)


@pytest.fixture(scope="module")
def address(tokenizer, tmp_path_factory, most) -> Iterator[str]:
    """Where a page of two models listens."""
    folders = []
    for seed, name in enumerate(("first", STRANGE)):
        folder = tmp_path_factory.mktemp("run") / name / "model"
        shape = {"n_positions": 1024 >> seed, "n_layer": 16, "n_embd": 64}
        config = tiny_config(vocab_size=tokenizer.vocab_size, **shape)
        save_model_folder(folder, random_model(config, seed), tokenizer, greedy(32))
        (folder.parent / "run.json").write_text(
            json.dumps({"settings": {"sample_prompts": ["Who are you?", "<b>2 + 2</b>?"]}})
        )
        folders.append(folder)
    command = [sys.executable, "-c", SERVER, str(most), "port=0", "generation.max_new_tokens=32"]
    own = [f"model_path={folders[0]}", f"compare_with={folders[1]}"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # several would wait for each other
    server = subprocess.Popen(
        [*command, *own], cwd=ROOT, env=one_thread, stdout=subprocess.PIPE, text=True
    )
    try:
        yield re.search(r"answers at (http://127.0.0.1:\d+)", server.stdout.readline())[1]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def page(browser, address) -> Iterator:
    """A page with one model; nothing but its server is asked, and no script fails."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    asked, failures = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("dialog", lambda dialog: failures.append(dialog.message) or dialog.dismiss())
    page.goto(address)
    choose_second(page, "")
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert failures == []


def choose_second(page, label: str) -> None:
    select = page.get_by_label("second model")
    select.select_option(label=label) if label else select.select_option("")


def answers(page) -> list[str]:
    return page.locator(".answer .text").all_text_contents()


def questions(page) -> list[str]:
    return page.locator(".asked .text").all_text_contents()


def ask(page, question: str) -> None:
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")


def wait(page) -> None:
    """Wait for the end of an answer, or of the attempt; then the cursor is in the box."""
    page.locator("#send").wait_for()
    assert page.evaluate("document.activeElement.id") == "question"


def status(page) -> str:
    return page.locator(".answer .under span").last.inner_text()


def setting(page, name: str, value: str) -> None:
    if page.locator("#settings").is_hidden():
        page.get_by_role("button", name="Settings").click()
    page.locator(f"#setting-{name}").fill(value)


def grows_beyond(page, num_characters: int) -> None:
    """Wait until the answer under way has so many."""
    while len(answers(page)[-1]) <= num_characters:
        assert page.locator("#stop").is_visible()


def says(page, *texts: str) -> None:
    """Let the model say ``texts``, in as many pieces."""
    pieces = [{"answer": 0, "piece": text, "status": "", "end": False} for text in texts]
    end = {"answer": 0, "piece": "", "status": "done", "end": True}
    body = "".join(json.dumps(event) + "\n" for event in [*pieces, end])
    page.route("**/answers", lambda route: route.fulfill(status=200, body=body))


def begins_to_say(page) -> None:
    """Let the next answer come by ``goes_on`` alone, as slowly as a test wants it."""
    page.unroute("**/answers")
    page.evaluate(
        """() => {
          const ask = window.fetch;
          window.fetch = (address, ...rest) => {
            if (address !== "answers") return ask(address, ...rest);
            const body = new ReadableStream({ start: (end) => { window.answering = end; } });
            return Promise.resolve(new Response(body));
          };
        }"""
    )


def goes_on(page, text: str, end: bool = False) -> None:
    """Let the model say ``text`` and no more until this is called again, but for its end."""
    event = {"answer": 0, "piece": text, "status": "done" if end else "", "end": end}
    page.wait_for_function("window.answering")  # it has been asked
    page.evaluate(
        """([line, end]) => {
          window.answering.enqueue(new TextEncoder().encode(line));
          if (end) window.answering.close();
        }""",
        [json.dumps(event) + "\n", end],
    )


def test_a_conversation_streams_stops_and_can_be_tried_again(page, lets_say):
    page.get_by_role("button", name="Who are you?").click()  # a question to start with
    wait(page)
    assert re.fullmatch(r"32 tokens, .* tokens/s; it reached its limit", status(page))
    first = answers(page)
    page.get_by_role("button", name="Retry").click()
    wait(page)
    assert answers(page) == first  # greedy
    assert len(questions(page)) == 1

    setting(page, "max_new_tokens", "900")
    lets_say(0)
    ask(page, "hello")
    for number in (10, 20, 30):  # it grows before our eyes
        seen = len(answers(page)[-1])
        lets_say(number)
        grows_beyond(page, seen)
    page.get_by_role("button", name="Stop").click()
    wait(page)
    stopped = answers(page)
    lets_say(None)
    assert re.search(r"\d+ tokens, .*; it was stopped$", status(page))
    page.wait_for_timeout(500)
    assert answers(page) == stopped

    setting(page, "max_new_tokens", "5")
    ask(page, "and now?")
    wait(page)
    assert status(page).startswith("5 tokens")


def test_escape_stops_and_a_question_typed_meanwhile_stays(page, lets_say):
    setting(page, "max_new_tokens", "900")
    lets_say(5)
    ask(page, "hello")
    page.locator(".answer.running").wait_for()
    page.keyboard.type("the next")
    page.keyboard.press("Enter")  # not yet
    page.keyboard.press("Escape")
    wait(page)
    assert "it was stopped" in status(page)
    assert page.locator("#question").input_value() == "the next"
    assert questions(page) == ["hello"]


def test_a_question_of_several_lines(page):
    says(page, "yes")
    page.locator("#question").focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    wait(page)
    assert questions(page) == ["one\ntwo"]


@pytest.mark.parametrize(
    ("question", "settings", "message"),
    [
        ("x" * 15_000, {}, "leaves no room for an answer: the model reads at most 1024"),
        ("x" * 25_000, {}, "the message has 25,000 characters, and 20,000 are the most"),
        ("   ", {}, "the question is empty"),
        ("hi", {"top_p": "5"}, "top_p=5.0: must be in (0, 1], or null"),
        ("hi", {"max_new_tokens": "-3"}, "max_new_tokens=-3: must be at least 1"),
        ("hi", {"max_new_tokens": "1.5"}, "max_new_tokens=1.5: must be a whole number"),
        ("hi", {"seed": "<b>one"}, "seed=<b>one: must be a whole number, or empty"),
        ("hi", {"system": "x" * 21_000}, "the system text has 21,000 characters"),
    ],
    ids=["tokens", "characters", "empty", "top_p", "negative", "fraction", "seed", "system"],
)
def test_a_mistake_leaves_the_conversation_and_the_box_alive(page, question, settings, message):
    ask(page, "hello")
    wait(page)
    before = answers(page)
    for name, value in settings.items():
        setting(page, name, value)
    ask(page, question)
    page.get_by_role("alert").get_by_text(message).wait_for()
    wait(page)
    assert answers(page) == before
    assert page.locator("#question").input_value() == question  # to be mended
    if settings:
        page.get_by_role("button", name="Defaults").click()
    ask(page, "again")
    wait(page)
    assert questions(page) == ["hello", "again"]
    assert page.locator("#notice").inner_text() == ""


def test_a_number_that_is_none_is_said(page):
    setting(page, "temperature", "1")
    page.locator("#setting-temperature").press("e")
    ask(page, "hi")
    page.get_by_role("alert").get_by_text("temperature: must be a number").wait_for()
    setting(page, "temperature", "")  # as configured
    ask(page, "hi")
    wait(page)
    assert len(answers(page)) == 1


@pytest.mark.parametrize("cut", [False, True])
def test_a_lost_server_leaves_the_conversation_and_the_box_alive(page, cut):
    ask(page, "hello")
    wait(page)
    if cut:  # within the answer
        line = json.dumps({"answer": 0, "piece": "so", "status": "1 token", "end": False})
        page.route("**/answers", lambda route: route.fulfill(status=200, body=line + "\n"))
    else:
        page.route("**/answers", lambda route: route.abort())
    ask(page, "are you there?")
    what = "the answer was cut off" if cut else "the connection is lost"
    page.get_by_role("alert").get_by_text(what).wait_for()
    wait(page)
    assert questions(page) == ["hello", *["are you there?"] * cut]
    assert page.locator("#question").input_value() == ("" if cut else "are you there?")
    page.unroute("**/answers")
    page.locator("#question").fill("")
    ask(page, "and now?")
    wait(page)
    assert questions(page)[-1] == "and now?"


def test_everything_is_text_as_it_was_written(page, address):
    for text in TEXTS:
        page.unroute("**/answers")
        says(page, text[:3], text[3:])
        ask(page, text)
        wait(page)
    setting(page, "system", TEXTS[0])
    for _ in range(2):  # before a reload, and after it
        # A text box makes one line feed of each kind of line break.
        assert questions(page) == list(TEXTS)
        assert answers(page) == list(TEXTS)
        assert page.locator("main img, main b, main a, main script, main ul").count() == 0
        assert page.locator("#setting-system").input_value() == TEXTS[0]
        page.reload()
        page.locator(".turn").first.wait_for()


def test_what_is_copied_is_plain_text(page):
    says(page, TEXTS[0])
    ask(page, TEXTS[4])
    wait(page)
    page.evaluate(  # "Copied" stands there until the test has seen it
        """() => {
          const later = window.setTimeout;
          const keep = (what) => { window.copiedIsOver = what; };
          window.setTimeout = (what, ms) => (ms === 1500 ? keep(what) : later(what, ms));
        }"""
    )
    for what, text in (("answer", TEXTS[0]), ("question", TEXTS[4])):
        page.get_by_role("button", name=f"Copy this {what}").click()
        page.get_by_text("Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == text
        page.evaluate("copiedIsOver()")
        page.get_by_text("Copied").wait_for(state="detached")


def test_the_title_and_the_models_have_short_names_that_are_text(page):
    assert page.title() == "first"
    options = page.get_by_label("model", exact=True).locator("option").all_text_contents()
    assert options[:2] == ["first", STRANGE]
    page.get_by_label("model", exact=True).select_option(label=STRANGE)
    assert page.title() == STRANGE
    assert page.get_by_role("heading").inner_text() == STRANGE


def test_an_empty_seed_is_another_each_time_and_a_seed_the_same(page):
    setting(page, "temperature", "1")
    setting(page, "max_new_tokens", "8")
    assert page.locator("#setting-seed").input_value() == ""
    ask(page, "hello")
    wait(page)

    def again() -> str:
        page.get_by_role("button", name="Retry").click()
        wait(page)
        return answers(page)[0]

    assert len({again() for _ in range(3)}) > 1
    setting(page, "seed", "7")
    assert len({again() for _ in range(3)}) == 1


def test_closed_settings_take_no_tab_stop_and_every_control_has_a_name(page):
    ask(page, "hello")
    wait(page)
    stops = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        stops.add(page.evaluate("document.activeElement.closest('aside') ? 'settings' : 'page'"))
    assert stops == {"page"}
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Edit").click()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "slider", "spinbutton"}
    controls = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert len(controls) > 20
    nameless = [node for node in controls if not node["name"]["value"].strip()]
    assert nameless == []
    page.locator("#setting-seed").focus()
    page.keyboard.press("Escape")
    assert page.locator("#settings").is_hidden()
    assert page.evaluate("document.activeElement.id") == "toggle"


def test_system_text_and_stop_strings_reach_the_model(page):
    setting(page, "system", "Be kind.")
    setting(page, "stop", "a\\nb\n\\\\n\n###")
    with page.expect_request("**/answers") as request:
        ask(page, "hello")
    wait(page)
    body = request.value.post_data_json
    assert (body["system"], body["stop"]) == ("Be kind.", ["a\nb", "\\n", "###"])


def test_a_question_can_be_edited(page):
    for question in ("one", "two", "three"):
        ask(page, question)
        wait(page)
    before = answers(page)
    page.get_by_role("button", name="Edit").nth(1).click()
    page.keyboard.press("Escape")
    assert (questions(page), answers(page)) == (["one", "two", "three"], before)

    page.get_by_role("button", name="Edit").nth(1).click()
    editor = page.locator(".edited textarea")
    editor.fill("x" * 15_000)  # a mistake: nothing is lost
    page.get_by_role("button", name="Ask again").click()
    page.get_by_role("alert").get_by_text("leaves no room").wait_for()
    assert answers(page) == before
    assert len(editor.input_value()) == 15_000
    editor.fill("deux")
    editor.press("Enter")
    wait(page)
    assert questions(page) == ["one", "deux"]
    assert answers(page)[0] == before[0]


def test_the_conversation_survives_a_reload_and_is_a_row_to_train_on(page, data_config, tmp_path):
    page.get_by_role("button", name="Download").click()
    page.get_by_role("alert").get_by_text("nothing has been answered yet").wait_for()
    setting(page, "system", "Be kind.")
    turns = []
    for question, text in zip(("one", *TEXTS[:2]), ("1", *TEXTS[3:5]), strict=True):
        page.unroute("**/answers")
        says(page, text)
        ask(page, question)
        wait(page)
        turns.append((question, text))
    page.unroute("**/answers")
    says(page, "")  # no answer: not a turn to train on
    ask(page, "silence")
    wait(page)
    page.locator("#question").fill("half a quest")
    page.reload()
    page.locator(".turn").first.wait_for()
    assert questions(page) == [*(question for question, _ in turns), "silence"]
    assert page.locator("#question").input_value() == "half a quest"
    assert page.locator("#setting-system").input_value() == "Be kind."

    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "conversation.jsonl"
    path = tmp_path / "conversation.jsonl"
    download.value.save_as(path)
    source = open_source(data_config(source="file", path=str(path)))
    ((_, conversation),) = source.conversations(RowReport())
    assert conversation.system == "Be kind."
    assert [(turn[0], turn[1]) for turn in conversation.turns] == turns


def test_a_new_conversation_can_be_taken_back(page):
    says(page, "yes")
    ask(page, "one")
    wait(page)
    page.get_by_role("button", name="New chat").click()
    assert questions(page) == []
    page.get_by_role("button", name="Bring the old one back").click()
    assert questions(page) == ["one"]


def test_a_reload_in_the_middle_of_an_answer_keeps_what_came(page, lets_say):
    setting(page, "max_new_tokens", "900")
    lets_say(20)
    ask(page, "hello")
    grows_beyond(page, 5)
    page.reload()
    page.locator(".turn").wait_for()
    assert "the page was left" in status(page)
    assert len(answers(page)[0]) > 5
    lets_say(None)
    setting(page, "max_new_tokens", "3")
    ask(page, "go on")  # the server has stopped the answer that nobody reads
    wait(page)
    assert status(page).startswith("3 tokens")


def test_two_models_answer_side_by_side_and_each_reads_its_own_answers(page):
    choose_second(page, STRANGE)
    ask(page, "hello")
    wait(page)
    left, right = answers(page)
    assert left != right
    assert page.locator(".answer .name").all_text_contents() == ["first", STRANGE]
    boxes = [answer.bounding_box() for answer in page.locator(".answer").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    with page.expect_request("**/answers") as request:
        ask(page, "and you?")
    wait(page)
    sent = [wanted["messages"][1]["content"] for wanted in request.value.post_data_json["answers"]]
    assert sent == [left, right]

    ask(page, "x" * 600)  # the second reads 512 tokens
    wait(page)
    assert len(answers(page)) == 6
    assert "the model reads at most 512" in status(page)
    assert answers(page)[4]


def test_a_person_who_reads_further_up_is_left_there(page):
    says(page, *["a long line\n"] * 200)
    ask(page, "tell me much")
    wait(page)
    bottom = "Math.round(log.scrollTop + log.clientHeight) >= log.scrollHeight - 1"
    assert page.evaluate(bottom)
    begins_to_say(page)
    ask(page, "more")
    goes_on(page, "a long line\n" * 20)
    grows_beyond(page, 100)
    assert page.evaluate(bottom)
    page.evaluate("log.scrollTop = 50")
    goes_on(page, "a long line\n" * 40)
    grows_beyond(page, 500)
    assert page.evaluate("log.scrollTop") == 50
    goes_on(page, "the end", end=True)
    wait(page)
    assert answers(page)[-1].endswith("the end")
    assert page.evaluate("log.scrollTop") == 50


CONTRAST = """
() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return parts(colour)[3] === 0 ? paper(element.parentElement) : colour;
  };
  const ratio = (element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(paper(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const shown = [...document.querySelectorAll(".text, span, p, label, button, select, textarea")];
  return Math.min(...shown.filter((e) => e.checkVisibility()).map(ratio));
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("second", ["", STRANGE], ids=["one", "two"])
def test_on_a_phone_and_in_the_dark_it_can_be_read(page, scheme, second):
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme=scheme)
    choose_second(page, second)
    ask(page, "a_very_long_word" * 20)
    wait(page)
    ask(page, "x" * 15_000)
    page.get_by_role("alert").get_by_text("leaves no room").first.wait_for()
    wide = "Math.max(document.documentElement.scrollWidth, log.scrollWidth, innerWidth)"
    assert page.evaluate(wide) == 390
    texts = [text.bounding_box() for text in page.locator(".text").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in texts)
    assert page.evaluate(CONTRAST) >= 4.5
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate(wide) == 390
    assert page.evaluate("settings.scrollWidth <= settings.clientWidth")
    assert page.evaluate(CONTRAST) >= 4.5
