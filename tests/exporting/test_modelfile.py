import json
import re
import shutil
import subprocess

import jinja2
import pytest

from src.data.template import EARLIER_JINJA, JINJA
from src.errors import UserError
from src.exporting.modelfile import GO_TEMPLATE, modelfile

CONVERSATIONS = (
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "Hello\nthere")],
    [("system", ""), ("user", "Hello")],
    [("user", "1 + 1?"), ("assistant", "2"), ("user", "{{ .System }} and “3”?")],
    [
        ("system", "Be kind."),
        ("user", "a"),
        ("assistant", "<|endoftext|>"),
        ("user", "### Response:"),
    ],
)


def ours(conversation):
    messages = [{"role": role, "content": content} for role, content in conversation]
    return jinja2.Template(JINJA).render(messages=messages)


def from_go(template: str) -> str:
    """The few words of Go's template language that ours uses, in Jinja."""
    opened: list[str] = []

    def translate(match: re.Match[str]) -> str:
        words = match[1].split(maxsplit=1)
        if words == ["range", ".Messages"]:
            opened.append("endfor")
            return "{% for message in messages %}"
        if words == ["end"]:
            return "{% " + opened.pop() + " %}"
        if words == [".Content"]:
            return "{{ message.content }}"
        is_else = words[0] == "else"
        keyword, condition = (words[1] if is_else else match[1]).split(maxsplit=1)
        assert keyword == "if"
        condition = re.sub(r"^eq (\S+) (\S+)$", r"\1 == \2", condition)
        condition = condition.replace(".Role", "message.role").replace(
            ".Content", "message.content"
        )
        if is_else:
            return "{% elif " + condition + " %}"
        opened.append("endif")
        return "{% if " + condition + " %}"

    translated = re.sub(r"\{\{ (.*?) \}\}", translate, template)
    assert not opened
    return translated


def written(folder, template=None):
    return modelfile("model.gguf", folder, template, 256)


def parameters(text: str) -> dict[str, str]:
    return dict(re.findall(r"^PARAMETER (\S+) (.*)$", text, re.M))


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_ollama_is_given_our_prompt(conversation, tmp_path):
    (template,) = re.findall(r'^TEMPLATE """(.*?)"""$', written(tmp_path), re.M | re.S)
    messages = [{"role": role, "content": content} for role, content in conversation]
    rendered = jinja2.Template(from_go(template)).render(messages=messages)
    assert rendered == ours(conversation)


GO = """package main
import ("encoding/json"; "os"; "text/template")
type Message struct { Role, Content string }
func main() {
	text, _ := os.ReadFile(os.Args[1])
	conversations := [][]Message{}
	if err := json.NewDecoder(os.Stdin).Decode(&conversations); err != nil { panic(err) }
	parsed := template.Must(template.New("").Parse(string(text)))
	for _, messages := range conversations {
		err := parsed.Execute(os.Stdout, map[string]any{"Messages": messages})
		if err != nil { panic(err) }
		os.Stdout.WriteString("\\x00")
	}
}
"""


@pytest.mark.engines
def test_go_itself_renders_our_prompt(tmp_path):
    if shutil.which("go") is None:
        pytest.skip("go is not installed: nothing here runs Go templates")
    (tmp_path / "main.go").write_text(GO)
    (tmp_path / "template").write_text(GO_TEMPLATE)
    said = [[{"Role": r, "Content": c} for r, c in turns] for turns in CONVERSATIONS]
    done = subprocess.run(
        ["go", "run", "main.go", "template"],
        input=json.dumps(said),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\0")[:-1] == [ours(turns) for turns in CONVERSATIONS]


def test_it_names_the_weights_beside_it_and_where_to_stop(tmp_path):
    text = written(tmp_path)
    assert text.startswith("FROM ./model.gguf\n")
    assert parameters(text) == {
        "stop": '"<|endoftext|>"',
        "num_ctx": "256",
        "repeat_penalty": "1.0",  # Ollama's own is 1.1
        "temperature": "0",
    }


def test_it_answers_as_the_folder_says(tmp_path):
    settings = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 0.95,
        "repetition_penalty": 1.2,
        "max_new_tokens": 30,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    found = parameters(written(tmp_path))
    assert (
        found.items()
        >= {
            "temperature": "0.7",
            "top_k": "0",
            "top_p": "0.95",
            "min_p": "0.0",
            "repeat_penalty": "1.2",
            "num_predict": "30",
        }.items()
    )


def test_another_template_is_left_to_the_gguf(tmp_path):
    assert 'TEMPLATE """' not in written(tmp_path, "{% for m in messages %}{% endfor %}")
    assert written(tmp_path, JINJA) == written(tmp_path)


def test_our_template_of_earlier_versions_is_ours(tmp_path):
    assert written(tmp_path, EARLIER_JINJA) == written(tmp_path)


@pytest.mark.parametrize("content", ["{broken", "[1]", '"text"'])
def test_broken_settings_are_one_line(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=r"generation_config\.json is broken"):
        written(tmp_path)
