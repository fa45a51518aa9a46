"""How long the viewer takes with many rollouts, in headless Chromium.

    python benchmarks/viewer.py [--rollouts 10000] [--steps 64] [--repeats 5]

Makes a run folder of random rollouts (13 columns a step), writes its page and opens it from disk. Prints medians, and
the least and the most, of: opening the page until its curves stand, opening the list, sorting it, searching it, going
through it by 100 presses of a key, and showing another rollout; and the processor's time that writing the page took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from policyopt.report.viewer import collect, write_page
from policyopt.runtime.folder import RunFolder

COLUMNS = (
    "behaviour",
    "old",
    "policy",
    "reference",
    "ratio",
    "clipped",
    "kl",
    "entropy",
    "advantage",
    "weight",
    "reward",
)
WORDS = ("so", "the", "answer", "is", "seven", "plus", "nine", "we", "carry", "one", "wait", "check", "again", "hence")

# Until the browser has painted twice: the first frame may have begun before the change.
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def make(path: Path, rollouts: int, steps: int) -> RunFolder:
    """A run folder with random numbers in it; lengths are between half of `steps` and `steps`."""
    folder, rng = RunFolder.create(path, "name: many\n", "loss\n"), np.random.default_rng(0)
    with folder.metrics.open("w") as file:
        for step in range(500):
            values = dict(zip(("reward", "entropy", "length", "kl/kl"), rng.random(4).round(5).tolist(), strict=True))
            file.write(json.dumps({**values, "step": step}) + "\n")
    with folder.samples.open("w") as file:
        for n in range(rollouts):
            length = int(rng.integers(steps // 2, steps + 1))
            tokens = [f" {WORDS[i]}" for i in rng.integers(len(WORDS), size=length)]
            table: dict[str, Any] = {name: rng.normal(size=length).round(5).tolist() for name in COLUMNS}
            table |= {"kind": ["own"] * length, "trained": [1] * length}
            row = {
                "step": n * 500 // rollouts, "row": n % 8, "task": n // 8, "group": n // 8, "source": "policy",
                "finish": "stopped", "reward": round(float(rng.random()), 5), "length": length, "kept": True,
                "surprise": round(float(rng.exponential()), 5), "prompt": f"What is {n} + {n % 97}?",
                "answer": "".join(tokens) + f" {n + n % 97}", "tokens": tokens, "totals": {}, "steps": table,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return folder


def timed(times: dict[str, list[float]], name: str, act: Callable[[], Any]) -> None:
    began = time.perf_counter()
    act()
    times.setdefault(name, []).append(time.perf_counter() - began)


def measure(browser: Any, page_file: Path, times: dict[str, list[float]]) -> None:
    page = browser.new_page(viewport={"width": 1360, "height": 860})

    def settled(act: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (act(), page.evaluate(PAINTED))

    def opened() -> None:
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=120_000)

    timed(times, "open the page", settled(opened))
    timed(times, "open the list", settled(lambda: page.click("#tab-rollouts")))
    page.locator(".tokens .step").first.wait_for()
    timed(times, "sort by reward", settled(lambda: page.click(".c-reward button")))
    timed(times, "sort by text", settled(lambda: page.click(".c-text button")))
    timed(times, "search words, first", settled(lambda: page.fill("#query", '"carry one"')))
    timed(times, "search words, again", settled(lambda: page.fill("#query", '"hence the" reward>0.5')))
    page.fill("#query", "")
    page.focus(".rows")
    timed(times, "100 presses of ArrowDown", settled(lambda: [page.keyboard.press("ArrowDown") for _ in range(100)]))

    def another() -> None:
        page.keyboard.press("End")
        page.locator(".detail h2", has_text=page.inner_text('.line[aria-selected="true"] .c-round')).wait_for()

    timed(times, "show the last rollout", settled(another))
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as base, sync_playwright() as player:
        folder, page_file = make(Path(base) / "many", given.rollouts, given.steps), Path(base) / "many.html"
        began = time.process_time()
        write_page(collect([folder]), page_file)
        written = time.process_time() - began
        held, shown = (path.stat().st_size / 1e6 for path in (folder.samples, page_file))
        print(f"{given.rollouts:,} rollouts of up to {given.steps} steps; samples {held:.0f} MB, page {shown:.0f} MB")
        print(f"reading the run and writing the page: {written:.1f} s of the processor")
        browser = player.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        print(f"Chromium {browser.version}, {given.repeats} repeats; median [least, most] in ms")
        for _ in range(given.repeats):
            measure(browser, page_file, times)
        browser.close()
    for name, values in times.items():
        ms = [1000 * value for value in values]
        print(f"  {name:26s} {statistics.median(ms):8.0f}  [{min(ms):.0f}, {max(ms):.0f}]")


if __name__ == "__main__":
    main()
