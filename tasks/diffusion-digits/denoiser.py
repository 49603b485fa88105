"""A small diffusion model of digits: the network and its training.

A digit is 64 numbers from -1 to 1, eight rows of eight pixels. Noise of level sigma makes the noisy
digit z = x + sigma * e of it, where e is standard normal. The network estimates x from z and sigma.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

PIXELS = 64
SPREAD = 0.75  # standard deviation of a pixel over all digits
LOWEST, HIGHEST = 0.02, 10.0  # levels of noise that training meets


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.level = nn.Linear(1, 256)
        self.first = nn.Linear(PIXELS, 256)
        self.middle = nn.Linear(256, 256)
        self.last = nn.Linear(256, PIXELS)

    def forward(self, z, sigma):
        scaled = z / (sigma.square() + SPREAD**2).sqrt()[:, None]
        h = F.silu(self.first(scaled) + self.level(sigma.log()[:, None]))
        h = F.silu(h + self.middle(h))
        return self.last(h)


# ---- What training minimises: weigh(sigma) * (Network()(z, sigma) - x)**2, sigma = draw_levels(n)


def draw_levels(n):
    u = torch.rand(n)
    return torch.exp(math.log(LOWEST) + u * math.log(HIGHEST / LOWEST))


def weigh(sigma):
    return torch.ones_like(sigma)


# ---- Training ------------------------------------------------------------------------------------


def train(digits, steps, report):
    """A network that has seen (n, 64) `digits` in `steps` batches of 128; `report(step, error)`."""
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    total = 0.0
    for step in range(1, steps + 1):
        x = digits[torch.randint(len(digits), (128,))]
        sigma = draw_levels(128).clamp(LOWEST, HIGHEST)
        z = x + sigma[:, None] * torch.randn_like(x)
        squares = (network(z, sigma) - x).square().mean(1)
        loss = (weigh(sigma) * squares).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        total += float(squares.detach().mean())
        if step % (steps // 10) == 0:
            report(step, total / (steps // 10))
            total = 0.0
    return network
