"""langchain-openai at its defaults: chat, stream, a conversation, completions in batches of 20."""

import sys

from langchain_openai import ChatOpenAI, OpenAI

settings = {"model": "tiny", "base_url": sys.argv[1], "api_key": "none"}
chat = ChatOpenAI(**settings)
reply = chat.invoke([("system", "Be kind."), ("human", "Hello")])
assert reply.content
assert reply.usage_metadata["output_tokens"]
assert chat.invoke([("human", "Hello"), reply, ("human", "1 2 3")]).content
assert "".join(str(chunk.content) for chunk in chat.stream("Hello")) == chat.invoke("Hello").content
llm = OpenAI(**settings)
assert llm.invoke("Hello")
answers = llm.generate([f"question {number}" for number in range(45)]).generations
assert len(answers) == 45
assert "".join(llm.stream("Hello"))
