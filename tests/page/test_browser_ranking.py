"""The tab of rankings as a person uses it: a real server and a real browser."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.talk.model_folder import save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config
from tests.page.test_browser import CONTRAST, SECONDS, TEXTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROMPTS = [*TEXTS[:3], *(f"question {i}" for i in range(9))]


@pytest.fixture
def served(tokenizer, tmp_path) -> Iterator[tuple[str, Path]]:
    """Where a page listens that asks to rank replies to ``PROMPTS``, and its output."""
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_positions=512)
    save_model_folder(tmp_path / "run" / "model", random_model(config, 0), tokenizer, greedy(8))
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "found" / "a.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    command = [sys.executable, "-m", "src.web", "port=0", "rank.max_new_tokens=8", "device=cpu"]
    command += [f"model_path={tmp_path}/run/model", f"rank.output={output}", "data=file"]
    command += [f"data.path={prompts}", "data.validation_fraction=0", "data.test_fraction=0"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=one_thread, stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"answers at (http://127.0.0.1:\d+)", server.stdout.readline())[1], output
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def page(browser, served) -> Iterator:
    """The page on its first tab; no script fails."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("dialog", lambda dialog: failures.append(dialog.message) or dialog.dismiss())
    page.goto(served[0])
    yield page
    context.close()
    assert failures == []


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def replies(page) -> list[str]:
    return page.locator(".reply .text").all_text_contents()


def press(page, *keys: str) -> None:
    """Press keys of which the last one asks the server, and wait for what it says."""
    with page.expect_response("**/ranking"):
        for key in keys:
            page.keyboard.press(key)
    page.locator("#ranking[aria-busy=false]").wait_for()


def test_a_person_ranks_by_keys_and_by_buttons(page, served):
    output = served[1]
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator(".reply").first.wait_for()
    assert page.locator("#question").is_hidden()
    assert len(replies(page)) == 4
    assert not page.get_by_role("button", name="Save").is_enabled()

    shown = replies(page)
    page.keyboard.press("9")  # no rank of four
    press(page, "1", "2", "3", "Backspace", "2", "4", "Enter")
    (row,) = rows(output)
    ranks = dict(zip(row["replies"], row["ranks"], strict=True))
    cut = [text.removesuffix(" ... (cut off)").replace("(nothing)", "") for text in shown]
    assert [ranks[text] for text in cut] == [1, 2, 2, 4]

    press(page, "s")
    press(page, "u")
    press(page, "u")
    assert rows(output) == []
    assert replies(page) == shown
    assert not page.get_by_role("button", name="Undo").is_enabled()

    for index, rank in enumerate((4, 3, 2, 2)):
        page.get_by_role("button", name=f"reply {index + 1}: rank {rank}", exact=True).click()
    with page.expect_response("**/ranking"):
        page.get_by_role("button", name="Save").click()
    page.locator("#ranking[aria-busy=false]").wait_for()
    ranks = dict(zip(rows(output)[0]["replies"], rows(output)[0]["ranks"], strict=True))
    assert [ranks[text] for text in cut] == [4, 3, 1, 1]

    before = replies(page)
    page.reload()  # the tab and the question stay
    page.locator(".reply").first.wait_for()
    assert replies(page) == before
    page.get_by_role("button", name="Chat", exact=True).click()
    page.locator("#question").fill("s u 1 2")  # keys of the other tab
    assert page.locator("#rank").is_hidden()
    assert len(rows(output)) == 1


def test_keys_work_after_a_look_at_the_chat_and_enter_presses_what_has_the_focus(page, served):
    output = served[1]
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator(".reply").first.wait_for()
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator("#ranking:focus").wait_for()
    for key in "1234":
        page.keyboard.press(key)
    chosen = page.get_by_role("button", name="reply 4: rank 4", exact=True)
    assert chosen.get_attribute("aria-pressed") == "true"
    chosen.focus()
    page.keyboard.press("Enter")
    assert chosen.get_attribute("aria-pressed") == "false"
    assert rows(output) == []
    page.keyboard.press("Enter")
    assert chosen.get_attribute("aria-pressed") == "true"
    chosen.click()
    chosen.click()
    press(page, "Enter")  # by a pointer the focus does not stay on the button
    assert len(rows(output)) == 1


def test_all_is_ranked_and_what_is_written_is_text(page, served):
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator(".reply").first.wait_for()
    asked = []
    while page.locator(".reply").count():
        asked.append(page.locator(".said .text").last.text_content())
        press(page, *"1234"[: len(replies(page))], "Enter")
    assert len(asked) == len(PROMPTS) + 1  # one came twice
    assert set(asked) == set(PROMPTS)
    assert page.locator("main img, main b, main script").count() == 0
    page.get_by_text("All prompts are ranked.").wait_for()
    assert re.search(
        r"12 ranked; 12 in .*% of 6 pairs agree", page.locator("#rank-status").inner_text()
    )
    assert len(rows(served[1])) == 12


def test_a_mistake_is_a_line_and_the_chat_works(page, served):
    served[1].parent.mkdir()
    served[1].write_text('{"prompt": "a", "response": "b"}\n')
    page.get_by_role("button", name="Rank", exact=True).click()
    alert = page.locator("#rank-notice")
    alert.get_by_text("it holds other rows; name a new file").wait_for()
    page.get_by_role("button", name="Chat", exact=True).click()
    page.locator("#question").fill("hello")
    page.keyboard.press("Enter")
    page.locator(".answer .under").get_by_text("tokens").wait_for()
    served[1].unlink()
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator(".reply").first.wait_for()
    assert alert.inner_text() == ""

    page.route("**/ranking", lambda route: route.abort())
    page.keyboard.press("s")
    alert.get_by_text("the connection is lost").wait_for()
    page.unroute("**/ranking")
    press(page, "s")
    assert alert.inner_text() == ""


def test_on_a_phone_and_in_the_dark_it_can_be_read(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator(".reply").first.wait_for()
    page.keyboard.press("1")
    page.evaluate("ranking.querySelector('.text').textContent = 'a_very_long_word'.repeat(20)")
    wide = "Math.max(document.documentElement.scrollWidth, ranking.scrollWidth, innerWidth)"
    assert page.evaluate(wide) == 390
    page.evaluate("for (const b of document.querySelectorAll('button')) b.disabled = false")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(CONTRAST) >= 4.5
