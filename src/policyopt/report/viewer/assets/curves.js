// Curves of any runs side by side.

const FIRST = ["return", "reward", "loss/likelihood", "loss/preference", "loss/distillation", "loss/matching", "kl/kl", "reference_kl", "entropy", "length", "gradient_norm/policy", "policy/clipped", "policy/kl_old", "loss/policy"];

class Curves {
  constructor(box, data) {
    this.box = box;
    this.controls = h("aside", { class: "side", "aria-label": "What is drawn" });
    this.cards = h("div", { class: "cards" });
    this.alarms = h("section", { class: "alarms", "aria-label": "Alarms" });
    fill(box, this.controls, h("div", { class: "drawn" }, this.alarms, this.cards));
    this.smoothing = 0;
    this.log = false;
    this.axis = "round";
    this.hidden = new Set();
    this.metrics = null;
    this.update(data);
  }
  update(data) {
    this.data = data;
    const names = new Set(data.runs.flatMap((run) => Object.keys(run.metrics)));
    ["step", "stage"].forEach((name) => names.delete(name));
    this.names = [...names].sort();
    if (!this.metrics) {
      const wanted = FIRST.filter((name) => names.has(name));
      this.metrics = new Set((wanted.length ? wanted : this.names).slice(0, 6));
    }
    this.side();
    this.warn();
    this.draw();
  }
  // What the run itself found wrong.
  warn() {
    const found = this.data.runs.flatMap((run, index) => run.alarms.map((alarm) => ({ ...alarm, run, index })));
    this.alarms.hidden = !found.length;
    fill(this.alarms, h("h2", {}, found.length === 1 ? "1 alarm" : `${found.length} alarms`), found.slice(0, 50).map((alarm) => {
      const rows = alarm.rows.filter((row) => row.answer !== null);
      return h("details", {}, h("summary", {}, swatch(alarm.index), `${alarm.run.name}, round ${alarm.round}: ${alarm.name} (${shown(alarm.value)})`),
        h("p", {}, alarm.remedy),
        rows.map((row) => h("pre", { class: "text" }, `${row.prompt ?? ""}\n${row.answer}\nreward ${shown(row.reward)}`)));
    }));
  }
  side() {
    const runs = this.data.runs.map((run, index) =>
      h("label", { class: "tick" },
        h("input", { type: "checkbox", checked: !this.hidden.has(index), onchange: (e) => this.toggle(this.hidden, index, !e.target.checked) }),
        swatch(index), h("span", { title: run.path }, run.name)));
    const list = h("div", { class: "ticks scroll" });
    const filter = h("input", { type: "search", placeholder: "Find a metric", "aria-label": "Find a metric", oninput: () => some() });
    const some = () =>
      fill(list, this.names.filter((name) => name.includes(filter.value.trim())).map((name) =>
        h("label", { class: "tick" },
          h("input", { type: "checkbox", checked: this.metrics.has(name), onchange: (e) => this.toggle(this.metrics, name, e.target.checked) }),
          h("span", {}, name))));
    some();
    const axes = ["round", ...["seconds", "tokens", "samples"].filter((name) => this.data.runs.some((run) => run.axes[name]))];
    const output = h("output", {}, String(this.smoothing));
    fill(this.controls,
      h("section", {}, h("h2", {}, "Runs"), h("div", { class: "ticks" }, runs)),
      h("section", {}, h("h2", {}, "View"),
        h("label", { class: "field" }, h("span", {}, "Smoothing ", output),
          h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: this.smoothing, oninput: (e) => { this.smoothing = +e.target.value; output.textContent = e.target.value; this.later(); } })),
        h("label", { class: "field" }, h("span", {}, "Horizontal"),
          h("select", { onchange: (e) => { this.axis = e.target.value; this.draw(); } }, axes.map((name) => h("option", { selected: name === this.axis }, name)))),
        h("label", { class: "tick" }, h("input", { type: "checkbox", checked: this.log, onchange: (e) => { this.log = e.target.checked; this.draw(); } }), h("span", {}, "Logarithmic scale"))),
      h("section", { class: "grow" }, h("h2", {}, "Metrics"), filter, list));
  }
  toggle(set, item, on) {
    if (on) set.add(item);
    else set.delete(item);
    this.draw();
  }
  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.draw(), 60);
  }
  draw() {
    const top = scrollY;
    (this.plots || []).forEach((plot) => plot.destroy());
    this.plots = [];
    const chosen = this.names.filter((name) => this.metrics.has(name)).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
    fill(this.cards, chosen.length ? [] : h("p", { class: "empty" }, "Choose metrics at the left."));
    for (const name of chosen) this.card(name);
    scrollTo(0, top);
  }
  card(name) {
    const box = h("div", { class: "chart" });
    const card = h("article", { class: "card" }, h("h3", {}, name), box);
    this.cards.append(card);
    const lines = this.data.runs
      .map((run, index) => ({ run, index, values: run.metrics[name], at: this.axis === "round" ? run.metrics.step : run.axes[this.axis] }))
      .filter((line) => line.values && line.at && !this.hidden.has(line.index));
    if (!lines.length) return box.append(h("p", { class: "empty" }, "None of the chosen runs has it."));
    const tables = lines.map((line) => known(line.at, line.values.map(number)));
    const joined = uPlot.join(tables);
    const series = [];
    lines.forEach((line, n) => {
      const exact = joined[n + 1];
      const base = { label: line.run.name, colour: runColour(line.index), exact };
      if (this.smoothing > 0) {
        series.push({ ...base, values: exact, alpha: 0.25, width: 1, told: false });
        series.push({ ...base, values: smoothed(exact, this.smoothing), width: 2 });
      } else series.push({ ...base, values: exact });
    });
    const starts = this.axis === "round" ? [...new Set(lines.flatMap((line) => line.run.starts))] : [];
    this.plots.push(lineChart(box, { title: name, x: joined[0], xLabel: this.axis, series, log: this.log, group: "curves", marks: starts }));
    box.append(numbers(lines));
  }
}

// Where a metric has a value; others (of another stage) take no room.
function known(at, values) {
  const where = values.map((_, n) => n).filter((n) => Number.isFinite(values[n]));
  return [where.map((n) => at[n]), where.map((n) => values[n])];
}

function rank(name) {
  const at = FIRST.indexOf(name);
  return at < 0 ? FIRST.length : at;
}

function numbers(lines) {
  const rows = lines.map((line) => {
    const values = line.values.map(number).filter((v) => Number.isFinite(v));
    const mean = values.slice(-10).reduce((a, b) => a + b, 0) / Math.min(10, values.length);
    const cells = [values[0], values[values.length - 1], mean, Math.min(...values), Math.max(...values)];
    return h("tr", {}, h("th", { scope: "row" }, swatch(line.index), line.run.name), cells.map((v) => h("td", {}, shown(v))));
  });
  const heads = ["run", "first", "last", "last 10", "least", "most"].map((text) => h("th", { scope: "col" }, text));
  return h("details", {}, h("summary", {}, "Numbers"), h("table", { class: "small" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)));
}
