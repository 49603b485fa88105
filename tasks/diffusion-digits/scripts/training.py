"""Trains the edited denoiser on the training digits, in the sandbox: leaves digits.safetensors."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, os.environ["HARNESS_FILES"])
import denoiser


def report(step, error):
    print(f"DIGITS: step={step}, fit_error={error:.4f}", flush=True)


def main():
    digits = torch.from_numpy(np.load(Path(os.environ["HARNESS_DATA"], "train.npy")))
    torch.manual_seed(int(os.environ["HARNESS_SEED"]))
    network = denoiser.train(digits, int(sys.argv[1]), report)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, Path(os.environ["HARNESS_OUT"], "digits.safetensors"))


if __name__ == "__main__":
    main()
