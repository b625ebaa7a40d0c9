// Vercel's AI SDK: generateText, streamText and a conversation of its own messages.
import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "ours", baseURL: process.argv[2], includeUsage: true });
const model = provider("tiny");
const messages = [{ role: "user", content: "Hello" }];
const { text, response, usage } = await generateText({ model, system: "Be kind.", messages });
assert(text && usage.outputTokens);
const next = [...messages, ...response.messages, { role: "user", content: "1 2 3" }];
const stream = streamText({ model, system: "Be kind.", messages: next, onError: ({ error }) => { throw error; } });
let streamed = "";
for await (const piece of stream.textStream) streamed += piece;
assert(streamed);
assert((await stream.usage).outputTokens);
const completion = await generateText({ model: provider.completionModel("tiny"), prompt: "Hello" });
assert(completion.text);
