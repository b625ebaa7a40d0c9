// The settings: a system text, numbers, stop strings and a seed.

import { button, element } from "./elements.js";

/** A person's mistake: the page shows it in one line. */
export class Mistake extends Error {}

/** Fill `panel`; `stored` holds what was set before a reload. Return {read, values}. */
export function buildSettings(panel, options, stored) {
  const fields = new Map();
  const defaults = { system: "", stop: options.stop.map(escaped).join("\n"), seed: "" };
  const infos = {
    system: "stands before the first question",
    stop: "texts that end an answer, one a line; \\n is a line break",
    seed: "empty: another each time",
  };
  const area = (rows) => element("textarea", { rows });
  const add = (name, label, control, ...more) => {
    control.id = `setting-${name}`;
    fields.set(name, control);
    const labelled = element("label", { htmlFor: control.id }, label);
    const info = infos[name] ?? options.numbers.find((number) => number.name === name).info;
    const infoLine = element("p", { className: "info", id: `info-${name}` }, info);
    if (info) control.setAttribute("aria-describedby", infoLine.id);
    const row = control.type === "number" ? element("div", { className: "row" }, labelled, control) : "";
    const parts = row ? [row] : [labelled, control];
    panel.append(element("div", { className: "setting" }, ...parts, ...more, info ? infoLine : ""));
  };

  add("system", "system text", area(3));
  for (const { name, value, least, most, step } of options.numbers) {
    defaults[name] = String(value);
    const limits = { min: least, max: most, step };
    const range = element("input", { type: "range", ...limits, "aria-label": `${name}, as a slider` });
    const number = element("input", { type: "number", step, placeholder: value });
    range.oninput = () => (number.value = range.value);
    number.oninput = () => (range.value = number.value || value);
    add(name, name, number, range);
  }
  add("stop", "stop strings", area(2));
  add("seed", "seed", element("input", { type: "text", inputMode: "numeric", autocomplete: "off" }));
  const fill = (values) => {
    for (const [name, control] of fields) {
      control.value = values[name] ?? defaults[name];
      control.oninput?.();
    }
  };
  panel.append(button("Defaults", () => fill(defaults), "Defaults: every setting as it was configured"));
  // Settings of before hold as long as the program is configured as it was then.
  fill(stored?.defaults === JSON.stringify(defaults) ? stored.values : defaults);

  const values = () => Object.fromEntries([...fields].map(([name, control]) => [name, control.value]));
  const number = (name) => {
    const control = fields.get(name);
    if (control.validity.badInput) throw new Mistake(`${name}: must be a number`);
    return control.value === "" ? null : control.valueAsNumber;
  };
  return {
    values: () => ({ defaults: JSON.stringify(defaults), values: values() }),
    system: () => fields.get("system").value,
    /** Return the settings as the server reads them. */
    read: () => ({
      system: fields.get("system").value,
      numbers: Object.fromEntries(options.numbers.map(({ name }) => [name, number(name)])),
      stop: fields.get("stop").value.split("\n").filter(Boolean).map(unescaped),
      seed: fields.get("seed").value,
    }),
  };
}

const ESCAPES = { "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r" };
const PLAIN = { "\\": "\\", n: "\n", t: "\t", r: "\r" };

function escaped(text) {
  return text.replace(/[\\\n\t\r]/g, (character) => ESCAPES[character]);
}

function unescaped(text) {
  return text.replace(/\\([\\ntr])/g, (_, character) => PLAIN[character]);
}
