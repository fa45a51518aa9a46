// Which rollouts, in which order. A query: words of prompt or text ("quoted" ones together), reward>0.5, length<=20,
// surprise>2, round=10, finish:truncated, run:NAME, kept:no, source:policy, task=7.

const NUMBERS = ["reward", "length", "surprise", "round", "task", "group", "row"];
const WORDS = ["finish", "run", "kept", "source"];

class Rollouts {
  constructor(data) {
    this.columns = data.rollouts;
    this.runs = data.runs;
    this.count = this.columns.run.length;
    this.hay = null;
  }
  text(row) {
    return `${this.columns.prompt[row]}\n${this.columns.text[row]}`;
  }
  word(name, row) {
    if (name === "run") return this.runs[this.columns.run[row]].name;
    if (name === "kept") return this.columns.kept[row] ? "yes" : "no";
    return this.columns[name][row];
  }
  tests(query) {
    const tests = [];
    for (const [whole, quoted] of query.matchAll(/"([^"]*)"|\S+/g)) {
      const said = quoted === undefined && /^(\w+)(>=|<=|>|<|=|:)(.+)$/.exec(whole);
      if (said && NUMBERS.includes(said[1]) && !Number.isNaN(+said[3])) tests.push(this.compare(said[1], said[2], +said[3]));
      else if (said && WORDS.includes(said[1])) tests.push((row) => this.word(said[1], row).toLowerCase().includes(said[3].toLowerCase()));
      else {
        const words = (quoted ?? whole).toLowerCase();
        this.hay ??= Array.from({ length: this.count }, (_, row) => this.text(row).toLowerCase());
        tests.push((row) => this.hay[row].includes(words));
      }
    }
    return tests;
  }
  compare(name, sign, wanted) {
    const column = this.columns[name];
    const holds = { ">": (v) => v > wanted, "<": (v) => v < wanted, ">=": (v) => v >= wanted, "<=": (v) => v <= wanted, "=": (v) => v === wanted, ":": (v) => v === wanted }[sign];
    return (row) => column[row] !== null && holds(column[row]);
  }
  find(query, by, down) {
    const tests = this.tests(query);
    const found = [];
    for (let row = 0; row < this.count; row++) if (tests.every((test) => test(row))) found.push(row);
    const key = by === "text" ? this.columns.text : by === "run" ? this.columns.run : this.columns[by];
    const sign = down ? -1 : 1;
    const order = typeof key[0] === "string" ? (a, b) => sign * key[a].localeCompare(key[b]) : (a, b) => sign * (key[a] - key[b]);
    // What is not known comes last; equal ones stay in the order of training.
    return found.sort((a, b) => (key[a] === null) - (key[b] === null) || (key[a] === null ? 0 : order(a, b)) || a - b);
  }
  group(row) {
    const c = this.columns;
    const same = [];
    for (let other = 0; other < this.count; other++)
      if (c.run[other] === c.run[row] && c.round[other] === c.round[row] && c.group[other] === c.group[row]) same.push(other);
    return same;
  }
}
