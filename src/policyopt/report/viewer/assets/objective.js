// The executed objective, and how those of two runs differ.

class Objective {
  constructor(box, data) {
    this.box = box;
    this.first = data.open.first ?? 0;
    this.second = data.open.second ?? null;
    this.update(data);
  }
  update(data) {
    this.data = data;
    const options = (chosen, none) => [none ? h("option", { value: "" }, "nothing") : null, ...data.runs.map((run, n) => h("option", { value: n, selected: n === chosen }, run.name))];
    const pick = (label, chosen, none, set) => h("label", {}, `${label} `, h("select", { onchange: (e) => { set(e.target.value === "" ? null : +e.target.value); this.draw(); } }, options(chosen, none)));
    this.body = h("div");
    fill(this.box, h("div", { class: "bar" }, pick("Objective of", this.first, false, (n) => (this.first = n)), data.runs.length > 1 ? pick("compared with", this.second, true, (n) => (this.second = n)) : null), this.body);
    this.draw();
  }
  draw() {
    const run = this.data.runs[this.first];
    if (this.second === null || this.second === this.first)
      return fill(this.body, h("pre", { class: "code", tabIndex: 0 }, run.objective), h("details", {}, h("summary", {}, "Recipe, every default written out"), h("pre", { class: "code", tabIndex: 0 }, run.recipe)));
    const turned = this.first > this.second;
    const found = this.data.differences[[this.first, this.second].sort((a, b) => a - b).join(",")];
    const other = this.data.runs[this.second];
    const lines = found.map(([sign, text]) => {
      const said = turned ? { "+": "-", "-": "+" }[sign] || sign : sign;
      const name = { "+": "added", "-": "removed", "@": "place", " ": "same" }[said];
      return h("div", { class: `diff ${name}` }, h("span", { "aria-hidden": "true" }, said === "-" ? "−" : said), h("span", {}, text));
    });
    const same = h("p", { class: "empty" }, "Their objectives are the same, word for word.");
    fill(this.body, h("p", { class: "muted" }, h("span", { class: "diff-key removed" }, `− ${run.name}`), " ", h("span", { class: "diff-key added" }, `+ ${other.name}`)), lines.length ? h("div", { class: "code", tabIndex: 0, role: "region", "aria-label": "Difference" }, lines) : same);
  }
}
