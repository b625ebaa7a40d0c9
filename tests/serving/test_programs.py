"""Requests with the fields that programs of people send get an answer.

They are written from the programs' documentation; none was recorded, so a real one may differ.
"""

import json

import pytest

from tests.serving.conftest import CHAT, TEXT, ask

U = {"role": "user", "content": "Hello"}
A = {"role": "assistant", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be kind."}

REPLY = {  # our own message, as OpenAI's Python client gives it back with model_dump()
    "content": "Hi",
    "refusal": None,
    "role": "assistant",
    "annotations": None,
    "audio": None,
    "function_call": None,
    "tool_calls": None,
}

CHATS = {
    "openai: the loop of every tutorial": {"messages": [U, REPLY, U]},
    "openai: every neutral field": {
        "messages": [{**U, "name": "Ann"}],
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "reasoning_effort": "low",
        "verbosity": "low",
        "safety_identifier": "me",
        "prompt_cache_key": "me",
        "prediction": None,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": 0,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "n": 1,
        "seed": 1,
        "stop": "",
        "user": "me",
        "stream": False,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    },
    "null is the default of every field": {
        "messages": [U],
        **dict.fromkeys(
            (
                "max_tokens max_completion_tokens temperature top_p top_k min_p n stop seed stream "
                "stream_options user tools tool_choice response_format logit_bias logprobs "
                "top_logprobs frequency_penalty presence_penalty repetition_penalty ignore_eos "
                "metadata store functions function_call modalities audio model grammar typical_p"
            ).split()
        ),
    },
    "Open WebUI": {
        "stream": True,
        "messages": [SYSTEM, U, U],  # it drops an empty answer
        "max_tokens": 128000,
        "temperature": 0.8,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "top_p": 0.9,
        "stream_options": {"include_usage": True},
        "tools": [],
    },
    "Open WebUI, a title": {
        "messages": [{"role": "user", "content": "### Task:\nGenerate a title"}],
        "stream": False,
        "max_completion_tokens": 1000,
    },
    "SillyTavern, chat completion": {
        "messages": [
            {"role": "system", "content": "Write {{char}}'s next reply."},
            {"role": "system", "content": "[Start a new Chat]"},
            {"role": "assistant", "content": "*waves* Hello!"},
            U,
            {"role": "system", "content": "Stay in character."},
        ],
        "temperature": 1,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "top_p": 1,
        "top_k": 0,
        "min_p": 0,
        "repetition_penalty": 1.1,
        "top_a": 0,
        "max_tokens": 300,
        "stream": True,
        "logit_bias": {},
        "stop": ["\nAnn:", "\nRobin:", "a", "b", "c"],
        "chat_completion_source": "custom",
        "user_name": "Ann",
        "char_name": "Robin",
        "group_names": [],
        "include_reasoning": True,
        "enable_web_search": False,
        "seed": -1,
        "n": 1,
    },
    "SillyTavern continues": {"messages": [SYSTEM, U, A], "max_tokens": 8},
    "Continue": {
        "messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_tokens": 4096,
        "stream": True,
        "stop": ["</COMPLETION>", "\n\n", "```", "/src/", "#- coding", "a"],
        "parallel_tool_calls": False,
    },
    "AnythingLLM": {
        "messages": [SYSTEM, U],
        "temperature": 0.7,
        "max_tokens": 1024,
        "stream": True,
    },
    "LM Studio": {
        "messages": [U],
        "temperature": 0.7,
        "max_tokens": -1,
        "stream": True,
        "top_k": 40,
        "repeat_penalty": 1.1,
        "min_p": 0.05,
    },
    "llama.cpp's page": {
        "messages": [U],
        "stream": True,
        "cache_prompt": True,
        "reasoning_format": "none",
        "samplers": "edkypmxt",
        "temperature": 0.8,
        "dynatemp_range": 0,
        "dynatemp_exponent": 1,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1,
        "xtc_probability": 0,
        "xtc_threshold": 0.1,
        "repeat_last_n": 64,
        "repeat_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "dry_multiplier": 0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": -1,
        "max_tokens": -1,
        "timings_per_token": True,
    },
    "LangChain": {
        "messages": [{"content": "Be kind.", "role": "system"}, {"content": "Hi", "role": "user"}],
        "stream": False,
        "n": None,
        "temperature": 0.7,
    },
    "Chatbox": {
        "messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "temperature": 0.7,
        "top_p": 1,
        "max_tokens": 4096,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "LibreChat": {
        "messages": [{"role": "system", "content": "Be kind."}, {**U, "name": "ann"}, A, U],
        "user": "65f0c0ffee",
        "stream": True,
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "",
        "max_tokens": None,
    },
    "Cursor": {
        "messages": [
            {"role": "developer", "content": "You are a coding assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "there"},
                ],
            },
            {"role": "assistant", "content": None},
            U,
        ],
        "stream": True,
        "max_tokens": 8192,
        "temperature": 0,
        "metadata": {"cursorRequestId": "x"},
        "user": "x",
    },
    "Vercel AI SDK": {"messages": [SYSTEM, U], "max_tokens": 2000, "temperature": 0.3},
    "vLLM's benchmark": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_completion_tokens": 20,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "add_generation_prompt": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "skip_special_tokens": True,
    },
}

COMPLETIONS = {
    "LangChain": {
        "prompt": [f"question {number}" for number in range(20)],
        "temperature": 0.7,
        "max_tokens": 256,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "n": 1,
        "best_of": 1,
        "logit_bias": {},
    },
    "SillyTavern, text completion": {
        "prompt": "### Prompt: Hello\n### Response:",
        "max_new_tokens": 350,
        "max_tokens": 350,
        "logprobs": None,
        "temperature": 0.7,
        "top_p": 0.5,
        "typical_p": 1,
        "typical": 1,
        "sampler_seed": -1,
        "min_p": 0,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "top_k": 40,
        "skew": 0,
        "min_tokens": 0,
        "add_bos_token": True,
        "smoothing_factor": 0,
        "smoothing_curve": 1,
        "dry_allowed_length": 2,
        "dry_multiplier": 0,
        "dry_base": 1.75,
        "dry_sequence_breakers": '["\\n", ":"]',
        "dry_penalty_last_n": 0,
        "max_tokens_second": 0,
        "sampler_priority": ["temperature"],
        "xtc_threshold": 0.1,
        "xtc_probability": 0,
        "nsigma": 0,
        "top_n_sigma": 0,
        "stopping_strings": ["\nAnn:"],
        "stop": ["\nAnn:", "\nRobin:"],
        "truncation_length": 8192,
        "ban_eos_token": False,
        "skip_special_tokens": True,
        "include_reasoning": True,
        "top_a": 0,
        "tfs": 1,
        "mirostat_mode": 0,
        "mirostat_tau": 5,
        "mirostat_eta": 0.1,
        "custom_token_bans": "",
        "banned_strings": [],
        "api_type": "vllm",
        "api_server": "http://127.0.0.1:8000/v1",
        "legacy_api": False,
        "grammar": "",
        "rep_pen_range": 0,
        "repetition_penalty_range": 0,
        "encoder_repetition_penalty": 1,
        "no_repeat_ngram_size": 0,
        "penalty_alpha": 0,
        "num_beams": 1,
        "length_penalty": 1,
        "guidance_scale": 1,
        "negative_prompt": "",
        "grammar_string": "",
        "json_schema": {},
        "spaces_between_special_tokens": True,
        "n_predict": 350,
        "num_predict": 350,
        "num_ctx": 8192,
        "stream": True,
    },
    "Continue, autocompletion": {
        "prompt": "def f(",
        "suffix": "",
        "max_tokens": 4096,
        "temperature": 0.01,
        "stop": ["\n\n", "/src/"],
        "stream": True,
    },
    "openai: neutral fields": {"prompt": "a", "echo": False, "suffix": None, "best_of": 2, "n": 2},
}


def answers(response, stream: bool) -> list[dict[str, object]]:
    """Return the choices of a response, or of a stream's events."""
    assert response.status_code == 200, response.text
    if not stream:
        return response.json()["choices"]
    events = response.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    events = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert not any("error" in event for event in events)
    return [choice for event in events for choice in event["choices"]]


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
def test_a_programs_chat_is_answered(fields, client):
    response = client.post(CHAT, json={"model": "tiny"} | fields)
    choices = answers(response, bool(fields.get("stream")))
    assert choices[-1]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("fields", COMPLETIONS.values(), ids=COMPLETIONS)
def test_a_programs_completion_is_answered(fields, client):
    response = client.post(TEXT, json={"model": "tiny"} | fields)
    choices = answers(response, bool(fields.get("stream")))
    expected = len(fields["prompt"]) if isinstance(fields["prompt"], list) else fields.get("n", 1)
    assert len({choice["index"] for choice in choices}) == expected


def said(client, messages, **fields) -> str:
    answer = client.post(CHAT, json={"model": "tiny", "messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_our_own_reply_can_be_sent_back(client):
    answer = client.post(CHAT, json=ask("Hello")).json()["choices"][0]["message"]
    assert said(client, [U, answer, U]) == said(
        client, [U, {"role": "assistant", "content": answer["content"]}, U]
    )


def test_the_order_of_roles_is_that_of_the_reader_of_rows(client):
    assert said(client, [U, U]) == said(client, [{**U, "content": "Hello\n\nHello"}])
    assert said(client, [U, SYSTEM]) == said(client, [SYSTEM, U])
    assert said(client, [A, U]) == said(client, [{**U, "content": ""}, A, U]) != said(client, [U])
    assert said(client, [U, {**A, "content": None}, U]) == said(client, [U, U])
    assert said(client, [{"role": "human", "content": "Hello"}]) == said(client, [U])


def test_an_answer_that_has_begun_is_continued(client, assistant):
    """As with llama.cpp, LM Studio and Ollama: the text that follows, not the whole."""
    whole = client.post(TEXT, json={"model": "tiny", "prompt": PROMPT, "max_tokens": 12})
    begun = [U, {"role": "assistant", "content": "Hi"}]
    tokens = assistant.tokenizer.encode(PROMPT) + assistant.tokenizer.encode(" Hi")
    follows = client.post(TEXT, json={"model": "tiny", "prompt": tokens, "max_tokens": 12})
    assert said(client, begun, max_tokens=12) == follows.json()["choices"][0]["text"]
    assert said(client, [U, {"role": "assistant", "content": ""}], max_tokens=12) == said(
        client, [U], max_tokens=12
    )
    assert whole.status_code == 200


PROMPT = "### Prompt: Hello\n### Response:"


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_past_the_context_loses_its_oldest_turns_and_says_so(stream, client):
    turns = [message for number in range(60) for message in ({**U, "content": f"{number}"}, A)]
    fields = {"model": "tiny", "messages": [SYSTEM, *turns, U], "max_tokens": 8, "stream": stream}
    response = client.post(CHAT, json=fields)
    assert response.status_code == 200
    text = response.text.split("\n\n")[0].removeprefix("data: ")
    dropped = json.loads(text)["num_dropped_turns"]
    assert 40 < dropped < 60
    rest = [SYSTEM, *turns[2 * dropped :], U]
    alone = client.post(CHAT, json={**fields, "messages": rest}).text
    assert json.loads(alone.split("\n\n")[0].removeprefix("data: "))["num_dropped_turns"] == 0
    contents = [answers_text(body, stream) for body in (response.text, alone)]
    assert contents[0] == contents[1]


def answers_text(body: str, stream: bool) -> str:
    if not stream:
        return json.loads(body)["choices"][0]["message"]["content"]
    events = [json.loads(e.removeprefix("data: ")) for e in body.strip().split("\n\n")[:-1]]
    return "".join(c["delta"].get("content", "") for e in events for c in e["choices"])


def test_half_a_megabyte_of_conversation_is_no_mistake(client):
    turns = [{**U, "content": "x" * 2000}, {**A, "content": "y" * 2000}] * 100
    answer = client.post(CHAT, json={"model": "tiny", "messages": [*turns, U]})
    assert answer.json()["num_dropped_turns"] == 100
    many = [{**U, "content": "a"}, {**A, "content": "b"}] * 4500
    answer = client.post(CHAT, json={"model": "tiny", "messages": [*many, U]})
    assert answer.json()["num_dropped_turns"] > 4480


def test_a_completion_reads_special_tokens_as_such_unless_it_is_told_not_to(client, assistant):
    end = assistant.tokenizer.end_id
    tokens = [end, *assistant.tokenizer.encode("Hello"), end, *assistant.tokenizer.encode(" you")]
    text = "<|endoftext|>Hello<|endoftext|> you"

    def completed(prompt, **fields) -> tuple[str, int]:
        fields = {"model": "tiny", "prompt": prompt, "max_tokens": 8, **fields}
        answer = client.post(TEXT, json=fields).json()
        return answer["choices"][0]["text"], answer["usage"]["prompt_tokens"]

    assert completed(text) == completed(tokens)
    assert completed(text)[1] == len(tokens)
    as_text = assistant.tokenizer.encode(text)
    assert completed(text, parse_special=False) == completed(as_text)
    assert len(as_text) > len(tokens)


def test_penalties_change_an_answer_and_a_foreign_name_is_the_same_setting(client):
    plain = said(client, [U], repetition_penalty=1.0)
    assert said(client, [U], frequency_penalty=2.0) != plain
    assert said(client, [U], presence_penalty=2.0) != plain
    assert said(client, [U], frequency_penalty=0, presence_penalty=0) == plain
    assert said(client, [U], repeat_penalty=1.5) == said(client, [U], repetition_penalty=1.5)
    assert said(client, [U], repeat_penalty=1.5) != plain


def test_a_seed_of_minus_one_is_any_seed(client):
    hot = {"temperature": 2.0, "seed": -1}
    assert len({said(client, [U], **hot) for _ in range(3)}) > 1


def test_the_end_of_a_line_in_unicode_is_no_end_of_an_event(client, monkeypatch):
    from src.talk.text_stream import TextStream

    monkeypatch.setattr(TextStream, "push", lambda self, token: "a\u2028b\u2029c\x85d\r\né")
    body = client.post(CHAT, json=ask(stream=True, max_tokens=1)).content
    assert body.isascii()
    assert len(body.splitlines()) == len(body.decode().splitlines())
