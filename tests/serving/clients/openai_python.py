"""OpenAI's Python package: the loop of every tutorial, a stream, a batch, the models, a refusal."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
messages = []
for question in ("Hello", "how are you?", "1 2 3"):
    messages.append({"role": "user", "content": question})
    reply = client.chat.completions.create(model="tiny", messages=messages).choices[0].message
    assert reply.content
    messages.append(reply if len(messages) == 1 else reply.model_dump())
stream = client.chat.completions.create(
    model="tiny", messages=messages[:1], stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert text == messages[1].content
assert chunks[-1].usage.completion_tokens
answers = client.completions.create(model="tiny", prompt=["Hello"] * 20, max_tokens=256)
assert len(answers.choices) == 20
assert client.models.list().data[0].id == "tiny"
try:
    client.chat.completions.create(
        model="tiny", messages=messages[:1], response_format={"type": "json_object"}
    )
except openai.BadRequestError as error:
    assert error.param == "response_format"  # noqa: PT017
else:
    raise AssertionError("it is not refused")
