"""Cases of parts that denoising methods brought: several rewards, histories of tasks, extremes of groups."""

import functools

import reference_formulas as ref
from vector_cases import case
from vector_losses import CLIP, step_cases
from vector_rows import FIVE, GROUPS


def bounded(values, bound):
    return [max(-bound, min(bound, v)) for v in values]


def over(mask, values):
    """A number per row on its counted steps."""
    return [[v if m else 0.0 for m in row] for v, row in zip(values, mask, strict=True)]


def at_start(mask, values):
    """A number per row on its first counted step."""
    return [
        [v if m and not any(row[:t]) else 0.0 for t, m in enumerate(row)] for v, row in zip(values, mask, strict=True)
    ]


def standardised_cases():
    """Another column of rewards, another of advantages, and a bound."""
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        known = scored or [1] * 5
        advantage = bounded(ref.standardised(rewards, group, known, 1e-6, 1), 0.6)
        column = [[r / sum(row) if m else 0.0 for m in row] for r, row in zip(rewards, FIVE, strict=True)]
        inputs = {"reward:style": column, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
        options = {"bound": 0.6, "reward": "reward:style", "advantage": "advantage:style"}
        expect = {"advantage:style": over(FIVE, advantage)}
        made.append(case("credit", "group_standardised", f"{name}, by name, bounded", inputs, expect, options=options))
        options = {"names": ["style"], "epsilon": 1e-6, "ddof": 1, "bound": 0.6}
        made.append(case("credit", "per_head", f"{name}, one head", inputs, expect, options=options))
    group = GROUPS["ragged groups"][0]
    first, second = [1.0, 0.0, 0.5, 2.0, -1.0], [100.0, 300.0, 50.0, 0.0, 7.0]
    on_first, on_second = (at_start(FIVE, rewards) for rewards in (first, second))
    inputs = {"reward:a": on_first, "reward:b": on_second, "group": group, "mask": FIVE}
    expect = {
        f"advantage:{name}": over(FIVE, ref.standardised(rewards, group, [1] * 5, 1e-8, 1))
        for name, rewards in (("a", first), ("b", second))
    }
    options = {"names": ["a", "b"]}
    return [*made, case("credit", "per_head", "two heads of different scale", inputs, expect, options=options)]


def moments(pool, ddof):
    mean = sum(pool) / len(pool)
    if len(pool) <= ddof or len(set(pool)) == 1:
        return mean, 0.0
    return mean, (sum((x - mean) ** 2 for x in pool) / (len(pool) - ddof)) ** 0.5


def history_cases():
    made = []
    past = {"0": [[9.0], [0.5, 1.5], [0.0]], "7": [[2.0, 2.0]]}
    for name, task, scored, options in (
        ("no history", [0, 0, 0, 1, 1], None, {"past": 0, "epsilon": 0.0}),
        ("the last two rounds", [0, 0, 0, 7, 7], None, {"past": 2}),
        ("divided by n, bounded", [0, 0, 7, 7, 1], None, {"ddof": 0, "bound": 0.9, "epsilon": 0.1}),
        ("few rewards: those of the round", [0, 0, 7, 1, 1], None, {"fewest": 4}),
        ("an unscored row", [0, 0, 0, 7, 7], [1, 0, 1, 1, 0], {"past": 8}),
    ):
        rewards, known = [1.0, 0.0, 0.25, 2.0, -1.0], scored or [1] * 5
        advantage = []
        for b in range(5):
            rounds = past.get(str(task[b]), [])
            keep = options.get("past", 8)
            pool = [rewards[c] for c in range(5) if task[c] == task[b] and known[c]]
            pool += [x for held in rounds[max(0, len(rounds) - keep) :] for x in held]
            if len(pool) < options.get("fewest", 1):
                pool = [rewards[c] for c in range(5) if known[c]]
            mean, std = moments(pool, options.get("ddof", 1)) if known[b] else (0.0, 0.0)
            value = (rewards[b] - mean) / (std + options.get("epsilon", 1e-8)) if std else 0.0
            advantage += bounded([value], options.get("bound", 1e9))
        inputs = {"rewards": rewards, "group": task, "mask": FIVE, **({"scored": scored} if scored else {})}
        inputs["cells"] = {"rewards by task": past}
        expect = {"advantages": over(FIVE, advantage)}
        made.append(case("credit", "task_standardised", name, inputs, expect, options=options))
    for name, options in (
        ("both signs", {"positive": 2.0, "negative": 0.5}),
        ("as they are", {}),
        ("good rows only", {"negative": 0.0}),
    ):
        advantage = [1.5, -0.5, 0.0, -2.0, 0.25]
        factors = [options.get("positive", 1.0) if a > 0 else options.get("negative", 1.0) for a in advantage]
        expect = {"advantages": over(FIVE, [a * f for a, f in zip(advantage, factors, strict=True)])}
        inputs = {"advantages": advantage, "mask": FIVE}
        made.append(case("credit", "sign_weighted", name, inputs, expect, **({"options": options} if options else {})))
    return made


EIGHT = [[1, 1], [1, 0], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1]]


def extreme_cases():
    made = []
    group = [0, 1, 0, 1, 0, 1, 0, 0]
    advantage = [0.9, -0.2, -1.4, 0.2, 0.9, 0.0, -0.1, -0.3]
    for name, scored, options in (
        ("two of each group", None, {"keep": 2}),
        ("a small group entirely", None, {"keep": 4}),
        ("an unscored row is never kept", [0, 1, 1, 1, 1, 1, 1, 1], {"keep": 2}),
        ("by the sum of two columns", None, {"keep": 2, "weights": {"advantage:a": 1.0, "advantage:b": -2.0}}),
    ):
        known, weights = scored or [1] * 8, options.get("weights")
        score, inputs = advantage, {"advantages": advantage}
        if weights:
            other = [0.0, 0.3, -0.8, 0.1, 0.9, -0.4, 0.2, 0.0]
            score = [x - 2 * y for x, y in zip(advantage, other, strict=True)]
            inputs = {"advantage:a": over(EIGHT, advantage), "advantage:b": over(EIGHT, other)}
        kept = []
        for one in (0, 1):
            rows = [b for b in range(8) if group[b] == one and known[b]]
            order = sorted(rows, key=lambda b, score=score: -score[b])
            half = options["keep"] // 2
            kept += order if len(order) <= options["keep"] else order[:half] + order[-half:]
        inputs |= {"group": group, "mask": EIGHT, **({"scored": scored} if scored else {})}
        made.append(case("selection", "best_and_worst", name, inputs, {"kept": sorted(kept)}, options=options))
    for name, scored, options in (
        ("clear ones of each group", None, {}),
        ("higher demands", None, {"high": 1.0, "low": -1.5}),
        ("none dropped in doubt", None, {"high": 0.0, "low": 0.0}),
        ("an unscored row is never kept", [0, 1, 0, 1, 1, 1, 1, 1], {}),
    ):
        known, high, low = scored or [1] * 8, options.get("high", 0.5), options.get("low", -0.5)
        kept = set()
        for one in (0, 1):
            rows = [b for b in range(8) if group[b] == one and known[b]]
            best, worst = max(rows, key=lambda b: advantage[b]), min(rows, key=lambda b: advantage[b])
            kept |= ({best} if advantage[best] >= high else set()) | ({worst} if advantage[worst] < low else set())
        inputs = {"advantages": advantage, "group": group, "mask": EIGHT, **({"scored": scored} if scored else {})}
        more = {"options": options} if options else {}
        made.append(case("selection", "clear_extremes", name, inputs, {"kept": sorted(kept)}, **more))
    return made


def surrogate_cases():
    """Advantages of one head."""
    ranges = {**{name: span for name, span in CLIP.items() if name != "advantages"}, "advantage:a": CLIP["advantages"]}
    return step_cases("objective", "clipped_surrogate", ref.clipped_surrogate, ranges, {"advantage": "advantage:a"})


def clamped(logp, old, advantage, clip):
    """FIND: no minimum, so a ratio outside the range has no gradient for either sign."""
    ratio = ref.exp(logp - old)
    inside = 1 - clip <= ratio <= 1 + clip
    return -advantage * max(1 - clip, min(1 + clip, ratio)), -advantage * ratio if inside else 0.0


def clamped_cases():
    made = []
    for clip in (0.2, 0.6):
        options = {} if clip == 0.2 else {"clip": clip}
        formula = functools.partial(clamped, clip=clip)
        made += step_cases("objective", "clamped_surrogate", formula, CLIP, options)
    return made


def share_cases():
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        for options in ({}, {"bound": 1.0, "epsilon": 0.0, "ddof": 1, "least": 0.4}):
            known = scored or [1] * 5
            advantage = ref.standardised(rewards, group, known, options.get("epsilon", 1e-4), options.get("ddof", 0))
            span, least = 2 * options.get("bound", 5.0), options.get("least", 0.0)
            share = [max(least, min(1.0, a / span + 0.5)) for a in advantage]
            inputs = {"rewards": rewards, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
            more = {"options": options} if options else {}
            label = f"{name}{' (narrow)' if options else ''}"
            made.append(case("credit", "good_share", label, inputs, {"share": share}, **more))
    group, rewards = [0, 0, 1, 1, 2, 2, 3, 3], [0.95, 1.0, 0.4, 0.42, 0.1, 0.9, 0.85, 1.0]
    for name, options in (
        ("either drops a group", {}),
        ("both together drop a group", {"lenient": True}),
        ("other levels", {"spread": 0.005, "most": 0.99}),
    ):
        spread, most = options.get("spread", 0.05), options.get("most", 0.9)
        kept = []
        for b in range(8):
            held = [r for r, g in zip(rewards, group, strict=True) if g == group[b]]
            mean, std = moments(held, 0)
            differ, unsolved = std > spread, mean < most
            kept += [b] if (differ or unsolved if options.get("lenient") else differ and unsolved) else []
        inputs, more = {"rewards": rewards, "group": group, "mask": EIGHT}, {"options": options} if options else {}
        made.append(case("selection", "unsolved_groups", name, inputs, {"kept": kept}, **more))
    return made


def flat_cases():
    made = []
    group, rewards = [0, 0, 1, 1, 2], [0.5, 0.5 + 5e-7, 0.2, 0.9, 3.0]
    advantage = [1.0, -1.0, -0.7, 0.7, 0.25]
    for name, scored, options in (
        ("equal rewards", None, {}),
        ("equal rewards keep themselves", None, {"raw": True}),
        ("a wider tolerance", None, {"tolerance": 0.8}),
        ("an unscored row keeps its advantage", [1, 1, 0, 1, 1], {"raw": True}),
    ):
        known, expect = scored or [1] * 5, []
        for b in range(5):
            held = [r for r, g, k in zip(rewards, group, known, strict=True) if g == group[b] and k]
            flat = known[b] and max(held) - min(held) <= options.get("tolerance", 1e-6)
            expect.append((rewards[b] if options.get("raw") else 0.0) if flat else advantage[b])
        inputs = {"rewards": rewards, "advantages": advantage, "group": group, "mask": FIVE}
        inputs |= {"scored": scored} if scored else {}
        more = {"options": options} if options else {}
        made.append(case("credit", "flat_groups", name, inputs, {"advantages": over(FIVE, expect)}, **more))
    for name, values, options in (
        ("advantages differ", [0.5, -0.5, 0.0, 0.0, 0.1], {}),
        ("all alike", [0.5, 0.5, 0.505, 0.5, 0.5], {}),
        ("a higher demand", [0.5, -0.5, 0.0, 0.0, 0.1], {"least": 1.5}),
    ):
        kept = list(range(5)) if max(values) - min(values) >= options.get("least", 0.01) else []
        inputs, more = {"advantages": values, "mask": FIVE}, {"options": options} if options else {}
        made.append(case("selection", "unless_flat", name, inputs, {"kept": kept}, **more))
    return made


def cases():
    return [
        *standardised_cases(),
        *history_cases(),
        *extreme_cases(),
        *surrogate_cases(),
        *clamped_cases(),
        *share_cases(),
        *flat_cases(),
    ]
