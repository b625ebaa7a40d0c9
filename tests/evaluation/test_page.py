"""The page: one file, all text escaped, readable without a network, at any width."""

import json
import re

import numpy as np
import pytest

from src.evaluation.report import page, write_report

STRANGE = "<script>document.title = 'no'</script><b>bold</b> & \u2028 </script> 'x' \"y\""


def results(num_rows: int = 3, models=("runs/first/model", STRANGE)) -> dict:
    figure = {"value": 1.5, "low": 1.4, "high": 1.6}
    share = {"value": 0.5, "low": None, "high": None}
    return {
        "command": f"python -m src.evaluate model_path='{STRANGE}'",
        "created": "2026-01-01T00:00:00+00:00",
        "commit": "abc123-dirty",
        "versions": {"python": "3.11"},
        "machine": {"device": "cpu"},
        "settings": {},
        "data": {
            "rows": "test",
            "source": STRANGE,
            "num_rows": num_rows,
            "num_scored": num_rows,
            "num_asked": num_rows,
        },
        "models": {
            name: {"loss": figure, "exact_match": share, "exact_match/turn_1": share}
            for name in models
        },
        "about": {name: {"folder": name, "url": None, "seed": 1, "cut_at": 64} for name in models},
        "differences": {
            "loss": {
                models[-1]: {**figure, "best": models[0], "certain": True, "num_rows": num_rows}
            }
        },
        "seeds": [
            {
                "models": list(models),
                "figures": {"loss": {**figure, "standard_deviation": 0.1, "num_seeds": 2}},
            }
        ],
        "conclusions": [STRANGE],
        "rows": [
            {
                "row": number + 1,
                "messages": [{"role": "user", "content": f"question {number} {STRANGE}"}],
                "reference": "one two three",
                "labels": ["turn_1"],
                "models": {
                    models[0]: {"reply": "one two three", "stop_reason": "end", "loss": 1.0},
                    models[1]: {"reply": f"one 2 {STRANGE}", "stop_reason": "length"},
                },
            }
            for number in range(num_rows)
        ],
    }


def test_all_text_is_escaped_and_nothing_comes_from_elsewhere():
    html = page(results())
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert "<b>bold" not in html
    assert not re.search(r"(src|href)\s*=", html.replace("&lt;", ""))
    assert "abc123-dirty" in html
    data = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(data)["rows"][0]["messages"][0]["content"].endswith(STRANGE)


def test_both_files_are_written(tmp_path):
    write_report(tmp_path, results())
    assert json.loads((tmp_path / "results.json").read_text()) == results()
    assert (tmp_path / "report.html").read_text() == page(results())


def test_a_page_has_so_many_rows_at_most(monkeypatch):
    monkeypatch.setattr("src.evaluation.report.MOST_ROWS", 5)
    html = page(results(num_rows=9))
    assert "5 of 9 rows are on this page" in html
    assert len(re.findall(r"question \d", html)) == 5


def test_a_figure_that_is_no_number_is_a_dash():
    changed = results()
    changed["models"]["runs/first/model"]["loss"] = dict.fromkeys(("value", "low", "high"))
    assert "<b>-</b>" in page(changed)
    assert "nan" not in page(changed).lower().replace("noscript", "")


def test_one_model_is_the_best_of_none():
    changed = results()
    assert "certainly worse" in page(changed)
    changed["models"] = dict(list(changed["models"].items())[:1])
    assert "certainly worse" not in page(changed)


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser, tmp_path, width, scheme):
    write_report(tmp_path, results(num_rows=120))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    shown = context.new_page()
    shown.set_default_timeout(60_000)  # milliseconds, on a busy machine
    errors: list[str] = []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.goto((tmp_path / "report.html").as_uri())
    assert shown.title() == "Evaluation of 2 models"
    assert shown.locator("article").count() == 50
    shown.locator("#more").click()
    assert shown.locator("article").count() == 100
    shown.locator("#filter").fill("117 QUESTION")
    assert shown.locator("#count").inner_text() == "1 row"
    assert shown.locator("article").count() == 1
    shown.locator("#filter").fill("")
    shown.locator("#kind").select_option("unended")
    assert shown.locator("#count").inner_text() == "120 rows"
    marks = shown.locator("article").first.locator("mark").all_inner_texts()
    assert marks[0] == "2"
    assert "three" not in marks
    wide = shown.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    colours = shown.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body)"
        ".backgroundColor].map((c) => c.match(/\\d+/g).slice(0, 3).map(Number))"
    )
    text, ground = (np.mean(colour) for colour in colours)
    assert (text > 200 > 60 > ground) if scheme == "dark" else (ground > 200 > 60 > text)
    assert errors == []


def against_results() -> dict:
    """Results of a policy against the model that it was."""
    found = results(num_rows=2)
    reference, policy = found["models"]
    gold = {"value": 1.5, "low": 1.4, "high": 1.6}
    found["against"] = {
        "reference": reference,
        "judge": STRANGE,
        "reward_model": STRANGE,
        "num_asked": 2,
        "num_judged": 2,
        "num_left_out": 0,
        "best_of": {"1": {"gold": gold}, "2": {"gold": gold, "kl": dict.fromkeys(gold, 0.19)}},
    }
    for row in found["rows"]:
        row["models"][reference] |= {"sampled": "one", "gold": 1.0}
        row["models"][policy] |= {"sampled": STRANGE, "gold": 2.0, "kl": 3.25, "gold_greedy": 1.0}
    return found


def test_what_a_policy_was_held_against_is_shown_and_escaped():
    text = page(against_results(), {"frontier.png": b"\x89PNG"})
    assert "<b>bold</b>" not in text
    assert "<h2>Against first</h2>" in text
    assert 'src="data:image/png;base64,iVBORw==' in text
    line = re.search(r"<tr><th>2</th>(.*?)</tr>", text, re.DOTALL).group(1)
    cells = re.findall(r"<b>(.*?)</b>", line)
    assert cells == ["1.500", "-", "-", "-", "-", "0.19"]
    assert "0.19 to 0.19" not in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_replies_at_random_stand_behind_the_likeliest_in_a_browser(browser, tmp_path, width):
    from matplotlib.figure import Figure

    Figure(figsize=(7, 5), dpi=120).savefig(tmp_path / "empty.png")
    write_report(
        tmp_path, against_results(), {"frontier.png": (tmp_path / "empty.png").read_bytes()}
    )
    shown = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.goto((tmp_path / "report.html").as_uri())
    titles = shown.locator("article").first.locator(".who").all_inner_texts()
    assert titles[:2] + titles[3:4] == ["reference", "first", "first, drawn"]
    assert titles[4] == f"{titles[2]}, drawn"
    notes = shown.locator("article").first.locator(".figures").all_inner_texts()
    assert notes[-1] == "gold 2.000 · KL 3.250"
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("document.querySelector('img').naturalWidth") == 840
    assert errors == []
