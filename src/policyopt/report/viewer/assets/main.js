// Tabs, light and dark, following a live run.

const TABS = [["curves", "Curves", Curves], ["rollouts", "Rollouts", Browser], ["episodes", "Episodes", Episodes], ["objective", "Objective", Objective]];

class Page {
  constructor(source, data) {
    this.source = source;
    this.data = data;
    this.views = {};
    const some = { episodes: data.runs.some((run) => run.episodes.length) || source.live };
    this.tabs = TABS.filter(([name]) => some[name] !== false);
    const bar = document.getElementById("tabs");
    this.buttons = this.tabs.map(([name, label]) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => this.choose(name), onkeydown: (e) => this.key(e, name) }, label));
    fill(bar, this.buttons);
    const title = data.runs.map((run) => run.name).join(", ");
    document.title = `${title} – policyopt view`;
    fill(document.getElementById("runs"), title);
    document.getElementById("theme").addEventListener("click", () => this.theme());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    const asked = location.hash.slice(1);
    this.choose(this.tabs.some(([name]) => name === asked) ? asked : data.open.tab || "curves", false);
  }
  choose(name, remember = true) {
    this.name = name;
    this.tabs.forEach(([other], n) => {
      this.buttons[n].setAttribute("aria-selected", String(other === name));
      this.buttons[n].tabIndex = other === name ? 0 : -1;
      document.getElementById(`panel-${other}`).hidden = other !== name;
    });
    const [, , View] = this.tabs.find(([other]) => other === name);
    const box = document.getElementById(`panel-${name}`);
    this.views[name] ??= new View(box, this.data, this.source);
    if (remember) history.replaceState(null, "", `#${name}`);
  }
  key(event, name) {
    const at = this.tabs.findIndex(([other]) => other === name);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const n = (to + this.tabs.length) % this.tabs.length;
    this.choose(this.tabs[n][0]);
    this.buttons[n].focus();
  }
  theme() {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    announce(`${dark ? "light" : "dark"} colours`);
    this.redraw();
  }
  // Charts are painted in the colours of their time.
  redraw() {
    for (const name of ["curves", "episodes"]) this.views[name]?.draw();
  }
  async follow() {
    let seen = this.data.version;
    const state = document.getElementById("live");
    state.hidden = false;
    for (;;) {
      await new Promise((done) => setTimeout(done, 2000));
      try {
        const { version } = await this.source.version();
        state.textContent = "live";
        if (version === seen) continue;
        this.data = await this.source.index();
        seen = this.data.version;
        for (const view of Object.values(this.views)) view.update(this.data);
        announce("new rounds");
      } catch {
        state.textContent = "the server is gone";
      }
    }
  }
}

(async () => {
  const source = document.getElementById("data-index") ? new Embedded() : new Served();
  try {
    const data = await source.index();
    window.page = new Page(source, data);
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
    if (source.live) window.page.follow();
  } catch (error) {
    document.getElementById("runs").textContent = `This page could not be read: ${error.message}`;
    throw error;
  }
})();
