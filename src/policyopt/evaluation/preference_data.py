"""What a preference set is like before anything is trained on it: sizes, length bias, ties, duplicates, contradictions,
leakage, answers that are cut, empty or weakly preferred; each with a remedy where it is alarming."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy  # its submodules are loaded where they are first used

from policyopt.evaluation.statistics import Interval, proportion_interval
from policyopt.worlds.preference_records import LABEL, STRENGTH
from policyopt.worlds.tasks import Candidate, Entry

Length = Callable[[str], int]


@dataclass(frozen=True)
class Measure:
    """One number of a set. of: of what it is a share (`share`), or its unit. remedy: what to do, "" if it is not
    alarming."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    share: bool = False
    of: str = ""
    remedy: str = ""

    @property
    def key(self) -> str:
        """The name in JSON."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def record(self) -> dict[str, Any]:
        """JSON data."""
        interval = {} if self.low is None else {"interval": [_plain(self.low), _plain(self.high)]}
        return {
            "value": _plain(self.value),
            **interval,
            **({"of": self.of} if self.of else {}),
            **({"remedy": self.remedy} if self.remedy else {}),
        }


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


@dataclass(frozen=True)
class Asked:
    """length: of a text, in `unit`. limit: units that an answer may have, its end included; None: no limit.
    held_out: what the trained policy will be evaluated on."""

    length: Length = len
    unit: str = "characters"
    limit: int | None = None
    held_out: Sequence[Entry] = ()


def measures(entries: Sequence[Entry], asked: Asked | None = None) -> list[Measure]:
    """All measures that a set has a meaning for, in the order of a report. ValueError: there are no preferences."""
    asked = asked or Asked()
    entries = [entry for entry in entries if entry.candidates]
    if not entries:
        raise ValueError("there are no preferences to measure: no record has pairs, ranked answers or labels")
    compared = [pair for entry in entries for pair in comparisons(entry)]
    return [
        *_counts(entries, compared),
        *_length_bias(entries, asked),
        *_ties(entries),
        *_duplicates(entries),
        *_leakage(entries, asked.held_out),
        *_sizes(entries, asked),
        *_strengths(entries),
    ]


def comparisons(entry: Entry) -> list[tuple[Candidate, Candidate]]:
    """(better, worse) of every two answers of a record; in a list of more than two only those whose labels differ."""
    several = entry.candidates
    if len(several) < 3:
        return list(combinations(several, 2))
    return [(one, other) for one, other in combinations(several, 2) if one.worth != other.worth]


def _count(name: str, value: int, of: str = "", remedy: str = "") -> Measure:
    return Measure(name, value, of=of, remedy=remedy)


def _share(name: str, hits: int, trials: int, of: str, remedy: str = "", above: float = 0.0) -> Measure:
    """A share with its interval; the remedy counts above a level."""
    found = proportion_interval(hits, trials)
    return Measure(name, found.estimate, found.low, found.high, True, of, remedy if found.estimate > above else "")


# -- sizes -------------------------------------------------------------------------------------------------------------
def _counts(entries: Sequence[Entry], compared: Sequence[Any]) -> list[Measure]:
    sizes = Counter(len(entry.candidates) for entry in entries)
    prompts = len({entry.key for entry in entries})
    found = [_count("records", len(entries)), _count("prompts", prompts)]
    if max(sizes) > 2:
        found.append(_count("longest list", max(sizes)))
    if max(sizes) > 1:
        few = "too few for an interval of a few percent; collect more" if len(compared) < 100 else ""
        return [*found, _count("compared pairs", len(compared), remedy=few)]
    good = sum(entry.candidates[0].rank == 0 for entry in entries)
    ratio = good / max(len(entries) - good, 1)
    uneven = f"weigh them, objective.bad = {ratio:.3g} x objective.good, or balance the set"
    return [*found, _share("good answers", good, len(entries), "answers", "" if 0.5 <= ratio <= 2 else uneven)]


def _sizes(entries: Sequence[Entry], asked: Asked) -> list[Measure]:
    answers = [candidate.text for entry in entries for candidate in entry.candidates]
    lengths = np.array([asked.length(text) for text in answers])
    found = [
        Measure("mean answer", float(lengths.mean()), of=asked.unit),
        Measure("longest answer", int(lengths.max()), of=asked.unit),
    ]
    if asked.limit is not None:
        over = int((lengths + 1 > asked.limit).sum())
        longer = f"raise tasks.limit above {int(lengths.max())} or drop them: the policy could never write them"
        of = f"answers, {asked.limit} {asked.unit}"
        found.append(_share("longer than the limit", over, len(answers), of, longer, 0.01))
    empty = sum(not text.strip() for text in answers)
    found.append(_share("empty answers", empty, len(answers), "answers", "remove those records or mend the reader"))
    return [*found, *_repeated_prompts(entries)]


def _repeated_prompts(entries: Sequence[Entry]) -> list[Measure]:
    """Answers in front of which the prompt stands once more, where it is long enough to be no accident."""
    plain = [(entry.prompt.strip(), entry) for entry in entries if entry.prompt and len(entry.prompt.strip()) >= SHORT]
    pairs = [(prompt, answer.text.lstrip()) for prompt, entry in plain for answer in entry.candidates]
    if not pairs:
        return []
    twice = sum(text.startswith(prompt) for prompt, text in pairs)
    told = "leave 'prompt' out, or cut it off the answers: the policy would read it and write it again"
    return [_share("answers that begin with their prompt", twice, len(pairs), "answers to plain prompts", told)]


# -- length ------------------------------------------------------------------------------------------------------------
def _length_bias(entries: Sequence[Entry], asked: Asked) -> list[Measure]:
    """Of compared answers: how often the better one is longer, and by how much; and how length goes with the label."""
    gaps = [[asked.length(b.text) - asked.length(w.text) for b, w in comparisons(entry)] for entry in entries]
    by_record = [np.array(gap) for gap in gaps if gap]
    found = []
    if by_record:
        longer, difference = _longer(by_record), mean_of([float(gap.mean()) for gap in by_record])
        told = "use losses by means over tokens (dpo:simpo, dpo:ipo_mean), match lengths, or watch lengths in training"
        if longer is not None:
            biased = abs(longer.estimate - 0.5) > 0.1 and not longer.low <= 0.5 <= longer.high
            of = "pairs of unequal length"
            found.append(
                Measure("better is longer", longer.estimate, longer.low, longer.high, True, of, told if biased else "")
            )
        of = f"{asked.unit}, better - worse"
        found.append(Measure("length difference", difference.estimate, difference.low, difference.high, of=of))
    return [*found, Measure("correlation of length and label", _correlation(entries, asked.length))]


def _longer(by_record: Sequence[np.ndarray]) -> Interval | None:
    """The share of better answers that are longer; None if all are equally long. Records of several comparisons count
    as one, with a share."""
    unequal = [gap[gap != 0] for gap in by_record]
    shares = [float((gap > 0).mean()) for gap in unequal if len(gap)]
    if not shares:
        return None
    if all(len(gap) <= 1 for gap in unequal):
        return proportion_interval(int(sum(shares)), len(shares))
    return mean_of(shares)


def mean_of(values: Sequence[float]) -> Interval:
    """The mean with its 95 % Student interval; infinitely wide for a single value."""
    sample = np.asarray(values, dtype=np.float64)
    centre, count = float(sample.mean()), sample.size
    if count < 2:
        return Interval(centre, -math.inf, math.inf, 0.95)
    half = float(scipy.stats.t.ppf(0.975, count - 1)) * float(sample.std(ddof=1)) / math.sqrt(count)
    return Interval(centre, centre - half, centre + half, 0.95)


def _correlation(entries: Sequence[Entry], length: Length) -> float:
    """Pearson's, of length and label, of compared answers after taking off the record's means. nan: one is constant."""
    lengths, labels = [], []
    for entry in entries:
        here = np.array([length(candidate.text) for candidate in entry.candidates], dtype=np.float64)
        last = max(len(here) - 1, 1)
        said = np.array([candidate.numbers.get(LABEL, 1 - candidate.rank / last) for candidate in entry.candidates])
        several = len(here) > 1
        lengths.extend(here - here.mean() if several else here)
        labels.extend(said - said.mean() if several else said)
    if np.ptp(lengths) == 0 or np.ptp(labels) == 0:
        return math.nan
    return float(np.corrcoef(lengths, labels)[0, 1])


# -- ties, duplicates, contradictions ----------------------------------------------------------------------------------
def _ties(entries: Sequence[Entry]) -> list[Measure]:
    several = [entry for entry in entries if len(entry.candidates) > 1]
    if not several:
        return []
    pairs = [pair for entry in several for pair in combinations(entry.candidates, 2)]
    same = sum(one.text == other.text and one.start == other.start for one, other in pairs)
    found = [_share("equal texts", same, len(pairs), "pairs", "remove them: they teach nothing but forgetting")]
    scored = [(b.numbers[LABEL], w.numbers[LABEL]) for b, w in pairs if LABEL in b.numbers and LABEL in w.numbers]
    if scored:
        equal, against = (sum(test(b, w) for b, w in scored) for test in (float.__eq__, float.__lt__))
        tied = "drop ties, or use a loss that weighs by gaps (lipo_lambda, pro)"
        turned = "the scores say the opposite of the pair: see which of them is right"
        found.append(_share("equal labels", equal, len(scored), "scored pairs", tied, 0.05))
        found.append(_share("better has the lower score", against, len(scored), "scored pairs", turned))
    return found


def _duplicates(entries: Sequence[Entry]) -> list[Measure]:
    count = len(entries)
    whole = Counter(map(_record, entries))
    again = count - len(whole)
    prompts = Counter(entry.key for entry in entries)
    shared = sum(times for times in prompts.values() if times > 1)
    most = prompts.most_common(1)[0][1]
    heavy = "one prompt has many records: weigh or thin them" if most > max(10, count / 20) else ""
    return [
        _share("exact duplicates", again, count, "records", "remove them, or they count twice", 0.0),
        _share("records that share a prompt", shared, count, "records", heavy),
        *_contradictions(entries),
    ]


def _record(entry: Entry) -> tuple[Any, ...]:
    """All that a record says, to be counted."""
    return (entry.key, *((c.text, c.rank, repr(c.start), *sorted(c.numbers.items())) for c in entry.candidates))


def _contradictions(entries: Iterable[Entry]) -> list[Measure]:
    """The same two answers to a prompt, preferred one way and the other; the same answer, good and bad."""
    ways: dict[Any, set[int]] = defaultdict(set)
    for entry in entries:
        if len(entry.candidates) == 1:
            ways[entry.key, entry.candidates[0].text].add(entry.candidates[0].rank)
        for better, worse in comparisons(entry):
            if better.text != worse.text:
                first = min(better.text, worse.text)
                ways[entry.key, first, max(better.text, worse.text)].add(int(better.text != first))
    if not ways:
        return []
    both = sum(len(way) > 1 for way in ways.values())
    told = "keep the more frequent verdict, drop both, or use a loss for wrong labels (rdpo, dpo:cdpo)"
    return [_share("contradictory", both, len(ways), "distinct comparisons", told)]


# -- leakage and strengths ---------------------------------------------------------------------------------------------
def _leakage(entries: Sequence[Entry], held_out: Sequence[Entry]) -> list[Measure]:
    """Held-out prompts and answers that are trained on too, but for case and white space."""
    if not held_out:
        return []
    trained = {_folded(entry.key) for entry in entries}
    answers = {_folded(candidate.text) for entry in entries for candidate in entry.candidates} - {""}
    prompts = sum(_folded(entry.key) in trained for entry in held_out)
    texts = [_folded(candidate.text) for entry in held_out for candidate in entry.candidates]
    texts = [text for text in texts if len(text) >= LONG]
    removed = "remove them from one of both"
    found = [_share("prompts that are trained on", prompts, len(held_out), "held-out records", removed)]
    if texts:
        told = "the same answers on both sides: split by source, not by record"
        hits = sum(text in answers for text in texts)
        of = f"held-out answers of {LONG} characters or more"
        found.append(_share("answers that are trained on", hits, len(texts), of, told, 0.01))
    return found


SHORT, LONG = 8, 40  # characters from which on an equal beginning, or two equal answers, are no accident


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _strengths(entries: Sequence[Entry]) -> list[Measure]:
    """Quantiles of how strongly answers are preferred: the data's strength, or the gap of its scores."""
    gaps = []
    for entry in entries:
        for better, worse in comparisons(entry):
            if STRENGTH in better.numbers:
                gaps.append(better.numbers[STRENGTH])
            elif LABEL in better.numbers and LABEL in worse.numbers:
                gaps.append(better.numbers[LABEL] - worse.numbers[LABEL])
    if not gaps:
        return []
    named = zip((0, 25, 50, 75, 100), ("least", "25 %", "50 %", "75 %", "largest"), strict=True)
    found = [Measure(f"strength, {name}", float(np.percentile(gaps, at))) for at, name in named]
    negative = sum(gap < 0 for gap in gaps)
    weak = "a quarter of the pairs is hardly preferred: select by strength or ask more annotators"
    if found[-1].value > 0 and found[1].value < 0.05 * found[-1].value:
        found[1] = Measure(found[1].name, found[1].value, remedy=weak)
    told = "a margin below 0 asks for the opposite: see what the field means"
    return [*found, _share("strengths below 0", negative, len(gaps), "pairs", told)]
