"""The published formulas once more, in loops over Python floats, with gradients derived by hand.

Written from the papers and independent of the library: nothing of it is imported, no automatic differentiation, no
tensors. A loss function returns (value, derivative with respect to its first argument).
"""

from math import exp, log, sqrt


def log_softmax(logits):
    top = max(logits)
    scale = top + log(sum(exp(z - top) for z in logits))
    return [z - scale for z in logits]


def log_sigmoid(x):
    return min(x, 0.0) - log(1.0 + exp(-abs(x)))


def sigmoid(x):
    return exp(log_sigmoid(x))


# -- losses of one step: functions of the log-probability ------------------------------------------------------------
def policy_gradient(logp, advantage):
    return -advantage * logp, -advantage


def clipped(ratio, advantage, low, high, dual=None):
    """-min(r A, clip(r) A) and its derivative with respect to r."""
    if advantage > 0 and ratio > 1 + high:
        return -(1 + high) * advantage, 0.0
    if advantage < 0 and ratio < 1 - low:
        return -(1 - low) * advantage, 0.0
    if dual is not None and advantage < 0 and -ratio * advantage > -dual * advantage:
        return -dual * advantage, 0.0
    return -ratio * advantage, -advantage


def clipped_surrogate(logp, old, advantage, low=0.2, high=0.2, dual=None):
    ratio = exp(logp - old)
    value, slope = clipped(ratio, advantage, low, high, dual)
    return value, slope * ratio


def sampled_reverse_kl(logp, old, teacher):
    value = -exp(logp - old) * (teacher - logp)
    return value, value  # the gap is held fixed, so only the ratio has a derivative: itself


def kl_to_reference(logp, old, reference):
    value = exp(logp - old) * (logp - reference)
    return value, value


def k1(logp, reference):
    return logp - reference, 1.0


def k2(logp, reference):
    return (logp - reference) ** 2 / 2, logp - reference


def k3(logp, reference):
    """exp(ref - logp) - (ref - logp) - 1."""
    return exp(reference - logp) - (reference - logp) - 1, 1 - exp(reference - logp)


def squared_value_error(value, target, old=None, clip=None):
    plain = (value - target) ** 2 / 2, value - target
    if clip is None or abs(value - old) <= clip:
        return plain
    near = old + (clip if value > old else -clip)
    held = (near - target) ** 2 / 2, 0.0
    return held if held[0] > plain[0] else plain


# -- losses of whole distributions: functions of the logits --------------------------------------------------------
def through_softmax(p, slope):
    """Derivative to the logits from the derivative to the probabilities."""
    mean = sum(a * b for a, b in zip(p, slope, strict=True))
    return [a * (b - mean) for a, b in zip(p, slope, strict=True)]


def reverse_kl(logits, other):
    """KL(p || q) of p = softmax(logits)."""
    lp, lq = log_softmax(logits), log_softmax(other)
    p = [exp(x) for x in lp]
    value = sum(a * (x - y) for a, x, y in zip(p, lp, lq, strict=True))
    return value, through_softmax(p, [x - y + 1 for x, y in zip(lp, lq, strict=True)])


def forward_kl(logits, other):
    """KL(q || p) of p = softmax(logits)."""
    lp, lq = log_softmax(logits), log_softmax(other)
    value = sum(exp(y) * (y - x) for x, y in zip(lp, lq, strict=True))
    return value, [exp(x) - exp(y) for x, y in zip(lp, lq, strict=True)]


def jensen_shannon(logits, other, beta):
    """beta KL(q || M) + (1 - beta) KL(p || M), M = (1 - beta) p + beta q."""
    p, q = ([exp(x) for x in log_softmax(z)] for z in (logits, other))
    m = [(1 - beta) * a + beta * b for a, b in zip(p, q, strict=True)]
    value = sum(beta * b * log(b / c) + (1 - beta) * a * log(a / c) for a, b, c in zip(p, q, m, strict=True))
    return value, through_softmax(p, [(1 - beta) * log(a / c) for a, c in zip(p, m, strict=True)])


def entropy(logits):
    lp = log_softmax(logits)
    p = [exp(x) for x in lp]
    return -sum(a * x for a, x in zip(p, lp, strict=True)), through_softmax(p, [-x - 1 for x in lp])


# -- losses of rows and pairs: lists over the counted steps of a row ---------------------------------------------------
def geometric_surrogate(logp, old, advantage, low, high):
    """GSPO. Returns the value and a derivative per step."""
    ratio = exp(sum(a - b for a, b in zip(logp, old, strict=True)) / len(logp))
    value, slope = clipped(ratio, advantage, low, high)
    return value, [slope * ratio / len(logp)] * len(logp)


def product_surrogate(logp, old, advantage, low, high):
    ratio = exp(sum(a - b for a, b in zip(logp, old, strict=True)))
    value, slope = clipped(ratio, advantage, low, high)
    return value, [slope * ratio] * len(logp)


def pair_logistic(difference, beta, smoothing=0.0):
    """DPO: value and derivative with respect to rho(chosen) - rho(rejected)."""
    margin = beta * difference
    value = -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)
    return value, beta * (-(1 - smoothing) * sigmoid(-margin) + smoothing * sigmoid(margin))


# -- averages: weights over a mask -----------------------------------------------------------------------------------
def weights(name, mask, constant=1.0):
    rows = sum(1 for row in mask if any(row))
    steps = sum(sum(row) for row in mask)
    made = []
    for row in mask:
        one = {
            "token_mean": 1 / max(steps, 1),
            "sequence_mean": 1 / max(rows, 1) / max(sum(row), 1),
            "sequence_sum": 1 / max(rows, 1) / constant,
            "sum": 1.0,
        }[name]
        made.append([one * m for m in row])
    return made


def row_weights(mask):
    return [m / max(sum(mask), 1) for m in mask]


# -- credit ------------------------------------------------------------------------------------------------------------
def members(group, scored, row):
    return [i for i, g in enumerate(group) if g == group[row] and scored[i]]


def standardised(rewards, group, scored, epsilon=1e-6, ddof=1):
    made = []
    for row in range(len(rewards)):
        values = [rewards[i] for i in members(group, scored, row)]
        if not scored[row] or len(values) < 2 or max(values) == min(values):
            made.append(0.0)
            continue
        mean = sum(values) / len(values)
        deviation = sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - ddof))
        made.append((rewards[row] - mean) / (deviation + epsilon))
    return made


def centred(rewards, group, scored):
    made = []
    for row in range(len(rewards)):
        values = [rewards[i] for i in members(group, scored, row)]
        made.append(rewards[row] - sum(values) / len(values) if scored[row] else 0.0)
    return made


def leave_one_out(rewards, group, scored):
    made = []
    for row in range(len(rewards)):
        others = [rewards[i] for i in members(group, scored, row) if i != row]
        made.append(rewards[row] - sum(others) / len(others) if scored[row] and others else 0.0)
    return made


def own_rewards(rewards, mask):
    """Rewards of a row's counted steps, in order; what others' steps earn goes to the counted step before them (or
    the first)."""
    last = max(t for t, m in enumerate(mask) if m)
    first = min(t for t, m in enumerate(mask) if m)
    held, place = {}, first
    for t in range(last + 1):
        place = t if mask[t] else place
        held[place] = held.get(place, 0.0) + rewards[t]
    return held


def to_go(rewards, mask, gamma):
    """Discounted reward to go on counted steps, 0 elsewhere; the discount counts own steps only."""
    made, following = [0.0] * len(mask), 0.0
    held = own_rewards(rewards, mask) if any(mask) else {}
    for t in sorted(held, reverse=True):
        following = held[t] + gamma * following
        made[t] = following
    return made


def generalised_advantage(rewards, values, mask, truncated, gamma, lam):
    """GAE of one row; values has an entry after the last step for truncated rows."""
    made = [0.0] * len(mask)
    held = own_rewards(rewards, mask) if any(mask) else {}
    places = sorted(held)
    trace = 0.0
    for number in reversed(range(len(places))):
        t = places[number]
        after = values[t + 1] if truncated else 0.0
        following = values[places[number + 1]] if number + 1 < len(places) else after
        trace = held[t] + gamma * following - values[t] + gamma * lam * trace
        made[t] = trace
    return made


def whitened(advantages, counted, epsilon=1e-8):
    values = [a for row, c in zip(advantages, counted, strict=True) for a, m in zip(row, c, strict=True) if m]
    mean = sum(values) / len(values)
    deviation = sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [
        [(a - mean) / (deviation + epsilon) if m else 0.0 for a, m in zip(row, c, strict=True)]
        for row, c in zip(advantages, counted, strict=True)
    ]
