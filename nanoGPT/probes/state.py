"""What a probe starts from: the state of a model and of all random numbers, and tokens to read.

A forward of an honest model may count calls, draw random numbers and keep things on its modules.
Two forwards agree to the last bit only if all of that is put back before each of them.

Put back: parameters and buffers (objects and values), flags and plain attributes of the modules
with the lists, dicts, sets, tensors and generators in them, the global random states of Python,
numpy and torch. Not put back: what lives in closures, in the file's globals or in C++.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Attributes of torch.nn.Module that are not of a model's own making.
INTERNAL = frozenset(vars(nn.Module()))

# Plain English, for its word order and repetitions; a word's id is its rank by frequency.
TEXT = """
the river was low that year and the mill stood still for most of the summer . the miller sat on
the bank with his dog and looked at the water , and when the baker came for flour he said that
there was none . there was none in the town and none in the next town , for the river was low
there too . so the baker went home and told his wife that there would be no bread until the rain
came , and she told the neighbours , and by the evening everyone in the town knew that there would
be no bread . then the oldest of the farmers took a lamp and walked up the hill behind the church ,
where a small mill with four sails had stood since before he was born . nobody had used it for
thirty years . he opened the door , and the dust was as thick as snow , but the stones were sound
and the wheel turned when he pushed it . in the morning the wind came up from the sea , the sails
went round , and the baker had flour before noon . when the rain came at last the river rose and
the mill at the bank began to turn again , but the people of the town still said , whenever the
summer was dry , that the wind had fed them and that the river had only fed the ducks .
"""
END_OF_TEXT = (50256, 256)  # in GPT-2's vocabulary, and in one of its single bytes and more


def seed_everything(seed: int) -> None:
    """Starts the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for every kind of device


def random_states() -> dict[str, object]:
    """The global generators' states, as values that can be compared."""
    _, keys, position, *_ = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (np.asarray(keys).tobytes(), position),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def random_ids(vocab_size: int, b: int, t: int, rng: torch.Generator) -> Tensor:
    """(b, t) int64 ids, each as likely as any other."""
    return torch.randint(0, vocab_size, (b, t), generator=rng)


def natural_ids(vocab_size: int, b: int, t: int, rng: torch.Generator) -> Tensor:
    """(b, t) int64 ids of English text; each row begins at another word.

    The first row begins with the end-of-text token, which ends each sentence too.
    """
    words = TEXT.split()
    ranks = {word: i for i, (word, _) in enumerate(collections.Counter(words).most_common())}
    text = torch.tensor([ranks[word] % vocab_size for word in words])
    eot = next((i for i in END_OF_TEXT if i < vocab_size), ranks["."])
    text[text == ranks["."]] = eot
    starts = torch.randint(0, len(words), (b, 1), generator=rng)
    ids = text[(starts + torch.arange(t)) % len(words)]
    ids[0, 0] = eot
    return ids


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


class Snapshot:
    """All of a model's state at one moment; `restore` brings it back as often as one likes."""

    def __init__(self, model: nn.Module) -> None:
        # Hundreds of small modules are put back hundreds of times: whole tables, all tensors at
        # once, and one by one only what may have contents of its own.
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._contents: list[Callable[[], Any]] = []
        tensors = []
        for module in model.modules():
            own = vars(module)
            parts = (own, module._parameters, module._buffers, module._modules)
            self._tables += [(table, dict(table)) for table in parts]
            tensors += [x for x in (*parts[1].values(), *parts[2].values()) if x is not None]
            values = [value for key, value in own.items() if key not in INTERNAL]
            plain = (bool, int, float, str, nn.Module, type(None))
            self._contents += [_keeper(v, set()) for v in values if not isinstance(v, plain)]
        tensors = list({id(x): x for x in tensors}.values())
        self._contents += [_keep_tensor(x) for x in tensors if not _is_plain(x)]
        self._tensors = [x for x in tensors if _is_plain(x)]
        self._needs_grad = [x.requires_grad for x in self._tensors]
        self._data = [x.detach() for x in self._tensors]
        self._values = [x.clone() for x in self._data]

    def restore(self) -> None:
        for table, kept in self._tables:
            table.clear()
            table.update(kept)
        for tensor, data, needs in zip(self._tensors, self._data, self._needs_grad, strict=True):
            # `data` is the memory of that moment: an edit may have put another under the tensor.
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            if tensor.requires_grad != needs and tensor.is_leaf:
                tensor.requires_grad_(needs)
        if self._data:
            torch._foreach_copy_(self._data, self._values)
        for restore in self._contents:
            restore()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_leaf and not _overlaps(tensor)


def _keeper(value: Any, seen: set[int]) -> Callable[[], Any]:
    """A function that gives `value` the contents that it has now, and returns it."""
    if id(value) in seen:
        return lambda: value
    seen = seen | {id(value)}
    if isinstance(value, Tensor):
        return _keep_tensor(value)
    if isinstance(value, dict):
        pairs = [(key, _keeper(item, seen)) for key, item in value.items()]

        def restore_dict() -> Any:
            value.clear()
            value.update((key, keep()) for key, keep in pairs)
            return value

        return restore_dict
    if isinstance(value, list | collections.deque | set):
        items = [_keeper(item, seen) for item in value]

        def restore_items() -> Any:
            value.clear()
            (value.update if isinstance(value, set) else value.extend)(keep() for keep in items)
            return value

        return restore_items
    if isinstance(value, tuple) and any(isinstance(v, Tensor | list | dict) for v in value):
        parts = [_keeper(item, seen) for item in value]

        def restore_tuple() -> Any:
            for keep in parts:
                keep()
            return value

        return restore_tuple
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        python_state = value.getstate()
        return lambda: (value.setstate(python_state), value)[1]  # type: ignore[func-returns-value]
    if isinstance(value, np.random.Generator):
        numpy_state = value.bit_generator.state

        def restore_numpy() -> Any:
            value.bit_generator.state = numpy_state
            return value

        return restore_numpy
    return lambda: value


def _keep_tensor(tensor: Tensor) -> Callable[[], Tensor]:
    if tensor.layout is not torch.strided or _overlaps(tensor):
        return lambda: tensor  # its numbers cannot be written one by one
    values, data = tensor.detach().clone(), tensor.detach()

    def restore_tensor() -> Tensor:
        if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
            tensor.data = data
        data.copy_(values)
        return tensor

    return restore_tensor


def _overlaps(tensor: Tensor) -> bool:
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in pairs)
