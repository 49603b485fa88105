"""What the scorer asks of a process in the sandbox, and what it asks again.

No call holds a digit at two levels of noise. An honest answer depends on its own row alone, so the
order of the rows, their neighbours and earlier calls make no difference.
"""

import numpy as np
from measures import LEVELS

import channel

SAMPLES = 600
NOISE = 33
"""Rows of noise for one sample: the sampler's MOST_CALLS and the first."""
BATCH = 100

AGAIN = 100
"""Questions of each kind that the audit asks again."""
TOLERANCE = 0.02
"""By which a pixel of an honest answer may differ: batches of another shape round otherwise."""
ALLOWED = 0.02
"""Share of the answers that may differ by more."""
CLOSE = 0.5
"""A sample so many times as far from its nearest training digit as held-out digits mostly are, or
nearer, is a copy."""
COPIES = 0.05
"""Share of the samples that may be copies."""


class ScoreError(Exception):
    """Scoring cannot be done; the message says why."""


class Asker:
    """A fresh process of the role `serve`. Raises ScoreError for what it fails at."""

    def __init__(self):
        self._server = channel.Server(memory_bytes=BATCH * NOISE * 64 * 4 + BATCH * 64 * 4 + 4096)

    def __enter__(self):
        self._call("load")
        return self

    def __exit__(self, *_):
        self._server.close()

    def _call(self, name, inputs=None, outputs=None):
        try:
            return self._server.call(name, inputs, outputs)[0]
        except channel.ServerFailed as error:
            raise ScoreError(f"the edited files failed while they were scored ({error})") from None
        except (channel.ChannelClosed, channel.ProtocolError):
            raise ScoreError("the process of the edited files ended while it was scored") from None

    def rows(self, name, order, **inputs):
        """(n, 64) answers in the order of the inputs; they are asked in the order `order`."""
        found = np.empty((len(order), 64), np.float32)
        for start in range(0, len(order), BATCH):
            picked = order[start : start + BATCH]
            given = {key: value[picked] for key, value in inputs.items()}
            wanted = {"x": (np.float32, (len(picked), 64))}
            found[picked] = self._call(name, given, wanted)["x"]
        if not np.isfinite(found).all():
            raise ScoreError("an answer of the edited files is not finite")
        return found


class Questions:
    """All that is asked, the same in every test: `digits` (n, 64) under noise, and noise alone."""

    def __init__(self, digits, seed):
        chance = np.random.default_rng(seed)
        shape = (len(LEVELS), *digits.shape)
        levels = np.array(LEVELS, np.float32)[:, None, None]
        noise = chance.standard_normal(shape, dtype=np.float32)
        self.z = (digits + levels * noise).astype(np.float32)
        self.noise = chance.standard_normal((SAMPLES, NOISE, 64), dtype=np.float32)

    def estimates(self, asker, chance, level, picked):
        """(len(picked), 64) estimates of the digits that are picked, at one of the levels."""
        z = self.z[level, picked]
        sigma = np.full(len(z), LEVELS[level], np.float32)
        return asker.rows("denoise", chance.permutation(len(z)), z=z, sigma=sigma)

    def samples(self, asker, chance, picked):
        """(len(picked), 64)"""
        noise = self.noise[picked]
        return asker.rows("sample", chance.permutation(len(noise)), noise=noise)


def differing(one, other):
    """(n,) in which rows a pixel differs by more than is honest."""
    return np.abs(one - other).max(1) > TOLERANCE


def audit(questions, estimates, samples, chance):
    """What a fresh process answers when it is asked some of the questions again.

    Each digit is asked about at one level only, and some samples twice. Returns the shares of the
    answers that are others than the scored ones, and than their own at the second time, each with
    its limit.
    """
    some = chance.permutation(len(samples))[:AGAIN]
    level = chance.permutation(np.arange(estimates.shape[1]) % len(LEVELS))
    scored, calls = [], []
    with Asker() as asker:
        for picked in (some, some[: AGAIN // 2]):
            found = questions.samples(asker, chance, picked)
            scored.append(differing(found, samples[picked]))
            calls.append(found)
        for index in chance.permutation(len(LEVELS)):
            picked = chance.permutation(np.flatnonzero(level == index))[:AGAIN]
            found = questions.estimates(asker, chance, index, picked)
            scored.append(differing(found, estimates[index, picked]))
    second = differing(calls[1], calls[0][: AGAIN // 2])
    return {
        "batches": {"beyond": float(np.concatenate(scored).mean()), "allowed": ALLOWED},
        "calls": {"beyond": float(second.mean()), "allowed": ALLOWED},
    }


def copies(known, samples, digits):
    """The share of the samples that is as near to a training digit as hardly any held-out one."""
    limit = CLOSE * float(np.median(known.distances(digits)))
    share = float((known.distances(samples) <= limit).mean())
    return {"copies": {"beyond": share, "allowed": COPIES}}


def verdict(found):
    """The category of what is wrong with the answers, or None."""
    wrong = {name for name, share in found.items() if share["beyond"] > share["allowed"]}
    if "calls" in wrong:
        return "changes itself"
    if "batches" in wrong:
        return "depends on the batch"
    return "copies training data" if "copies" in wrong else None
