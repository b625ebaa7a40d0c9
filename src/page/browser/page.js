// The page: it asks, shows the answers as they come, and leaves the conversation whole whatever fails.

import { conversation, messages, rows, save } from "./conversation.js";
import { button, copyButton, element, jsonLines } from "./elements.js";
import { buildSettings, Mistake } from "./settings.js";

const [title, log, form, box, send, stop, notice, panel, toggle, download, fresh] = [
  "title", "log", "ask", "question", "send", "stop", "notice", "settings", "toggle", "download", "new",
].map((id) => document.getElementById(id));
const selects = [...document.querySelectorAll("select.model")];
const options = await (await fetch("options")).json();
const labels = new Map(options.models.map(({ name, label }) => [name, label]));
const settings = buildSettings(panel, options, conversation.settings);
let running = null; // what stops the answer under way
let left = false; // whether the person goes to another page, or reloads this one
let edited = null; // {turn, text}: the question that is being edited
const shown = new Map(); // answer -> where its text and its status stand

// --- the conversation on the screen

function render() {
  shown.clear();
  log.replaceChildren(...(conversation.turns.length ? conversation.turns.map(turnElement) : [start()]));
}

function start() {
  const samples = options.prompts.map((prompt) => button(prompt, () => ask(prompt)));
  const words = samples.length ? "Ask something, or start with one of these." : "Ask something.";
  return element("div", { className: "start" }, element("p", {}, words), ...samples);
}

function turnElement(turn, index) {
  const answers = element("div", { className: "answers" });
  answers.style.setProperty("--columns", turn.answers.length);
  answers.append(...turn.answers.map((answer) => answerElement(answer, turn, index)));
  return element("div", { className: "turn" }, questionElement(turn, index), answers);
}

function questionElement(turn, index) {
  if (edited?.turn === turn) return editor(index);
  const under = element("div", { className: "under" });
  if (!running) {
    const edit = () => {
      edited = { turn, text: turn.question };
      render();
      log.querySelector(".edited textarea").focus();
    };
    under.append(button("Edit", edit, "Edit this question"), copyButton(() => turn.question, "question"));
  }
  const text = element("div", { className: "text", dir: "auto" }, turn.question);
  return element("div", { className: "asked" }, text, under);
}

function editor(index) {
  const area = element("textarea", { value: edited.text, "aria-label": "edit this question" });
  const leave = () => {
    edited = null;
    render();
    box.focus();
  };
  const again = () => {
    const { turn } = edited;
    edited = null;
    const giveBack = (text) => (edited = { turn, text });
    ask(area.value, conversation.turns.slice(0, index), giveBack);
  };
  area.onkeydown = (event) => {
    if (event.key === "Escape") leave();
    else if (isSend(event)) again();
  };
  const buttons = [button("Ask again", again), button("Cancel", leave)];
  const under = element("div", { className: "under" }, ...buttons);
  return element("div", { className: "asked edited" }, area, under);
}

function answerElement(answer, turn, index) {
  const node = document.createTextNode(answer.text);
  const status = element("span", { className: answer.error ? "wrong" : "" }, answer.error ?? answer.status);
  shown.set(answer, { node, status });
  const text = element("div", { className: "text", dir: "auto" }, node);
  const under = element("div", { className: "under" }, status);
  if (answer.done) {
    if (answer.text) under.append(copyButton(() => answer.text, "answer"));
    if (!running && turn === conversation.turns.at(-1) && answer === turn.answers.at(-1)) {
      const again = () => ask(turn.question, conversation.turns.slice(0, index), () => {});
      under.append(button("Retry", again, "Retry: another answer to the last question"));
    }
  }
  const names = turn.answers.length > 1 || answer.model !== labels.get(selects[0].value);
  const name = names ? element("div", { className: "name" }, answer.model) : "";
  return element("div", { className: answer.done ? "answer" : "answer running" }, name, text, under);
}

/** Change what stands in the log, and stay at its end if it was there: nothing jumps. */
function keepingEnd(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function say(text, isWrong = false, ...more) {
  notice.replaceChildren(text, ...more);
  notice.classList.toggle("wrong", isWrong);
}

// --- asking

/** Ask after `turns`; `giveBack` gets the text of a question that could not be asked. */
async function ask(question, turns = conversation.turns, giveBack = (text) => (box.value ||= text)) {
  if (running) return;
  const before = conversation.turns;
  let failure = null;
  say("");
  try {
    const { body, turn } = request(question, turns);
    running = new AbortController();
    conversation.turns = [...turns, turn];
    showRunning();
    log.scrollTop = log.scrollHeight;
    failure = await receive(body, turn);
    const errors = turn.answers.map((answer) => answer.error).filter(Boolean);
    if (errors.length === turn.answers.length) failure = [...new Set(errors)].join("; ");
    if (failure && turn.answers.every((answer) => !answer.text)) conversation.turns = before;
  } catch (error) {
    if (!(error instanceof Mistake)) throw error;
    failure = error.message;
  } finally {
    running = null;
  }
  if (failure) {
    say(failure, true);
    if (conversation.turns === before) giveBack(question);
  }
  showRunning();
  keep();
  if (!panel.contains(document.activeElement)) (log.querySelector(".edited textarea") ?? box).focus();
}

/** Return what is sent, and the turn that it begins. */
function request(question, turns) {
  if (!question.trim()) throw new Mistake("the question is empty: write one");
  const models = selects.map((select) => select.value).filter(Boolean);
  const answers = models.map((model, column) => ({ model, messages: messages(turns, column, question) }));
  const empty = models.map((model) => ({ model: labels.get(model), text: "", status: "", done: false }));
  return { body: { answers, ...settings.read() }, turn: { question, answers: empty } };
}

/** Show the events of a turn until its end; return why it failed as a whole, or null. */
async function receive(body, turn) {
  let failure = null;
  try {
    const response = await fetch("answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!response.ok) return (await response.json()).error;
    for await (const event of jsonLines(response.body)) {
      if (event.answer === undefined) failure = event.error;
      else take(event, turn.answers[event.answer]);
    }
  } catch (error) {
    if (!running.signal.aborted) {
      console.error(error);
      failure = "the connection is lost: is the program still running?";
    }
  }
  for (const answer of turn.answers) {
    if (answer.done) continue;
    const why = left ? "the page was left" : running.signal.aborted ? "it was stopped" : "it was cut off";
    answer.status = [answer.text && answer.status, why].filter(Boolean).join("; ");
    answer.done = true;
    if (!running.signal.aborted) failure ??= "the answer was cut off: see what the program says";
  }
  return failure;
}

function take({ piece = "", status = "", end = false, error }, answer) {
  if (!shown.has(answer)) return; // a new conversation has begun
  const { node, status: line } = shown.get(answer);
  keepingEnd(() => {
    answer.text += piece;
    answer.status = status;
    answer.done = end || error !== undefined;
    answer.error = error;
    node.appendData(piece);
    line.textContent = error ?? status;
  });
}

function showRunning() {
  send.hidden = running !== null;
  stop.hidden = running === null;
  log.setAttribute("aria-busy", String(running !== null));
  keepingEnd(render);
}

// --- what a person does

function isSend(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}

function askFromBox() {
  if (running) return;
  const question = box.value;
  box.value = "";
  ask(question);
  box.focus();
}

function keep() {
  Object.assign(conversation, {
    draft: box.value,
    models: { chosen: options.chosen, names: selects.map((select) => select.value) },
    settings: settings.values(),
  });
  try {
    save();
  } catch (error) {
    say(`this browser cannot keep the conversation for a reload: ${error.message}`, true);
  }
}

function showTitle() {
  const names = selects.map((select) => labels.get(select.value)).filter(Boolean);
  title.textContent = document.title = names.join(" and ");
}

form.onsubmit = (event) => {
  event.preventDefault();
  askFromBox();
};
box.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
  if (!isSend(event)) return;
  event.preventDefault();
  askFromBox();
};
stop.onclick = () => running?.abort();
toggle.onclick = () => {
  panel.hidden = !panel.hidden;
  toggle.setAttribute("aria-expanded", String(!panel.hidden));
};
panel.onkeydown = (event) => {
  if (event.key !== "Escape") return;
  toggle.click();
  toggle.focus();
};
fresh.onclick = () => {
  running?.abort();
  const before = conversation.turns;
  if (!before.length) return box.focus();
  conversation.turns = [];
  edited = null;
  const bringBack = () => {
    if (running) return;
    conversation.turns = [...before, ...conversation.turns];
    say("");
    render();
    box.focus();
  };
  say("A new conversation.", false, button("Bring the old one back", bringBack));
  render();
  box.focus();
};
download.onclick = () => {
  const text = rows(settings.system());
  if (!text) return say("nothing has been answered yet", true);
  const href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  element("a", { href, download: "conversation.jsonl" }).click();
  URL.revokeObjectURL(href);
  say("To train on it: data=file data.path=conversation.jsonl");
};
addEventListener("pagehide", () => {
  left = true;
  running?.abort();
  keep();
});
addEventListener("pageshow", () => (left = false));

// Models chosen before a reload hold as long as the program was not started with others.
const { chosen, names } = conversation.models ?? {};
const wanted = String(chosen) === String(options.chosen) ? names : options.chosen;
selects.forEach((select, column) => {
  if (column) select.append(new Option("no second model", ""));
  for (const [name, label] of labels) select.append(new Option(label, name));
  const name = wanted[column] ?? "";
  select.value = labels.has(name) || column ? name : options.chosen[0];
  select.onchange = () => {
    showTitle();
    render();
  };
});
box.value = conversation.draft;
showTitle();
render();
log.scrollTop = log.scrollHeight;
box.focus();
