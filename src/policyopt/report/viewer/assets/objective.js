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
    const lines = found.lines.map(([sign, text]) => {
      const said = turned ? { "+": "-", "-": "+" }[sign] || sign : sign;
      const name = { "+": "added", "-": "removed", "@": "place", " ": "same" }[said];
      return h("div", { class: `diff ${name}` }, h("span", { "aria-hidden": "true" }, { "-": "−", "@": "" }[said] ?? said), h("span", {}, said === "@" ? "⋯" : text));
    });
    const text = h("div", { class: "code", tabIndex: 0, role: "region", "aria-label": "Difference of the printed objectives" }, lines);
    const slots = found.stages.some((stage) => stage.length);
    fill(this.body, h("p", { class: "muted" }, h("span", { class: "diff-key removed" }, `− ${run.name}`), " ", h("span", { class: "diff-key added" }, `+ ${other.name}`)),
      lines.length ? null : h("p", { class: "empty" }, "Their printed objectives are the same, word for word."),
      found.stages.map((stage, n) => this.stage(stage, n, found.stages.length, turned)),
      lines.length ? (slots ? h("details", {}, h("summary", {}, "As printed"), text) : text) : null);
  }
  // Slot by slot: what is minimised first, then how rows come about and steps are taken.
  stage(changes, n, count, turned) {
    const name = count > 1 ? `Stage ${n + 1} of ${count}` : "What differs";
    if (!changes.length) return h("section", { class: "stage" }, h("h3", {}, name), h("p", { class: "muted" }, "No difference."));
    const rows = changes.map((change) => {
      const [left, right] = turned ? [change.after, change.before] : [change.before, change.after];
      return h("tr", { class: change.vital ? "vital" : null }, h("th", { scope: "row" }, change.slot), h("td", {}, h("span", { class: "diff-key removed" }, left)), h("td", {}, h("span", { class: "diff-key added" }, right)), h("td", {}, change.vital ? "what is minimised" : "how"));
    });
    const heads = ["slot", this.data.runs[this.first].name, this.data.runs[this.second].name, "says"].map((text) => h("th", { scope: "col" }, text));
    return h("section", { class: "stage" }, h("h3", {}, name), h("div", { class: "scroll-x", tabIndex: 0, role: "region", "aria-label": name }, h("table", { class: "small slots" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))));
  }
}
