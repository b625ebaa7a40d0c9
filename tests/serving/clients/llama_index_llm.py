"""llama-index: OpenAILike, as chat and as completion, whole and streamed."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

for is_chat in (True, False):
    llm = OpenAILike(
        model="tiny", api_base=sys.argv[1], api_key="none", is_chat_model=is_chat, max_retries=0
    )
    assert llm.complete("Hello").text
    messages = [ChatMessage(role="system", content="Be kind."), ChatMessage(content="Hello")]
    reply = llm.chat(messages)
    assert reply.message.content
    messages += [reply.message, ChatMessage(content="1 2 3")]
    assert "".join(piece.delta or "" for piece in llm.stream_chat(messages))
