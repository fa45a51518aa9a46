"""Run folders without training, and a browser without a screen."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyopt.runtime.folder import RunFolder, write_json
from policyopt.runtime.journal import Journal

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '<img src="x" onerror="window.hacked = 3">',
    "<!-- ${window.hacked = 4} <![CDATA[ &lt;b&gt; \u202e \udc80 \x00 ",
    "' onmouseover='window.hacked = 5' x='",
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def find_browser() -> str | None:
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def record(number: int, rng: random.Random, length: int, answer: str) -> dict[str, Any]:
    """One rollout as a run writes it; its reward is a function of its number."""
    old = [-rng.expovariate(1.0) for _ in range(length)]
    ratio = [math.exp(rng.gauss(0, 0.2)) for _ in range(length)]
    advantage = (number % 7 - 3) / 2
    steps = {
        "kind": ["own"] * length,
        "trained": [int(step != 1) for step in range(length)],
        "behaviour": old,
        "old": old,
        "policy": [o + math.log(r) for o, r in zip(old, ratio, strict=True)],
        "ratio": ratio,
        "clipped": [float((r - 1) * advantage > 0.2 * abs(advantage)) for r in ratio],
        "advantage": [advantage] * length,
        "kl": [r - 1 - math.log(r) for r in ratio],
        "entropy": [rng.random() for _ in range(length)],
        "weight": [1 / (8 * length)] * length,
        "reward": [0.0] * (length - 1) + [(number * 37 % 101) / 100],
    }
    words = [f"{answer[:12]}{step}" if step else answer for step in range(length)]
    return {
        "row": number % 8, "task": number // 8, "group": number // 8, "source": "policy",
        "finish": "truncated" if number % 5 == 0 else "stopped", "reward": (number * 37 % 101) / 100,
        "length": length, "surprise": -sum(old) / length, "kept": number % 11 != 0, "totals": {},
        "prompt": f"prompt {number}: {answer}", "answer": answer, "tokens": words, "steps": steps,
    }  # fmt: skip


def make_run(path: Path, rollouts: int = 40, rounds: int = 20, seed: int = 0, objective: str = "a\n") -> RunFolder:
    """A run that never was, with everything a page can show."""
    folder, rng = RunFolder.create(path, f"name: {path.name}\n", objective), random.Random(seed)
    add_rounds(folder, 0, rounds, rng)
    samples = Journal(folder.samples)
    for number in range(rollouts):
        answer = HOSTILE[number % len(HOSTILE)] if number % 4 == 0 else f"answer {number} zebra{number % 10}"
        samples.append(number * rounds // rollouts, record(number, rng, 3 + number % 9, answer))
    samples.close()
    return folder


def add_rounds(folder: RunFolder, first: int, last: int, rng: random.Random) -> None:
    metrics, timing = Journal(folder.metrics), Journal(folder.timing)
    for step in range(first, last):
        values = {"reward": step / 10 + rng.random(), "loss/policy": -1 / (1 + step), "stage": float(step // 10)}
        if step % 2:
            values[HOSTILE[0]] = math.nan if step == 3 else 10.0**step
        metrics.append(step, values)
        timing.append(step, {"seconds": 0.5, "steps_per_second": 100.0})
    metrics.close()
    timing.close()


def add_alarm(folder: RunFolder, rows: list[dict[str, Any]]) -> None:
    alarms = Journal(folder.alarms)
    alarms.append(3, {"name": "entropy fell", "value": 0.0125, "remedy": "Lower the learning rate", "rows": rows})
    alarms.close()


def add_episode(folder: RunFolder, length: int = 6) -> None:
    made = {
        "return": 3.5, "length": length, "finish": "stopped",
        "observations": [[float(step), -float(step)] for step in range(length + 1)],
        "actions": [[step % 2] for step in range(length)], "rewards": [0.5] * length,
        "frames": [[step, PIXEL] for step in range(0, length + 1, 2)],
    }  # fmt: skip
    write_json(folder.results / "episodes.json", {"task": "drawn", "episodes": [made]})


@contextmanager
def browser(path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        started = player.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


class Opened:
    """A page, and what went wrong on it."""

    def __init__(self, browser: Any, url: str, **options: Any):
        self.page = browser.new_page(viewport={"width": 1360, "height": 860}, **options)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]", timeout=60_000)

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def tab(self, name: str) -> None:
        self.page.click(f"#tab-{name}")

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def facts(self, where: str = ".inspector") -> Mapping[str, str]:
        return dict(zip(self.texts(f"{where} dt"), self.texts(f"{where} dd"), strict=True))

    def chosen(self) -> str:
        return self.page.inner_text('.line[aria-selected="true"] .c-text')
