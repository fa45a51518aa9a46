// What only some policies can show: images along a chain, points in the plane, episodes with frames.

function scene(detail) {
  if (detail.images) return strip(detail.images);
  if (detail.points && Array.isArray(detail.points[0]) && detail.points[0].length >= 2) return cloud(detail.points);
  return null;
}

function strip(images) {
  return h("section", {}, h("h3", {}, "Along the chain"),
    h("div", { class: "strip", tabIndex: 0, role: "region", "aria-label": "Images along the chain" },
      images.map(([step, source]) => h("figure", {}, h("img", { src: safe(source), alt: `sample after step ${step}` }), h("figcaption", {}, `step ${step}`)))));
}

// Only pictures that are data: nothing is ever fetched.
function safe(source) {
  return /^data:image\/(png|jpeg);base64,[A-Za-z0-9+/=]+$/.test(source) ? source : "";
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function cloud(points) {
  const reach = Math.max(1e-9, ...points.flatMap((p) => [Math.abs(p[0]), Math.abs(p[1])])) * 1.1;
  const place = ([x, y]) => [150 + (130 * x) / reach, 150 - (130 * y) / reach];
  const path = points.map((p) => place(p).map((v) => v.toFixed(1)).join(",")).join(" ");
  const title = svg("title", {});
  title.textContent = `the sample after each of ${points.length} steps, axes from ${shown(-reach)} to ${shown(reach)}`;
  const dots = points.map((p, step) => {
    const [cx, cy] = place(p);
    const note = svg("title", {});
    note.textContent = `step ${step}: ${shown(p)}`;
    return svg("circle", { cx, cy, r: step === points.length - 1 ? 5 : 2.5, class: step === points.length - 1 ? "last" : "" }, note);
  });
  return h("section", {}, h("h3", {}, "Along the chain"),
    svg("svg", { viewBox: "0 0 300 300", class: "cloud", role: "img" }, title, svg("line", { x1: 10, x2: 290, y1: 150, y2: 150 }), svg("line", { y1: 10, y2: 290, x1: 150, x2: 150 }), svg("polyline", { points: path }), ...dots));
}

// Held-out episodes step by step, with frames where the environment renders.
class Episodes {
  constructor(box, data) {
    this.box = box;
    this.at = 0;
    this.update(data);
  }
  update(data) {
    this.all = data.runs.flatMap((run, index) => (run.episodes || []).map((episode, n) => ({ ...episode, run: index, name: `${run.name}: episode ${n}, return ${shown(episode.return)}` })));
    this.draw();
  }
  draw() {
    clearInterval(this.timer);
    if (!this.all.length) return fill(this.box, h("p", { class: "empty" }, "These runs have kept no episodes. Train with evaluation.film=3 to see some."));
    const episode = this.all[this.at] || this.all[0];
    const select = h("select", { "aria-label": "Episode", onchange: (e) => { this.at = +e.target.value; this.draw(); } }, this.all.map((each, n) => h("option", { value: n, selected: n === this.at }, each.name)));
    const charts = h("div", { class: "cards" });
    const facts = [["return", episode.return], ["length", episode.length], ["end", episode.finish]];
    fill(this.box, h("div", { class: "bar" }, select, h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown(value)))))),
      h("div", { class: "film" }, episode.frames.length ? this.film(episode) : h("p", { class: "empty" }, "The environment was not drawn."), charts), this.table(episode));
    const steps = episode.rewards.map((_, step) => step);
    const line = (title, lists) => {
      const box = h("div", { class: "chart" });
      charts.append(h("article", { class: "card" }, h("h3", {}, title), box));
      const series = lists.map((values, n) => ({ label: lists.length > 1 ? `${title} ${n}` : title, colour: runColour(n), values }));
      lineChart(box, { title, x: steps, xLabel: "step", series, height: 150, group: "episode" });
    };
    const parts = (rows) => rows[0].map((_, n) => rows.slice(0, steps.length).map((row) => row[n]));
    line("reward", [episode.rewards]);
    line("action", parts(episode.actions));
    line("observation", parts(episode.observations));
  }
  film(episode) {
    const image = h("img", { alt: "frame", class: "frame" });
    const said = h("output", {});
    const numbers = h("dl", { class: "inspector" });
    const show = (n) => {
      image.src = safe(episode.frames[n][1]);
      image.alt = `frame at step ${episode.frames[n][0]}`;
      const step = episode.frames[n][0];
      said.textContent = `step ${step}`;
      fill(numbers, [["reward", episode.rewards[step]], ["action", episode.actions[step]], ["observation", episode.observations[step]]].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown(value)))));
    };
    const slider = h("input", { type: "range", min: 0, max: episode.frames.length - 1, value: 0, "aria-label": "Frame", oninput: (e) => show(+e.target.value) });
    const play = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
      const on = play.getAttribute("aria-pressed") !== "true";
      play.setAttribute("aria-pressed", String(on));
      play.textContent = on ? "Pause" : "Play";
      clearInterval(this.timer);
      if (on) this.timer = setInterval(() => { slider.value = (+slider.value + 1) % episode.frames.length; show(+slider.value); }, 100);
    } }, "Play");
    show(0);
    return h("div", { class: "player" }, image, h("div", { class: "bar" }, play, slider, said), numbers);
  }
  table(episode) {
    const names = ["reward", ...episode.actions[0].map((_, n) => `action ${n}`), ...episode.observations[0].map((_, n) => `observation ${n}`)];
    const rows = episode.rewards.slice(0, MOST_ROWS).map((reward, step) => h("tr", {}, h("th", { scope: "row" }, String(step)), [reward, ...episode.actions[step], ...episode.observations[step]].map((v) => h("td", {}, shown(v)))));
    return h("details", {}, h("summary", {}, `Every step${episode.length > MOST_ROWS ? ` (the first ${MOST_ROWS})` : ""}`),
      h("div", { class: "scroll-x", tabIndex: 0, role: "region", "aria-label": "Table of every step" }, h("table", { class: "small" }, h("thead", {}, h("tr", {}, ["step", ...names].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows))));
  }
}
