"""The viewer's page: whole in one file, safe from what it shows, read and steered in a real browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import viewing

from policyopt.methods import load
from policyopt.options import override
from policyopt.report.objective_stamp import stamp
from policyopt.report.viewer import Server, collect, page, write_page
from policyopt.report.viewer.collect import CHUNK, difference
from policyopt.runtime.folder import RunFolder, write_json
from policyopt.runtime.journal import Journal

BROWSER = viewing.find_browser()
in_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser: none of {viewing.BROWSERS} is on the PATH (apt-get install chromium)"
)


# -- what is in the file -------------------------------------------------------------------------------------------
def embedded(text: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/octet-stream" id="data-([\w-]+)">([A-Za-z0-9+/=]+)</script>', text)
    return {name: json.loads(gzip.decompress(base64.b64decode(data))) for name, data in found}


def test_the_page_holds_every_rollout_and_no_text_of_a_model_as_markup(tmp_path: Path) -> None:
    folder = viewing.make_run(tmp_path / "one", rollouts=CHUNK + 5)
    text = page(collect([folder]))
    data = embedded(text)
    assert [len(data[f"chunk-{n}"]) for n in range(2)] == [CHUNK, 5]
    records = [json.loads(line) for line in folder.samples.read_bytes().splitlines()]
    columns = data["index"]["rollouts"]
    assert columns["text"] == [record["answer"] for record in records]
    assert columns["surprise"] == [record["surprise"] for record in records]
    details = [*data["chunk-0"], *data["chunk-1"]]
    assert [detail["steps"] for detail in details] == [record["steps"] for record in records]
    # Four inline scripts: three of data, one of code; none of them from a text.
    assert text.count("<script") == text.count("</script>") == 4
    assert "hacked" not in text
    assert page(collect([folder])) == text, "equal runs make equal pages"


def test_scripts_and_styles_run_by_their_digest_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = page(collect([viewing.make_run(tmp_path / "one", 3)]))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    for kind, content in (
        ("style", re.search(r"<style>(.*?)</style>", text, re.S)[1]),
        ("script", re.search(r"<script>(.*?)</script>", text, re.S)[1]),
    ):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)


def test_our_scripts_never_write_markup() -> None:
    assets = Path(collect.__code__.co_filename).parent / "assets"
    for path in assets.glob("*.js"):
        if path.name != "uplot.min.js":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text())


def test_runs_that_are_still_written_or_lack_files_are_shown(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "empty", "name: empty\n", "loss\n")
    with folder.samples.open("wb") as file:
        file.write(b'{"step": 0, "prompt": "of a version without steps"}\n{"step": 1, "ste')
    found = collect([folder])
    assert found.index["rollouts"]["run"] == []
    assert found.index["runs"][0]["metrics"] == {}
    assert embedded(page(found))["index"]["runs"][0]["objective"] == "loss\n"


def test_names_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    folders = [viewing.make_run(tmp_path / where / "run", 1) for where in ("a", "b")]
    assert [run["name"] for run in collect(folders).index["runs"]] == ["a/run", "b/run"]


def test_the_difference_of_objectives_is_that_of_their_lines() -> None:
    found = difference("a\nb\nc\n", "a\nB\nc\nd\n")
    assert [line for line in found if line[0] in "+-"] == [("-", "b"), ("+", "B"), ("+", "d")]
    assert difference("a\n", "a\n") == []


def test_the_command_writes_a_page_and_prints_the_difference(tmp_path: Path, command: Any) -> None:
    one, two = (viewing.make_run(tmp_path / name, 2, objective=f"same\nclip {name}\n") for name in ("one", "two"))
    called = command("view", one.path)
    assert called.code == 0, called.err
    assert (one.path / "view.html").is_file()
    assert "1 run, 2 rollouts" in called.out
    both = command("view", one.path, two.path, "--diff", "--output", tmp_path / "both.html")
    assert both.code == 0, both.err
    assert "- clip one" in both.out
    assert "+ clip two" in both.out
    index = embedded((tmp_path / "both.html").read_text())["index"]
    assert index["open"] == {"tab": "objective", "first": 0, "second": 1}
    for wrong, said in (
        (("view", tmp_path / "none"), "no run"),
        (("view", one.path, "--diff"), "two"),
        (("view", one.path, "--serve", "--output", "x.html"), "--output"),
    ):
        refused = command(*wrong)
        assert refused.code == 2
        assert said in refused.err


def test_stages_are_compared_slot_by_slot_where_runs_have_stored_them(tmp_path: Path, command: Any) -> None:
    one, two = (viewing.make_run(tmp_path / name, 1, objective=f"{name}\n") for name in ("one", "two"))
    for folder, clip in ((one, 0.2), (two, 0.3)):
        method = override(load("grpo"), {"objective.clip_high": clip})
        write_json(folder.path / "objective.json", {"stages": [stamp(load("sft")), stamp(method)]})
    first, second = collect([one, two]).index["differences"]["0,1"]["stages"]
    assert first == []
    (change,) = second
    assert (change["slot"], change["vital"]) == ("objective.policy", True)
    assert ("clip_high=0.2" in change["before"], "clip_high=0.3" in change["after"]) == (True, True)
    called = command("view", one.path, two.path, "--diff", "--output", tmp_path / "both.html")
    assert f"objective.policy: {change['before']} -> {change['after']}" in called.out
    assert "stage 1 of 2: no difference" in called.out


# -- the server ----------------------------------------------------------------------------------------------------
@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, RunFolder]]:
    folder = viewing.make_run(tmp_path / "live", 10, rounds=5)
    with Server([folder]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, folder
        finally:
            server.shutdown()
            thread.join()


def ask(server: Server, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_port}", "Connection": "close"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, gzip.decompress(content) if answer.getheader("Content-Encoding") == "gzip" else content


def test_the_server_answers_this_machine_alone_and_knows_no_files(served: tuple[Server, RunFolder]) -> None:
    server, _ = served
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/")[0] == 200
    assert json.loads(ask(server, "/data/chunk/0")[1])[3]["tokens"]
    for path in ("/data/chunk/1", "/data/chunk/-1", "/data/chunk/x", "/../recipe.yaml", "/recipe.yaml", "/data/"):
        assert ask(server, path)[0] == 404, path
    assert ask(server, "/", host="evil.example")[0] == 403
    before = json.loads(ask(server, "/data/index")[1])
    viewing.add_rounds(served[1], 5, 7, random.Random(0))
    assert json.loads(ask(server, "/data/version")[1])["version"] != before["version"]
    assert json.loads(ask(server, "/data/index")[1])["runs"][0]["metrics"]["step"] == list(range(7))


# -- in a browser --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    assert BROWSER is not None
    with viewing.browser(BROWSER) as started:
        yield started


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    one = viewing.make_run(base / "one", 40, objective="loss\nclip 0.2\nend\n")
    name = viewing.HOSTILE[2].replace("/", "|")[:40]
    two = viewing.make_run(base / name, 10, seed=1, objective="loss\nclip 0.3\nend\n")
    viewing.add_episode(one)
    viewing.add_alarm(one, [{"prompt": viewing.HOSTILE[0], "answer": viewing.HOSTILE[1], "reward": 0.5}])
    samples = Journal(two.samples)
    base_record = viewing.record(0, random.Random(0), 4, "")
    for extra in (
        {"points": [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [2.0, -1.0]]},
        {"images": [[0, viewing.PIXEL], [3, 'https://example.org/"><script>window.hacked=6</script>']]},
    ):
        kept = {name: value for name, value in base_record.items() if name not in ("tokens", "prompt", "answer")}
        samples.append(30, {**kept, **extra, "reward": 5.0 + len(extra)})
    samples.close()
    write_page(collect([one, two]), base / "view.html")
    return base / "view.html"


@pytest.fixture
def opened(chromium: Any, two_runs: Path) -> Iterator[viewing.Opened]:
    found = viewing.Opened(chromium, two_runs.as_uri(), color_scheme="light")
    yield found
    assert found.errors == []
    assert found.page.evaluate("window.hacked") is None
    assert all(url.startswith(("file:", "data:", "blob:")) for url in found.requests)
    found.page.close()


@in_browser
def test_curves_are_chosen_smoothed_and_read_by_the_keyboard(opened: viewing.Opened, tmp_path: Path) -> None:
    page = opened.page
    assert opened.texts(".card h3") == ["reward", "loss/policy"]
    assert opened.texts(".alarms summary") == ["one, round 3: entropy fell (0.0125)"]
    page.click(".alarms summary")
    assert page.inner_text(".alarms pre").splitlines() == [*viewing.HOSTILE[:2], "reward 0.5"]
    assert page.locator(".card canvas").count() == 2
    page.get_by_label(viewing.HOSTILE[0]).check()
    assert opened.texts(".card h3")[2] == viewing.HOSTILE[0]
    plot = page.locator(".card").nth(0).locator(".plot")
    plot.focus()
    for key in ("Home", "ArrowRight"):
        page.keyboard.press(key)
    said = page.locator(".card").nth(0).locator(".readout").inner_text()
    metrics = Path(page.url.removeprefix("file://")).parent / "one" / "metrics.jsonl"
    first = json.loads(metrics.read_text().splitlines()[1])
    assert said.startswith("round 1")
    assert f"one {first['reward']:.5g}" in said
    page.get_by_label("Logarithmic scale").check()
    page.select_option("aside select", "seconds")
    page.locator("aside input[type=range]").fill("0.9")
    page.wait_for_timeout(150)
    page.locator("aside input[type=checkbox]").nth(1).uncheck()
    page.locator(".card details summary").first.click()
    rows = opened.texts(".card >> nth=0 >> tbody tr")
    assert len(rows) == 1
    assert rows[0].startswith("one")
    page.screenshot(path=tmp_path / "curves.png")


@in_browser
def test_rollouts_are_searched_sorted_and_shown_as_they_are(opened: viewing.Opened, tmp_path: Path) -> None:
    page = opened.page
    opened.tab("rollouts")
    assert opened.texts(".list .muted") == ["52 of 52"]
    page.click(".c-reward button")
    assert page.get_attribute(".c-reward", "aria-sort") == "descending"
    rewards = [float(text.replace("−", "-")) for text in opened.texts(".line .c-reward")]
    assert rewards == sorted(rewards, reverse=True)
    page.click(".c-reward button")
    assert page.get_attribute(".c-reward", "aria-sort") == "ascending"
    page.fill("#query", "reward>0.5 length<=8 run:one zebra3")
    wanted = [n for n in range(40) if n * 37 % 101 > 50 and 3 + n % 9 <= 8 and n % 4 and n % 10 == 3]
    assert opened.texts(".list .muted") == [f"{len(wanted)} of 52"]
    assert sorted(opened.texts(".line .c-text")) == sorted(f"answer {n} zebra3" for n in wanted)
    page.fill("#query", '"</script><script>" run:one')
    page.locator(".detail pre.text", has_text=viewing.HOSTILE[1]).wait_for()
    assert page.inner_text(".tokens .step >> nth=0") == viewing.HOSTILE[1]
    page.fill("#query", "nothing has this text")
    page.locator(".detail", has_text="No rollout is found").wait_for()
    page.screenshot(path=tmp_path / "none.png")


@in_browser
def test_the_keyboard_walks_rows_and_steps_to_exact_numbers(opened: viewing.Opened, tmp_path: Path) -> None:
    page = opened.page
    opened.tab("rollouts")
    page.fill("#query", "run:one zebra")
    page.focus(".rows")
    first = opened.chosen()
    page.keyboard.press("ArrowDown")
    second = opened.chosen()
    assert first != second
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert opened.chosen() == first
    assert page.get_attribute(".rows", "aria-activedescendant") == "rollout-0"
    number = int(first.split()[1])
    samples = Path(page.url.removeprefix("file://").split("#")[0]).parent / "one" / "samples.jsonl"
    steps = json.loads(samples.read_bytes().splitlines()[number])["steps"]
    page.locator(".tokens .step", has_text=first).wait_for()
    # From the list by Tab alone: rows of the group, the choice of colours, then the steps.
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.step") == "0":
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.step") == "2"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is visible"
    facts = opened.facts()
    assert facts["step"] == "2"
    for name, label in (("ratio", "ratio"), ("advantage", "advantage"), ("entropy", "entropy"), ("kl", "KL")):
        assert float(facts[label].replace("−", "-")) == pytest.approx(steps[name][2], rel=1e-4)
    assert page.locator("tr.chosen th").inner_text() == "2"
    page.screenshot(path=tmp_path / "steps.png")


@in_browser
def test_steps_are_coloured_by_what_is_asked(opened: viewing.Opened, tmp_path: Path) -> None:
    page = opened.page
    opened.tab("rollouts")
    page.fill("#query", '"answer 6 zebra6" round=3')
    page.locator(".tokens .step", has_text="answer 6 zebra6").wait_for()
    samples = Path(page.url.removeprefix("file://").split("#")[0]).parent / "one" / "samples.jsonl"
    steps = json.loads(samples.read_bytes().splitlines()[6])["steps"]
    classes = page.eval_on_selector_all(".tokens .step", "all => all.map(e => e.className)")
    assert ["clipped" in name for name in classes] == [value > 0 for value in steps["clipped"]]
    assert ["untrained" in name for name in classes] == [not value for value in steps["trained"]]

    def colours() -> list[str]:
        return page.eval_on_selector_all(".tokens .step", "all => all.map(e => e.style.backgroundColor)")

    page.select_option("#colour", "ratio")
    found = colours()
    for ratio, colour in zip(steps["ratio"], found, strict=True):
        assert ("--above" if ratio >= 1 else "--below") in colour
    farthest = max(range(len(found)), key=lambda n: abs(steps["ratio"][n] - 1))
    assert "70%" in found[farthest]
    page.select_option("#colour", "trained")
    assert ["70%" in colour for colour in colours()] == [bool(value) for value in steps["trained"]]
    page.screenshot(path=tmp_path / "colours.png")


@in_browser
def test_chains_and_episodes_are_shown_and_nothing_is_fetched(opened: viewing.Opened, tmp_path: Path) -> None:
    page = opened.page
    opened.tab("rollouts")
    page.fill("#query", "round=30")
    page.wait_for_selector(".cloud circle")
    assert page.locator(".cloud circle").count() == 4
    page.focus(".rows")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".strip img")
    sources = page.eval_on_selector_all(".strip img", "all => all.map(e => e.getAttribute('src'))")
    assert sources == [viewing.PIXEL, ""], "a picture from elsewhere is not loaded"
    opened.tab("episodes")
    assert page.get_attribute(".frame", "alt") == "frame at step 0"
    page.focus(".player input")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".frame", "alt") == "frame at step 2"
    assert opened.facts(".player .inspector") == {"reward": "0.5", "action": "0", "observation": "2, −2"}
    page.screenshot(path=tmp_path / "episodes.png")


@in_browser
def test_objectives_are_compared_and_colours_switched(opened: viewing.Opened, tmp_path: Path) -> None:
    page = opened.page
    page.focus("#tab-curves")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#tab-objective", "aria-selected") == "true"
    assert page.inner_text(".code >> nth=0").splitlines() == ["loss", "clip 0.2", "end"]
    page.select_option("#panel-objective select >> nth=1", "1")
    assert opened.texts(".diff.removed") == ["−\nclip 0.2"]
    assert opened.texts(".diff.added") == ["+\nclip 0.3"]
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.screenshot(path=tmp_path / "objective.png")


@in_browser
def test_colours_follow_the_system(chromium: Any, two_runs: Path) -> None:
    shades = []
    for scheme in ("light", "dark"):
        found = viewing.Opened(chromium, two_runs.as_uri(), color_scheme=scheme)
        shade = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades.append(sum(int(part) for part in re.findall(r"\d+", shade)[:3]))
        found.page.close()
    assert shades[0] > 600 > 150 > shades[1]


@in_browser
def test_ten_thousand_rollouts_draw_only_what_is_seen(chromium: Any, tmp_path: Path) -> None:
    folder = viewing.make_run(tmp_path / "many", 40, rounds=100)
    few = [json.loads(line) for line in folder.samples.read_bytes().splitlines()]
    with folder.samples.open("w") as file:
        for n in range(10_000):
            told = {"answer": f"answer {n} zebra{n % 10}", "reward": (n * 37 % 101) / 100, "step": n // 100}
            file.write(json.dumps({**few[n % 40], **told}) + "\n")
    write_page(collect([folder]), tmp_path / "many.html")
    found = viewing.Opened(chromium, (tmp_path / "many.html").as_uri())
    found.tab("rollouts")
    assert found.texts(".list .muted") == ["10,000 of 10,000"]
    assert found.page.locator(".line").count() < 60
    found.page.focus(".rows")
    found.page.keyboard.press("End")
    assert found.page.get_attribute(".rows", "aria-activedescendant") == "rollout-9999"
    found.page.locator(".detail h2", has_text="round 0").wait_for()
    found.page.fill("#query", "zebra7 reward>=0.9")
    wanted = sum(n % 10 == 7 and n * 37 % 101 >= 90 for n in range(10_000))
    assert found.texts(".list .muted") == [f"{wanted} of 10,000"]
    assert found.page.locator(".line").count() < 60
    assert found.errors == []
    found.page.close()


@in_browser
def test_a_live_run_is_followed(chromium: Any, served: tuple[Server, RunFolder]) -> None:
    server, folder = served
    found = viewing.Opened(chromium, server.url)
    found.page.wait_for_selector("#live:not([hidden])")
    found.tab("rollouts")
    assert found.texts(".list .muted") == ["10 of 10"]
    samples = Journal(folder.samples)
    samples.append(6, viewing.record(10, random.Random(0), 4, "the newest answer"))
    samples.close()
    viewing.add_rounds(folder, 5, 7, random.Random(1))
    found.page.get_by_text("11 of 11").wait_for(timeout=60_000)
    assert "the newest answer" in found.texts(".line .c-text")
    found.tab("curves")
    found.page.wait_for_selector(".card canvas")
    assert "to" in found.page.get_attribute(".plot >> nth=0", "aria-label")
    assert found.errors == []
    found.page.close()
