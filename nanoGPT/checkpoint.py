"""What a training process leaves behind: weights to be scored, and a place to go on from.

`ckpt_<label>.safetensors` holds plain tensors under the names of the model's state, which anyone
may read without running code. The output head is left out where it is the token embedding.
`ckpt_<label>.json` is written after it, so the JSON's existence means that the weights are whole.

`resume.pt` holds the model, the optimizer and the step. It is read with `weights_only=True`, and
only by the process that trains. What an optimizer keeps outside its `state_dict` is lost in it.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from progress import StageError, write_json

TIED_HEAD = "lm_head.weight"
TIED_TO = "transformer.wte.weight"


def weights_path(folder: Path, label: str) -> Path:
    """Where the weights of the stage `label` lie."""
    return folder / f"ckpt_{label}.safetensors"


def facts_path(folder: Path, label: str) -> Path:
    """Where the model's sizes and the step of the stage `label` lie."""
    return folder / f"ckpt_{label}.json"


def resume_path(folder: Path) -> Path:
    """Where an interrupted run goes on from."""
    return folder / "resume.pt"


def save_weights(folder: Path, label: str, model: torch.nn.Module, facts: dict[str, Any]) -> None:
    """Writes the weights and buffers of `model`, then `facts` as JSON."""
    state = model.state_dict()
    if TIED_HEAD in state and _same_memory(state[TIED_HEAD], state.get(TIED_TO)):
        del state[TIED_HEAD]
    # safetensors refuses tensors that share memory; an edit may have tied some of its own.
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    path = weights_path(folder, label)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)
    write_json(facts_path(folder, label), facts)


def load_facts(folder: Path, label: str) -> dict[str, Any]:
    """The JSON beside the weights.

    Raises:
        StageError: no run has finished here under that label.
    """
    path = facts_path(folder, label)
    if not path.is_file():
        raise StageError(f"no checkpoint: {path.name} is missing. Run the stage's training first.")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def load_weights(folder: Path, label: str, model: torch.nn.Module) -> None:
    """Fills `model`, which ties its own head, with the weights of the stage `label`.

    Raises:
        StageError: the file is missing, or its names or shapes are not the model's.
    """
    path = weights_path(folder, label)
    if not path.is_file():
        raise StageError(f"no checkpoint: {path.name} is missing. Run the stage's training first.")
    state = load_file(path)
    if TIED_HEAD not in state and TIED_TO in state:
        state[TIED_HEAD] = state[TIED_TO]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StageError(f"{path.name} does not fit the model: {reason}") from error


class Place:
    """Where an interrupted run goes on from: resume.pt.

    Args:
        folder: the stage's output folder.
        label: the stage's label; what another stage left is not taken up.
        settings: everything that decides what the run computes; plain values.
        model, optimizer: what is saved and filled again.
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        settings: dict[str, Any],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._path = resume_path(folder)
        self._label = label
        self._settings = settings
        self._model = model
        self._optimizer = optimizer
        self._refused = False

    def save(self, step: int, loss: float) -> None:
        """Replaces resume.pt in one step: `step` updates are done, the last at loss `loss`.

        On the disk when this returns: a run must not fall behind the save before its last, for the
        feeder would refuse to go back that far (feeder.py).

        An optimizer whose state could not be read back safely is named once, and the run goes on
        without a place to resume from.
        """
        if self._refused:
            return
        try:
            state = {
                "label": self._label,
                "settings": self._settings,
                "step": step,
                "loss": loss,
                "model": _plain(self._model.state_dict()),
                "optimizer": _plain(self._optimizer.state_dict()),
            }
        except TypeError as error:
            self._refused = True
            print(f"This run cannot be resumed: {error}.", flush=True)
            return
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load(self, device: torch.device) -> tuple[int, float]:
        """Takes up the run that was interrupted here, on `device`.

        Returns:
            The number of updates done and the last training loss; (0, nan) if there is nothing
            to take up, or only what another stage left.

        Raises:
            StageError: resume.pt cannot be read, or belongs to a run with other settings.
        """
        if not self._path.is_file():
            return 0, float("nan")
        try:
            # Rank 0 alone writes, on the first GPU; what was on the CPU stays there.
            state = torch.load(self._path, map_location={"cuda:0": str(device)}, weights_only=True)
        except Exception as error:  # torch raises half a dozen types for a damaged file
            reason = str(error).splitlines()[0]
            raise StageError(
                f"resume.pt cannot be read ({reason}). Delete it to start over."
            ) from error
        if state["label"] != self._label:
            return 0, float("nan")
        settings = self._settings
        different = sorted(k for k in settings if state["settings"].get(k) != settings[k])
        if different:
            raise StageError(
                f"resume.pt is from a run with another {', '.join(different)}. "
                "Delete it to start over."
            )
        self._model.load_state_dict(state["model"])
        _load_optimizer(self._optimizer, state["optimizer"])
        return state["step"], state["loss"]

    def clear(self) -> None:
        """The run is complete: nothing is left to go on from."""
        self._path.unlink(missing_ok=True)


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    optimizer.load_state_dict(saved)
    if type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict:
        return
    # torch casts all state but "step" to its parameter's dtype and device. An optimizer may keep
    # counters as integers or moments in another precision: those come back as they were.
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, param in zip(ids, params, strict=True):
        if i in saved["state"]:
            optimizer.state[param] = copy.deepcopy(saved["state"][i])


def _same_memory(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    return b is not None and a.data_ptr() == b.data_ptr() and a.shape == b.shape


def _plain(value: Any) -> Any:
    """The same value in the types that `weights_only=True` reads back."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept in resume.pt")
