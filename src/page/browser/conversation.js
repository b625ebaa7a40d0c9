// The conversation: turns of a question and its answers, one of each model. It survives a reload.

const KEY = "gpt2-chat";
const NOTHING = { turns: [], models: null, settings: null, draft: "" };

/** Turns are {question, answers: [{model, text, status, done}]}; `models` and `settings` are what was chosen. */
export const conversation = load();

/** Return what a model is sent: each turn as its column shows it, then the question. */
export function messages(turns, column, question) {
  return [...turns.flatMap((turn) => turnMessages(turn, column)), { role: "user", content: question }];
}

/** Return the conversation as rows to train on, one for each column: JSON lines. */
export function rows(system) {
  const numColumns = Math.max(0, ...conversation.turns.map((turn) => turn.answers.length));
  const texts = new Set();
  for (let column = 0; column < numColumns; column++) {
    const said = conversation.turns
      .map((turn) => turnMessages(turn, column))
      .filter(([, answer]) => answer.content.trim());
    const before = system.trim() ? [{ role: "system", content: system }] : [];
    if (said.length) texts.add(JSON.stringify({ messages: [...before, ...said.flat()] }) + "\n");
  }
  return [...texts].join("");
}

function turnMessages(turn, column) {
  const answer = turn.answers[column] ?? turn.answers[0];
  return [
    { role: "user", content: turn.question },
    { role: "assistant", content: answer.text },
  ];
}

/** Keep the conversation: for a reload of this tab, and for the next tab that is opened. */
export function save() {
  const text = JSON.stringify(conversation);
  sessionStorage.setItem(KEY, text);
  localStorage.setItem(KEY, text);
}

function load() {
  try {
    const text = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
    const stored = { ...NOTHING, ...JSON.parse(text) };
    for (const { question, answers } of stored.turns) {
      if (typeof question !== "string" || !answers.length) return { ...NOTHING };
      for (const answer of answers) {
        if (!answer.done) answer.status += "; the page was left";
        answer.done = true;
      }
    }
    return stored;
  } catch {
    return { ...NOTHING }; // stored by something else, or storage is off
  }
}
