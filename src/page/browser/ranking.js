// The tab of rankings: a prompt, replies without names, a rank for each. The server knows what comes next.

import { button, element } from "./elements.js";

const [area, notice, status, save, skip, undo, chatTab, rankTab, about] = [
  "ranking", "rank-notice", "rank-status", "rank-save", "rank-skip", "rank-undo", "tab-chat", "tab-rank", "rank-about",
].map((id) => document.getElementById(id));
const SPEAKERS = { system: "system text", user: "asked", assistant: "answered" };
let state = null; // what the server has said last
let ranks = []; // one for each reply as it is shown; null: none yet
let busy = false;

// --- what the server is told

async function play(action) {
  if (busy) return;
  busy = true;
  if (!state) status.textContent = "loading the model and the prompts ...";
  showButtons();
  try {
    const response = await fetch("ranking", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ action, id: state?.id ?? 0, ranks: action === "rank" ? ranks : [] }),
    });
    const said = await response.json();
    if (response.ok) take(said);
    else say(said.error, true);
  } catch (error) {
    console.error(error);
    say("the connection is lost, or the program has failed: see what it says", true);
  }
  busy = false;
  if (!state) status.textContent = "";
  showButtons();
}

function take(said) {
  const isNew = said.id !== state?.id;
  state = said;
  status.textContent = said.status;
  say(said.notice);
  if (isNew) {
    ranks = said.question ? said.question.replies.map(() => null) : [];
    render();
    area.scrollTop = 0;
    area.focus();
  }
}

function say(text, isWrong = false) {
  notice.textContent = text;
  notice.classList.toggle("wrong", isWrong);
}

// --- what is shown

function render() {
  const { question } = state;
  if (!question) return area.replaceChildren(element("p", { className: "faint" }, "All prompts are ranked."));
  const said = question.messages.map(({ role, content }) => element(
    "div",
    { className: `said ${role}` },
    element("div", { className: "name" }, SPEAKERS[role]),
    element("div", { className: "text", dir: "auto" }, content),
  ));
  area.replaceChildren(...said, element("ol", { className: "replies" }, ...question.replies.map(replyElement)));
}

function replyElement({ text, ended }, index) {
  const choices = ranks.map((_, other) => {
    const rank = other + 1;
    const choose = (event) => {
      ranks[index] = ranks[index] === rank ? null : rank;
      if (event.detail) area.focus(); // pressed by a pointer: Enter then saves
      showRanks();
    };
    return button(String(rank), choose, `reply ${index + 1}: rank ${rank}`);
  });
  const shown = element("div", { className: "text", dir: "auto" }, text);
  if (!text) shown.append(element("span", { className: "faint" }, "(nothing)"));
  if (!ended) shown.append(element("span", { className: "faint" }, " ... (cut off)"));
  const group = element("div", { className: "ranks", role: "group", "aria-label": `rank of reply ${index + 1}` });
  group.append(...choices);
  return element("li", { className: "reply" }, shown, group);
}

function showRanks() {
  area.querySelectorAll(".reply").forEach((reply, index) => {
    reply.classList.toggle("next", index === ranks.indexOf(null));
    reply.querySelectorAll(".ranks button").forEach((choice, other) => {
      choice.setAttribute("aria-pressed", String(ranks[index] === other + 1));
    });
  });
  showButtons();
}

function isComplete() {
  return ranks.length > 0 && !ranks.includes(null);
}

function showButtons() {
  area.setAttribute("aria-busy", String(busy));
  save.disabled = busy || !isComplete();
  skip.disabled = busy || !state?.question;
  undo.disabled = busy || !state?.can_undo;
  area.querySelectorAll(".reply").forEach((reply, index) => {
    reply.classList.toggle("next", index === ranks.indexOf(null));
  });
}

// --- what a person does

save.onclick = () => play("rank");
skip.onclick = () => play("skip");
undo.onclick = () => play("undo");

/** Return what a key does, or undefined. */
function keyAction({ key, target }) {
  const rank = /^[1-9]$/.test(key) ? Number(key) : 0;
  const next = ranks.indexOf(null);
  if (rank && rank <= ranks.length && next >= 0) return () => (ranks[next] = rank);
  if (key === "Backspace") return () => (ranks[ranks.findLastIndex((each) => each !== null)] = null);
  if (key === "Enter" && isComplete() && !target.closest("button")) return () => save.click();
  if (key === "s") return () => skip.click();
  if (key === "u") return () => undo.click();
}

addEventListener("keydown", (event) => {
  const isOther = event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select");
  if (!isOpen() || busy || isOther || event.target.closest("header")) return;
  const action = keyAction(event);
  if (!action) return;
  event.preventDefault();
  action();
  showRanks();
});

// --- the tabs

function isOpen() {
  return document.body.classList.contains("ranking");
}

/** Show the tab that the address names, so that a reload and a bookmark stay on it. */
function showTab() {
  const ranking = location.hash === "#rank";
  document.body.classList.toggle("ranking", ranking);
  chatTab.setAttribute("aria-pressed", String(!ranking));
  rankTab.setAttribute("aria-pressed", String(ranking));
  if (!ranking) return;
  if (state) area.focus(); // off the tab's button, where keys are not ranks
  else play("show");
}

chatTab.onclick = () => (location.hash = "");
rankTab.onclick = () => (location.hash = "rank");
addEventListener("hashchange", showTab);
const { ranked } = await (await fetch("options")).json();
about.textContent = `Replies of ${ranked}, in an order by chance.`;
showTab();
showButtons();
