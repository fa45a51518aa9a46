// Line charts (uPlot) with our colours, a cursor that the keyboard moves, and a readout of the exact numbers.

function lineChart(box, { title, x, xLabel, series, height = 210, log = false, group, marks = [] }) {
  const grid = { stroke: css("--line"), width: 1 };
  const axis = { stroke: css("--muted"), grid, ticks: { stroke: css("--line"), width: 1 }, font: "11px system-ui" };
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const options = {
    width: Math.max(240, box.clientWidth),
    height,
    padding: [10, 8, 0, 0],
    legend: { show: false },
    scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
    cursor: { points: { size: 6 }, drag: { x: true, y: false }, ...(group ? { sync: { key: group } } : {}) },
    axes: [{ ...axis, size: 30 }, { ...axis, size: 58, values: (_, ticks) => ticks.map(short) }],
    series: [{}, ...series.map((s) => ({ label: s.label, stroke: s.colour, width: s.width || 1.5, dash: s.dash, alpha: s.alpha, spanGaps: true, points: { show: x.length < 3 } }))],
    hooks: {
      setCursor: [(plot) => write(plot)],
      draw: [(plot) => marks.forEach((at) => mark(plot, at))],
    },
  };
  function write(plot) {
    const at = plot.cursor.idx;
    if (at === null || at === undefined) return readout.replaceChildren();
    const parts = [`${xLabel} ${shown(x[at])}`];
    series.forEach((s) => s.told !== false && s.values[at] !== null && s.values[at] !== undefined && parts.push(`${s.label} ${shown((s.exact || s.values)[at])}`));
    readout.textContent = parts.join("  ·  ");
  }
  function mark(plot, at) {
    const px = plot.valToPos(at, "x", true);
    if (!(px > plot.bbox.left)) return;
    plot.ctx.save();
    plot.ctx.strokeStyle = css("--muted");
    plot.ctx.setLineDash([4, 4]);
    plot.ctx.beginPath();
    plot.ctx.moveTo(px, plot.bbox.top);
    plot.ctx.lineTo(px, plot.bbox.top + plot.bbox.height);
    plot.ctx.stroke();
    plot.ctx.restore();
  }
  const values = log ? series.map((s) => s.values.map((v) => (v > 0 ? v : null))) : series.map((s) => s.values);
  const frame = h("div", { class: "plot", tabIndex: 0, role: "img", "aria-label": `${title}: ${summary(series)}. Arrow keys read single values.` });
  box.append(frame, readout);
  const plot = new uPlot(options, [x, ...values], frame);
  frame.addEventListener("keydown", (event) => {
    const last = x.length - 1;
    const now = plot.cursor.idx ?? -1;
    const to = { ArrowRight: Math.min(last, now + 1), ArrowLeft: Math.max(0, now - 1), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const y = values.find((v) => v[to] !== null && v[to] !== undefined);
    plot.setCursor({ left: plot.valToPos(x[to], "x"), top: y ? plot.valToPos(y[to], "y") : 0 });
  });
  new ResizeObserver(() => {
    const width = Math.floor(box.clientWidth);
    if (width > 100 && Math.abs(width - plot.width) > 2) plot.setSize({ width, height });
  }).observe(box);
  return plot;
}

// As the labels of an axis, whose ticks have few digits.
function short(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  const text = size && (size >= 1e5 || size < 1e-3) ? (+value.toPrecision(3)).toExponential() : String(+value.toPrecision(6));
  return text.replaceAll("-", "−").replace("e+", "e");
}

function summary(series) {
  return series
    .filter((s) => s.told !== false)
    .map((s) => {
      const values = (s.exact || s.values).filter((v) => v !== null && v !== undefined);
      return `${s.label} from ${shown(values[0])} to ${shown(values[values.length - 1])}`;
    })
    .join("; ");
}

// Exponential mean, corrected for its start.
function smoothed(values, share) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return null;
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return mean / weight;
  });
}
