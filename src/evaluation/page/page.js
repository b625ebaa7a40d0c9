"use strict";
// All text goes through textContent: what a model has said is never read as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50; // rows that are added at a time
const MOST_WORDS = 600; // of a text whose words are compared
const SHARES = new Set(["accuracy", "repetition"]);
const SHOWN = ["gold_greedy", "proxy_greedy", "loss", "bits_per_byte", "accuracy", "rouge_l", "chrf", "repetition"];
const DRAWN = ["gold", "proxy", "kl"]; // of the reply at temperature 1

const element = (kind, className, text) => {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// Which of the words are part of a longest common subsequence with the others.
const common = (words, others) => {
  const length = Array.from({ length: words.length + 1 }, () => new Uint16Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = others.length - 1; j >= 0; j--)
      length[i][j] = words[i] === others[j]
        ? length[i + 1][j + 1] + 1
        : Math.max(length[i + 1][j], length[i][j + 1]);
  const kept = new Array(words.length).fill(false);
  for (let i = 0, j = 0; i < words.length && j < others.length;) {
    if (words[i] === others[j]) { kept[i] = true; i++; j++; }
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return kept;
};

const marked = (text, other) => {
  const box = element("div", "said");
  const pieces = text.split(/(\s+)/);
  const words = pieces.filter((piece) => piece.trim());
  const others = (other ?? "").split(/\s+/).filter(Boolean);
  if (other === null || words.length > MOST_WORDS || others.length > MOST_WORDS) {
    box.textContent = text;
    return box;
  }
  const kept = common(words, others);
  let word = 0;
  for (const piece of pieces) {
    const isNew = piece.trim() && !kept[word++];
    box.append(isNew ? element("mark", "", piece) : document.createTextNode(piece));
  }
  return box;
};

const figuresOf = (found, names = SHOWN) => names.filter((name) => typeof found[name] === "number").map((name) => {
  const value = found[name];
  const text = SHARES.has(name) ? `${(100 * value).toFixed(1)}%` : value.toFixed(name === "chrf" ? 1 : 3);
  return `${data.labels[name].replace(/( \(|,).*/, "")} ${text}`;
}).join(" · ");

const replyBox = (title, text, other, note, className) => {
  const box = element("div", `reply ${className}`);
  box.append(element("div", "who", title));
  box.append(text === "" ? element("div", "said earlier", "(nothing)") : marked(text, other));
  if (note) box.append(element("div", "figures", note));
  return box;
};

const ENDS = { length: "cut at the most tokens", unreadable: "too long to read", stop: "stop text" };

const card = (row) => {
  const box = element("article");
  box.append(element("h3", "", `row ${row.row} · ${row.labels.join(", ")}`));
  row.messages.forEach((message, number) => {
    const isLast = number === row.messages.length - 1;
    const sign = { system: "system: ", user: "", assistant: "> " }[message.role];
    box.append(element("div", isLast ? "said question" : "said earlier", sign + message.content));
  });
  const replies = element("div", "replies");
  const answered = data.models.filter((model) => "reply" in row.models[model.name]);
  const base = row.reference ?? (answered.length > 1 ? row.models[answered[0].name].reply : null);
  if (row.reference !== null) replies.append(replyBox("reference", row.reference, null, "", "reference"));
  for (const model of data.models) {
    const found = row.models[model.name];
    const notes = [ENDS[found.stop_reason], figuresOf(found)].filter(Boolean).join(" · ");
    if ("reply" in found) {
      const isRight = row.reference !== null && found.reply.trim() === row.reference.trim();
      replies.append(replyBox(model.short, found.reply, base, notes, isRight ? "right" : ""));
    } else if (notes) {
      const scored = element("div", "reply");
      scored.append(element("div", "who", model.short), element("div", "figures", notes));
      replies.append(scored);
    }
  }
  for (const model of data.models) {
    const found = row.models[model.name];
    if ("sampled" in found)
      replies.append(replyBox(`${model.short}, drawn`, found.sampled, base, figuresOf(found, DRAWN), ""));
  }
  box.append(replies);
  return box;
};

const repliesOf = (row) => Object.values(row.models).filter((found) => "reply" in found);
const KINDS = {
  all: () => true,
  differ: (row) => new Set(repliesOf(row).map((found) => found.reply.trim())).size > 1,
  wrong: (row) => row.reference !== null
    && repliesOf(row).some((found) => found.reply.trim() !== row.reference.trim()),
  unended: (row) => repliesOf(row).some((found) => !["end", "stop"].includes(found.stop_reason)),
};
const textOf = (row) => [
  ...row.messages.map((message) => message.content), row.reference ?? "", ...row.labels,
  ...repliesOf(row).flatMap((found) => [found.reply, found.sampled ?? ""]),
].join("\n").toLowerCase();
const texts = new Map(data.rows.map((row) => [row, textOf(row)]));

const rows = document.getElementById("rows");
const more = document.getElementById("more");
const filter = document.getElementById("filter");
const kind = document.getElementById("kind");
let chosen = [];
let shown = 0;

const showMore = () => {
  for (const row of chosen.slice(shown, shown + PAGE)) rows.append(card(row));
  shown = Math.min(shown + PAGE, chosen.length);
  more.hidden = shown === chosen.length;
};
const choose = () => {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  chosen = data.rows.filter((row) => KINDS[kind.value](row)
    && wanted.every((word) => texts.get(row).includes(word)));
  document.getElementById("count").textContent = `${chosen.length.toLocaleString("en")} row${chosen.length === 1 ? "" : "s"}`;
  rows.replaceChildren();
  shown = 0;
  showMore();
};
filter.addEventListener("input", choose);
kind.addEventListener("change", choose);
more.addEventListener("click", showMore);
choose();
