// One rollout, step by step: why the update moved what it moved.

const KINDS = ["trained", "advantage", "ratio", "clipped", "kl", "entropy", "weight"];
const LOGS = ["reward", "behaviour", "old", "policy", "reference"];
const NAMES = { trained: "mask (trained on)", clipped: "clip state", kl: "KL", policy: "log π after", old: "log π before", behaviour: "log π sampled", reference: "log π reference" };
const CENTRES = { ratio: 1, advantage: 0 };
const MOST_ROWS = 500;

function told(name) {
  return NAMES[name] || name;
}

// Which colour a value has: diverging around a centre, or from nothing to full.
class Scale {
  constructor(name, values) {
    const known = values.map(number).filter((v) => typeof v === "number" && Number.isFinite(v));
    this.least = Math.min(...known);
    this.most = Math.max(...known);
    this.known = known.length > 0;
    this.centre = name in CENTRES ? CENTRES[name] : this.least < 0 && this.most > 0 ? 0 : null;
    this.reach = this.centre === null ? this.most - this.least : Math.max(this.most - this.centre, this.centre - this.least);
    this.flags = name === "trained" || name === "clipped";
    if (this.flags) [this.least, this.most, this.reach, this.centre] = [0, 1, 1, null];
  }
  colour(value) {
    const x = number(value);
    if (typeof x !== "number" || Number.isNaN(x)) return "transparent";
    const from = this.centre ?? this.least;
    const share = this.reach > 0 ? Math.max(-1, Math.min(1, (x - from) / this.reach)) : this.flags ? x : 0;
    const tone = this.centre === null ? "--amount" : share < 0 ? "--below" : "--above";
    return `color-mix(in srgb, var(${tone}) ${Math.round(70 * Math.abs(share))}%, transparent)`;
  }
  legend() {
    if (!this.known) return h("span", { class: "muted" }, "not known here");
    const ends = this.flags ? [0, 1] : this.centre === null ? [this.least, this.most] : [this.centre - this.reach, this.centre, this.centre + this.reach];
    const bar = h("span", { class: "ramp", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(90deg, ${ends.map((v) => this.colour(v)).join(", ")})`;
    const words = this.flags ? ["no", "yes"] : ends.map(shown);
    return h("span", { class: "legend" }, words[0], bar, words[words.length - 1], ends.length === 3 ? h("span", { class: "muted" }, `centre ${words[1]}`) : null);
  }
}

class Steps {
  constructor(box, open) {
    this.box = box;
    this.open = open;
    this.by = "advantage";
  }
  nothing() {
    fill(this.box, h("p", { class: "empty" }, "No rollout is found. Change the search."));
  }
  show(data, rollouts, row, detail) {
    const c = data.rollouts;
    this.detail = detail;
    this.columns = this.known(detail);
    const names = [...KINDS.filter((name) => name in this.columns), ...Object.keys(this.columns).filter((name) => !KINDS.includes(name) && this.numeric(name))];
    if (!names.includes(this.by)) this.by = names.includes("advantage") ? "advantage" : names[0];
    const facts = [["reward", c.reward[row]], ["length", c.length[row]], ["surprise", c.surprise[row]], ["end", c.finish[row]], ["round", c.round[row]], ["task", c.task[row]], ["source", c.source[row]], ...(detail.return === undefined ? [] : [["return", detail.return]]), ...Object.entries(detail.totals || {})];
    const head = h("header", {},
      h("h2", {}, swatch(c.run[row]), `${data.runs[c.run[row]].name}, round ${c.round[row]}, row ${c.row[row]}`),
      c.kept[row] ? null : h("p", { class: "note" }, "Selection left this row out: no step of it was trained on."),
      h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown(value))))),
      this.siblings(rollouts, row));
    this.tokens = h("div", { class: detail.tokens ? "tokens words" : "tokens cells", role: "listbox", "aria-label": "Steps; arrow keys read their numbers", "aria-orientation": "horizontal", onkeydown: (e) => this.key(e), onmouseover: (e) => this.over(e), onfocusin: (e) => this.over(e) });
    this.legend = h("div", { class: "legends" });
    this.inspector = h("dl", { class: "inspector", "aria-live": "polite" });
    const select = h("select", { id: "colour", onchange: (e) => { this.by = e.target.value; this.paint(); } }, names.map((name) => h("option", { value: name, selected: name === this.by }, told(name))));
    fill(this.box, head,
      c.prompt[row] ? h("section", {}, h("h3", {}, "Prompt"), h("pre", { class: "text" }, c.prompt[row])) : null,
      scene(detail),
      h("section", {},
        h("div", { class: "bar" }, h("h3", {}, detail.tokens ? "Answer" : "Steps"), h("label", {}, "Colour ", select), this.legend),
        this.tokens, this.inspector),
      h("section", {}, h("h3", {}, "Every step"), this.table()));
    this.cells = this.labels().map((text, step) => this.cell(text, step));
    fill(this.tokens, this.cells);
    this.paint();
    this.inspect(0, false);
  }
  known(detail) {
    const columns = { ...detail.steps };
    const wide = { observation: detail.observations, action: detail.actions, point: detail.points };
    for (const [name, values] of Object.entries(wide)) {
      if (!values) continue;
      const width = Array.isArray(values[0]) ? values[0].length : 0;
      if (!width) columns[name] = values;
      for (let n = 0; n < width; n++) columns[`${name} ${n}`] = values.map((value) => value[n]);
    }
    return columns;
  }
  // What everyone asks for first.
  ordered() {
    const names = Object.keys(this.columns).filter((name) => name !== "kind");
    const rest = (name) => (KINDS.includes(name) ? KINDS.indexOf(name) : LOGS.includes(name) ? 20 + LOGS.indexOf(name) : name.includes("/") ? 60 : 40);
    return [...names.sort((a, b) => rest(a) - rest(b)), "kind"];
  }
  numeric(name) {
    return name !== "kind" && this.columns[name].some((value) => typeof value === "number");
  }
  labels() {
    const { tokens, actions, steps } = this.detail;
    if (tokens) return tokens;
    if (actions && !Array.isArray(actions[0])) return actions.map(shown);
    return steps.kind.map((_, step) => String(step));
  }
  siblings(rollouts, row) {
    const same = rollouts.group(row);
    if (same.length < 2) return null;
    return h("nav", { class: "siblings", "aria-label": "Rows of the same group" }, h("span", { class: "muted" }, "Same task: rewards"),
      same.map((other) => h("button", { type: "button", "aria-current": other === row ? "true" : null, onclick: () => this.open(other) }, brief(rollouts.columns.reward[other]))));
  }
  cell(text, step) {
    const { steps } = this.detail;
    const marks = [];
    if (steps.trained && !steps.trained[step]) marks.push("untrained");
    if (steps.clipped && steps.clipped[step] > 0) marks.push("clipped");
    if (steps.kind[step] !== "own") marks.push("other");
    const special = text.replace(/\n/g, "⏎\n").replace(/\t/g, "⇥");
    return h("span", { class: `step ${marks.join(" ")}`, role: "option", tabIndex: step ? -1 : 0, "data-step": step, "aria-label": `step ${step}: ${text}` }, special || "·");
  }
  paint() {
    const values = this.columns[this.by] || [];
    const scale = new Scale(this.by, values);
    this.cells.forEach((cell, step) => (cell.style.backgroundColor = scale.known ? scale.colour(values[step]) : "transparent"));
    fill(this.legend, scale.legend(), h("span", { class: "muted key" }, h("span", { class: "step clipped" }, "clipped"), h("span", { class: "step untrained" }, "not trained on")));
  }
  over(event) {
    const cell = event.target.closest("[data-step]");
    if (cell) this.inspect(+cell.dataset.step, false);
  }
  key(event) {
    const to = { ArrowRight: this.step + 1, ArrowLeft: this.step - 1, Home: 0, End: this.cells.length - 1 }[event.key];
    if (to === undefined || !this.cells[to]) return;
    event.preventDefault();
    this.inspect(to, true);
  }
  inspect(step, focus) {
    if (!this.cells[step]) return fill(this.inspector);
    this.cells.forEach((cell, n) => {
      cell.tabIndex = n === step ? 0 : -1;
      cell.classList.toggle("chosen", n === step);
      cell.setAttribute("aria-selected", n === step ? "true" : "false");
    });
    this.step = step;
    if (focus) this.cells[step].focus();
    fill(this.inspector, h("div", {}, h("dt", {}, "step"), h("dd", {}, String(step))),
      this.ordered().map((name) => h("div", {}, h("dt", { title: told(name) }, told(name)), h("dd", {}, shown(this.columns[name][step])))));
    this.lines?.forEach((line, n) => line.classList.toggle("chosen", n === step));
  }
  table() {
    const ordered = this.ordered();
    const labels = this.detail.tokens || null;
    const heads = ["step", ...(labels ? ["token"] : []), ...ordered.map(told)].map((text) => h("th", { scope: "col" }, text));
    const count = this.detail.steps.kind.length;
    const body = h("tbody");
    this.lines = [];
    const add = (limit) => {
      while (this.lines.length < Math.min(limit, count)) {
        const step = this.lines.length;
        const line = h("tr", { onclick: () => this.inspect(step, true) }, h("th", { scope: "row" }, String(step)), labels ? h("td", { class: "token" }, JSON.stringify(labels[step])) : null, ordered.map((name) => h("td", {}, shown(this.columns[name][step]))));
        this.lines.push(line);
        body.append(line);
      }
    };
    add(MOST_ROWS);
    const more = count > MOST_ROWS ? h("button", { type: "button", onclick: (e) => { add(Infinity); e.target.remove(); } }, `Show all ${count} steps`) : null;
    return h("div", { class: "scroll-x", tabIndex: 0, role: "region", "aria-label": "Table of every step" }, h("table", { class: "small" }, h("thead", {}, h("tr", {}, heads)), body), more);
  }
}
