"""Answers for the trained denoiser and its sampler, in the sandbox, without data.

`denoise`: z (n, 64) and sigma (n,) -> x (n, 64). `sample`: noise (n, k, 64) -> x (n, 64).
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import channel

sys.path.insert(0, os.environ["HARNESS_FILES"])
import denoiser
import sampler


def load(inputs, outputs):
    network = denoiser.Network()
    network.load_state_dict(load_file(Path(os.environ["HARNESS_RUN_OUT"], "digits.safetensors")))
    load.network = network.eval()


def denoise(inputs, outputs):
    z, sigma = torch.tensor(inputs["z"]), torch.tensor(inputs["sigma"])
    with torch.no_grad():
        torch.from_numpy(outputs["x"]).copy_(load.network(z, sigma))


def sample(inputs, outputs):
    with torch.no_grad():
        made = sampler.sample(load.network, torch.tensor(inputs["noise"]))
        torch.from_numpy(outputs["x"]).copy_(made)


if __name__ == "__main__":
    channel.serve({"load": load, "denoise": denoise, "sample": sample})
