"""Writes the tasks of two recipes, frames.jsonl and slides.jsonl, beside itself; equal from run to run."""

import json
import random
from pathlib import Path

HERE, COUNT = Path(__file__).parent, 1200


def frames(rng: random.Random) -> dict[str, str]:
    """Eight frames of a video, two of which show something (a capital); the answer is what, in order."""
    shown = [rng.choice("abcd") for _ in range(8)]
    places = sorted(rng.sample(range(8), 2))
    for place in places:
        shown[place] = rng.choice("VWXYZ")
    answer, salient = "".join(shown[place] for place in places), ",".join(str(place) for place in places)
    wrong = rng.random() < 0.6
    said = f"{salient}|{answer}"
    if wrong:  # another place is named, and what it shows is said
        other = sorted({places[0], rng.choice([place for place in range(8) if place not in places])})
        said = f"{','.join(map(str, other))}|{''.join(shown[place] for place in other)}"
    return {"prompt": "".join(shown) + " =", "answer": answer, "salient": salient, "demonstration": said}


def slides(rng: random.Random) -> dict[str, str]:
    """A slide of two names and speech that holds one of them, a sound of which was not heard."""
    names = ["".join(rng.choice("bdgkmnpst") + rng.choice("aeiou") for _ in range(2)) for _ in range(2)]
    name, place = rng.choice(names), rng.randrange(4)
    heard = name[:place] + "?" + name[place + 1 :]
    slide = " ".join(names)
    guess = name[:place] + rng.choice("aeiou" if place % 2 else "bdgkmnpst") + name[place + 1 :]
    said = f"{slide}|{name if rng.random() < 0.4 else guess}"
    return {"prompt": f"{slide}; {heard} =", "answer": name, "slide": slide, "demonstration": said}


for name, make in (("frames", frames), ("slides", slides)):
    rng, seen = random.Random(name), {}
    while len(seen) < COUNT:
        record = make(rng)
        seen.setdefault(record["prompt"], record)
    text = "".join(f"{json.dumps(record)}\n" for record in seen.values())
    (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")
