// Elements of the page. Every text becomes a text node: nothing that is written is read as HTML.

/** Return an element with properties (on...: listeners; data-, aria-: attributes) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Return a button. `name` says more than its text to who does not see it. */
export function button(text, onclick, name = text) {
  return element("button", { type: "button", onclick, "aria-label": name }, text);
}

/** Return a button that puts `text()` on the clipboard. */
export function copyButton(text, what) {
  const made = button("Copy", async () => {
    await copy(text());
    made.textContent = "Copied";
    setTimeout(() => (made.textContent = "Copy"), 1500);
  }, `Copy this ${what}`);
  return made;
}

/** Without https, and not on localhost, a browser offers the old way only. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { value: text, style: "position: fixed" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Yield the objects of a response whose lines are JSON. */
export async function* jsonLines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}
