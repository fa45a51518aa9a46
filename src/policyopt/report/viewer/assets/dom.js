// Elements, numbers as text, lists that only draw what is seen. Text of models is only ever set as text.

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in { value: 1, checked: 1, disabled: 1, selected: 1, tabIndex: 1 }) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

function number(value) {
  return value === "inf" ? Infinity : value === "-inf" ? -Infinity : value === "nan" ? NaN : value;
}

// At most five significant digits, as they are recorded.
function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(shown).join(", ");
  const x = number(value);
  if (typeof x !== "number") return String(value);
  if (Number.isInteger(x) || !Number.isFinite(x)) return String(x).replace("-", "−");
  const size = Math.abs(x);
  const text = size >= 1e5 || size < 1e-3 ? x.toExponential(3) : String(+x.toPrecision(5));
  return text.replace("-", "−");
}

// In lists, where there is room for three.
function brief(value) {
  return typeof value === "number" && !Number.isInteger(value) ? shown(+value.toPrecision(3)).replace(/\.?0+e/, "e") : shown(value);
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function announce(text) {
  document.getElementById("announced").textContent = text;
}

// Distinguishable without red and green; other shades in the dark.
const COLOURS = 8;
function runColour(index) {
  return css(`--run-${index % COLOURS}`);
}

function swatch(index) {
  const mark = h("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.background = `var(--run-${index % COLOURS})`;
  return mark;
}

// A scrolling list of `count` rows of one height; make(row) draws one.
class VirtualList {
  constructor(box, height, make) {
    this.box = box;
    this.height = height;
    this.make = make;
    this.count = 0;
    this.space = h("div", { class: "space", role: "presentation" });
    box.append(this.space);
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(box);
  }
  reset(count) {
    this.count = count;
    this.space.style.height = `${count * this.height}px`;
    this.draw(true);
  }
  draw(anew = false) {
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 6);
    const last = Math.min(this.count, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + 6);
    if (!anew && first === this.first && last === this.last) return;
    this.first = first;
    this.last = last;
    const rows = [];
    for (let row = first; row < last; row++) {
      const element = this.make(row);
      element.style.top = `${row * this.height}px`;
      rows.push(element);
    }
    this.space.replaceChildren(...rows);
  }
  reveal(row) {
    const top = row * this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + this.height > this.box.scrollTop + this.box.clientHeight)
      this.box.scrollTop = top + this.height - this.box.clientHeight;
    this.draw(true);
  }
}
