// The list of rollouts beside the one that is looked at.

const COLUMNS = [["run", "run"], ["round", "round"], ["reward", "reward"], ["length", "length"], ["surprise", "surprise"], ["finish", "end"], ["text", "text"]];
const PAGE = 20;

class Browser {
  constructor(box, data, source) {
    this.source = source;
    this.by = "round";
    this.down = true;
    this.at = 0;
    this.query = h("input", { type: "search", id: "query", placeholder: 'Search text, or reward>0.5 finish:truncated "two words"', "aria-label": "Search rollouts", oninput: () => this.search() });
    this.counted = h("span", { class: "muted", role: "status" });
    this.heads = h("div", { class: "heads", role: "row" });
    this.rows = h("div", { class: "rows", role: "rowgroup", tabIndex: 0, "aria-label": "Rollouts; arrow keys choose", onkeydown: (e) => this.key(e) });
    this.table = h("div", { class: "grid", role: "grid", "aria-label": "Rollouts" }, this.heads, this.rows);
    this.detail = h("section", { class: "detail", "aria-label": "Rollout" });
    fill(box, h("div", { class: "list" }, h("div", { class: "bar" }, this.query, this.counted), this.table), this.detail);
    this.list = new VirtualList(this.rows, 30, (row) => this.row(row));
    this.steps = new Steps(this.detail, (row) => this.open(row));
    this.update(data);
  }
  update(data) {
    this.data = data;
    this.rollouts = new Rollouts(data);
    this.details = new Details(this.source, data.chunk);
    this.head();
    this.search(false);
  }
  head() {
    fill(this.heads, COLUMNS.map(([name, label]) => {
      const sorted = this.by === name;
      return h("div", { role: "columnheader", class: `c-${name}`, "aria-sort": sorted ? (this.down ? "descending" : "ascending") : "none" },
        h("button", { type: "button", onclick: () => this.sort(name) }, label, h("span", { "aria-hidden": "true" }, sorted ? (this.down ? " ↓" : " ↑") : "")));
    }));
  }
  sort(name) {
    this.down = this.by === name ? !this.down : name !== "text";
    this.by = name;
    this.head();
    [...this.heads.querySelectorAll("button")][COLUMNS.findIndex((c) => c[0] === name)].focus();
    this.search();
  }
  search(anew = true) {
    const began = performance.now();
    const kept = this.found && this.found[this.at];
    this.found = this.rollouts.find(this.query.value, this.by, this.down);
    this.took = performance.now() - began;
    this.counted.textContent = `${this.found.length.toLocaleString("en")} of ${this.rollouts.count.toLocaleString("en")}`;
    this.table.setAttribute("aria-rowcount", this.found.length + 1);
    this.at = anew ? 0 : Math.max(0, this.found.indexOf(kept));
    if (anew) this.rows.scrollTop = 0;
    this.list.reset(this.found.length);
    this.choose(this.at);
  }
  row(at) {
    const c = this.data.rollouts;
    const row = this.found[at];
    const text = c.text[row] || c.prompt[row];
    const cells = {
      run: [swatch(c.run[row]), this.data.runs[c.run[row]].name],
      round: shown(c.round[row]),
      reward: brief(c.reward[row]),
      length: shown(c.length[row]),
      surprise: brief(c.surprise[row]),
      finish: c.finish[row],
      text: text.slice(0, 160).replace(/\s+/g, " "),
    };
    return h("div", { role: "row", id: `rollout-${at}`, class: c.kept[row] ? "line" : "line left-out", "aria-rowindex": at + 2, "aria-selected": at === this.at ? "true" : "false", onclick: () => { this.choose(at); this.rows.focus({ preventScroll: true }); } },
      COLUMNS.map(([name]) => h("div", { role: "gridcell", class: `c-${name}` }, cells[name])));
  }
  key(event) {
    const last = this.found.length - 1;
    const to = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + PAGE, PageUp: this.at - PAGE, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.choose(Math.max(0, Math.min(last, to)));
  }
  choose(at) {
    this.at = at;
    this.list.reveal(at);
    if (this.found.length) this.rows.setAttribute("aria-activedescendant", `rollout-${at}`);
    else this.rows.removeAttribute("aria-activedescendant");
    this.show();
  }
  // Another one by its number, also if the search does not find it.
  open(row) {
    let at = this.found.indexOf(row);
    if (at < 0) {
      this.query.value = "";
      this.search();
      at = this.found.indexOf(row);
    }
    this.choose(at);
  }
  // A key that is held down passes over rows; the last one is shown.
  show() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.read(), 30);
  }
  async read() {
    const row = this.found[this.at];
    this.wanted = row;
    if (row === undefined) return this.steps.nothing();
    const detail = await this.details.of(row);
    if (this.wanted === row) this.steps.show(this.data, this.rollouts, row, detail);
  }
}
