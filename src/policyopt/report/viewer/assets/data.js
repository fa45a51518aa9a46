// Where the data come from: embedded in the page (compressed), or a server that follows runs.

async function unpacked(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

class Embedded {
  live = false;
  index() {
    return unpacked(document.getElementById("data-index"));
  }
  chunk(number) {
    return unpacked(document.getElementById(`data-chunk-${number}`));
  }
}

class Served {
  live = true;
  async get(path) {
    const answer = await fetch(`data/${path}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  }
  index() {
    return this.get("index");
  }
  version() {
    return this.get("version");
  }
  chunk(number) {
    return this.get(`chunk/${number}`);
  }
}

// Chunks of details, the last few kept.
class Details {
  constructor(source, size) {
    this.source = source;
    this.size = size;
    this.held = new Map();
  }
  async of(rollout) {
    const number = Math.floor(rollout / this.size);
    if (!this.held.has(number)) {
      this.held.set(number, this.source.chunk(number));
      if (this.held.size > 8) this.held.delete(this.held.keys().next().value);
    }
    return (await this.held.get(number))[rollout % this.size];
  }
}
