// OpenAI's JavaScript package: the loop of every tutorial, a stream, the stream helper, a refusal.
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [];
for (const question of ["Hello", "how are you?", "1 2 3"]) {
  messages.push({ role: "user", content: question });
  const answer = await client.chat.completions.create({ model: "tiny", messages });
  assert(answer.choices[0].message.content);
  messages.push(answer.choices[0].message);
}
const first = messages.slice(0, 1);
let text = "";
for await (const chunk of await client.chat.completions.create({ model: "tiny", messages: first, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, messages[1].content);
const helper = client.chat.completions.stream({ model: "tiny", messages: first });
assert.equal(await helper.finalContent(), text);
const completion = await client.completions.create({ model: "tiny", prompt: "Hello", max_tokens: 8 });
assert(completion.choices[0].text);
await assert.rejects(
  client.chat.completions.create({ model: "tiny", messages: first, logit_bias: { 5: 100 } }),
  (error) => error.status === 400 && error.param === "logit_bias",
);
