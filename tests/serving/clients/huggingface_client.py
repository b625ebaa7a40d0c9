"""huggingface_hub's InferenceClient: chat, stream and its alias of OpenAI's client."""

import sys

from huggingface_hub import InferenceClient

client = InferenceClient(base_url=sys.argv[1], api_key="none")
messages = [{"role": "user", "content": "Hello"}]
reply = client.chat_completion(messages, model="tiny").choices[0].message
assert reply.content
assert client.chat_completion(messages).choices[0].message.content == reply.content
chunks = client.chat.completions.create(messages=messages, model="tiny", stream=True, max_tokens=99)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
messages += [reply, {"role": "user", "content": "1 2 3"}]
assert client.chat_completion(messages, model="tiny", frequency_penalty=0.5).usage.total_tokens
