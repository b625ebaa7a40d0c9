"""litellm's SDK, as for any server of OpenAI's protocol."""

import sys

import litellm

settings = {"model": "openai/tiny", "api_base": sys.argv[1], "api_key": "none"}
messages = [{"role": "user", "content": "Hello"}]
reply = litellm.completion(messages=messages, **settings).choices[0].message
assert reply.content
messages += [reply, {"role": "user", "content": "1 2 3"}]
assert litellm.completion(messages=messages, max_tokens=4096, **settings).usage.total_tokens
chunks = litellm.completion(messages=messages[:1], stream=True, **settings)
assert "".join(c.choices[0].delta.content or "" for c in chunks) == reply.content
settings["model"] = "text-completion-openai/tiny"
assert litellm.text_completion(prompt="Hello", **settings).choices[0].text
