"""One text that holds both sides is read in each form in which people keep it."""

import pytest

from src.data.messages import read_messages
from src.data.texts import read_text

QA = (("Q", "A"),)
HEADED = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
TEXTS = {
    "guanaco": "### Human: Q### Assistant: A",
    "guanaco on lines": "### Human: Q\n### Assistant: A\n",
    "alpaca": "### Instruction:\nQ\n\n### Response:\nA",
    "question and answer": "### Question:\nQ\n\n### Answer:\nA</s>",
    "input and output": "### Input:\nQ\n\n### Output:\nA",
    "ours": "### Prompt: Q\n### Response: A<|endoftext|>",
    "ChatML": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n",
    "Llama 2": "<s>[INST] Q [/INST] A </s>",
    "Llama 3": "<|begin_of_text|>" + HEADED.format("user", "Q") + HEADED.format("assistant", "A"),
    "Gemma": "<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n",
    "Zephyr": "<|user|>\nQ</s>\n<|assistant|>\nA</s>\n",
    "Open Assistant": "<|prompter|>Q<|endoftext|><|assistant|>A<|endoftext|>",
    "OIG": "<human>: Q\n<bot>: A",
    "Anthropic": "\n\nHuman: Q\n\nAssistant: A",
    "a transcript": "User: Q\nBot: A",
    "Vicuna": "USER: Q ASSISTANT: A</s>",
    "Q and A": "Q: Q\nA: A",
    "ChatML without line breaks": "<|im_start|>user Q<|im_end|><|im_start|>assistant A<|im_end|>",
    "ChatML of phi": "<|im_start|>user<|im_sep|>Q<|im_end|><|im_start|>assistant<|im_sep|>A",
    "Baize": "[|Human|] Q\n[|AI|] A\n",
    "two hashes": "## Human: Q\n## Assistant: A",
    "bold": "**User:** Q\n\n**Assistant:** A",
    "OpenChat": "GPT4 Correct User: Q<|end_of_turn|>GPT4 Correct Assistant: A<|end_of_turn|>",
    "tags": "<user>Q</user><assistant>A</assistant>",
    "a transcript on one line": "Human: Q Assistant: A",
}


@pytest.mark.parametrize("form", TEXTS)
def test_every_form_gives_the_same_turn(form):
    reading = read_messages(read_text(TEXTS[form]))
    assert (reading.system, reading.turns, reading.question) == ("", QA, None)


@pytest.mark.parametrize("form", sorted(TEXTS.keys() - {"Llama 2"}))
def test_a_form_holds_several_turns(form):
    again = TEXTS[form].replace("<|begin_of_text|>", "").replace("<bos>", "")
    reading = read_messages(read_text(f"{TEXTS[form]}\n{again}"))
    assert reading.turns == (*QA, *QA)


def test_system_texts_and_extras_belong_to_the_conversation():
    def read(text):
        reading = read_messages(read_text(text))
        return reading.system, reading.opening, reading.turns

    assert read("<|im_start|>system\nS<|im_end|>\n" + TEXTS["ChatML"]) == ("S", "", QA)
    assert read("S\n\n" + TEXTS["ours"]) == ("S", "", QA)
    assert read("A chat.\n\n" + TEXTS["Vicuna"]) == ("A chat.", "", QA)
    assert read("[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A") == ("S", "", QA)
    assert read("[INST] Q [/INST] A </s><s>[INST] Q [/INST] A") == ("", "", (*QA, *QA))
    opening = "S\n\n### Prompt: \n### Response: Hi<|endoftext|>" + TEXTS["ours"]
    assert read(opening) == ("S", "Hi", QA)
    alpaca = (
        "Below is an instruction.\n\n### Instruction:\nQ\n\n### Input:\n1, 2\n\n### Response:\nA"
    )
    assert read(alpaca) == ("Below is an instruction.", "", (("Q\n1, 2", "A"),))


def test_other_headers_inside_a_response_are_text():
    text = "### Human: Q\n### Assistant: A\n### Answer: 3\nQuestion: none\n<b>"
    assert read_messages(read_text(text)).turns == (("Q", "A\n### Answer: 3\nQuestion: none\n<b>"),)


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time.",
        "",
        "Human: and no answer",
        "Say User: a Assistant: b",
        "Human beings. Assistant professors.",
    ],
)
def test_a_text_without_both_sides_is_none(text):
    assert read_text(text) is None
