"""How digits come out of noise: a ladder of noise levels, and a step from one to the next below."""

import itertools
import math

import torch

MOST_CALLS = 32  # calls of the network for one digit, whatever the steps are


def ladder():
    rungs = torch.linspace(math.log(10.0), math.log(0.03), 20).exp()
    return torch.cat([rungs, torch.zeros(1)])


# ---- A step from z = x + now * e down to the level `then`; denoise(z, level) estimates x.
# `noise` is standard normal, of z's shape, and fresh in every step.


def advance(denoise, z, now, then, noise):
    x = denoise(z, now)
    # What x and z say of the level `then` together, if x is the digit: mean and spread.
    share = (then / now) ** 2
    return x + share * (z - x) + then * (1 - share) ** 0.5 * noise


# ---- Sampling ------------------------------------------------------------------------------------


def sample(network, noise):
    """(n, MOST_CALLS + 1, 64) standard normal numbers -> (n, 64) digits: the first begin, each
    step has one of the others. Raises ValueError for a ladder or a step that cannot be."""
    levels = ladder().tolist()
    if levels[-1] != 0 or any(a <= b for a, b in itertools.pairwise(levels)):
        raise ValueError("the ladder must fall with every rung and end at 0")
    if not 2 <= len(levels) <= MOST_CALLS + 1:
        raise ValueError(f"the ladder has {len(levels)} rungs; it may have 2 to {MOST_CALLS + 1}")
    calls = 0

    def denoise(z, level):
        nonlocal calls
        calls += 1
        if calls > MOST_CALLS:
            raise ValueError(f"more than {MOST_CALLS} calls of the network")
        return network(z, torch.full((len(z),), level))

    z = levels[0] * noise[:, 0]
    for step, (now, then) in enumerate(itertools.pairwise(levels), start=1):
        z = advance(denoise, z, now, then, noise[:, step])
    return z.clamp(-1, 1)
