"""GPT-2 byte-pair encoding from local files, and a smaller vocabulary made out of it.

`load_gpt2` builds tiktoken's own `gpt2` encoding from the two published files, which
`prepare_data.py` puts under the names that tiktoken's cache uses; nothing is downloaded here.

`Vocabulary` renumbers those tokens for a model that cannot afford 50257 logits. It keeps the 256
single-byte tokens and the end-of-text token, and as many of the other tokens as fit. A token that
was not kept is spelled by kept ones, the longest that fits first, at worst one a byte. So every
text can be encoded, there is no unknown token, and `decode(encode(text)) == text` for all text
that UTF-8 can express.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tiktoken
from numpy.typing import NDArray

GPT2_EOT = 50256
GPT2_VOCAB_SIZE = 50257
EOT_TEXT = "<|endoftext|>"
TEXTS_AT_ONCE = 256

_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES: Mapping[str, tuple[str, str]] = {
    name: (hashlib.sha1((_URL + name).encode()).hexdigest(), sha256)
    for name, sha256 in {
        "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    }.items()
}
"""Published name -> (the name under which tiktoken's cache looks for it, its sha256)."""


def load_gpt2(folder: Path) -> tiktoken.Encoding:
    """The GPT-2 encoding from the two files in `folder`, named as in `GPT2_FILES`.

    Raises FileNotFoundError if one is missing and ValueError if one is not the published file:
    tiktoken itself would try to download it, and silently replace it.
    """
    for name, (cached_name, sha256) in GPT2_FILES.items():
        path = folder / cached_name
        if not path.is_file():
            raise FileNotFoundError(f"no GPT-2 {name} at {path}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ValueError(f"{path} is not the published GPT-2 {name}")
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        return tiktoken.get_encoding("gpt2")
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


@dataclass(frozen=True)
class Vocabulary:
    """GPT-2 tokens renumbered to 0 .. size-1.

    Ids 0..255 are the single bytes in byte order, 256 is end-of-text, the rest are the kept
    tokens. A vocabulary with every GPT-2 token keeps GPT-2's own numbers (`Vocabulary.full`).
    """

    bpe: tiktoken.Encoding
    gpt2_ids: tuple[int, ...]
    """The GPT-2 id of each of our ids."""

    @classmethod
    def full(cls, bpe: tiktoken.Encoding) -> Vocabulary:
        """GPT-2's own 50257 ids, unchanged."""
        return cls(bpe, tuple(range(GPT2_VOCAB_SIZE)))

    @classmethod
    def of_most_frequent(
        cls, bpe: tiktoken.Encoding, counts: Mapping[int, int], size: int
    ) -> Vocabulary:
        """The bytes, end-of-text, and the `size` - 257 most frequent other ids in `counts`.

        Ties go to the lower GPT-2 id, so the same counts always give the same vocabulary. Fewer
        ids come out when `counts` has fewer.
        """
        if size < 257:
            raise ValueError(f"a vocabulary needs 256 bytes and end-of-text, {size} is too small")
        fixed = [bpe.encode_single_token(bytes([byte])) for byte in range(256)] + [GPT2_EOT]
        others = sorted(counts.keys() - set(fixed), key=lambda token: (-counts[token], token))
        return cls(bpe, tuple(fixed + others[: size - 257]))

    @classmethod
    def load(cls, vocab_file: Path, bpe_folder: Path) -> Vocabulary:
        """Read what `save` wrote. Errors: those of `load_gpt2`, OSError, ValueError."""
        content = json.loads(vocab_file.read_text(encoding="utf-8"))
        return cls(load_gpt2(bpe_folder), tuple(content["gpt2_ids"]))

    def save(self, vocab_file: Path) -> None:
        content = {"base": "gpt2", "size": self.size, "eot": self.eot, "gpt2_ids": self.gpt2_ids}
        vocab_file.write_text(json.dumps(content) + "\n", encoding="utf-8")

    @property
    def size(self) -> int:
        return len(self.gpt2_ids)

    @cached_property
    def eot(self) -> int:
        """The id that separates documents."""
        return self.gpt2_ids.index(GPT2_EOT)

    @cached_property
    def _pieces(self) -> dict[bytes, int]:
        """The bytes of each kept token -> its id; end-of-text has none."""
        return {
            self.bpe.decode_single_token_bytes(gpt2_id): ours
            for ours, gpt2_id in enumerate(self.gpt2_ids)
            if gpt2_id != GPT2_EOT
        }

    @cached_property
    def _spelled(self) -> dict[int, tuple[int, ...]]:
        """A memo that `_spell` fills: GPT-2 id -> our ids."""
        return {gpt2_id: (ours,) for ours, gpt2_id in enumerate(self.gpt2_ids)}

    def _spell(self, gpt2_id: int) -> tuple[int, ...]:
        if gpt2_id not in self._spelled:
            raw = self.bpe.decode_single_token_bytes(gpt2_id)
            ids: list[int] = []
            start = 0
            while start < len(raw):
                end = next(e for e in range(len(raw), start, -1) if raw[start:e] in self._pieces)
                ids.append(self._pieces[raw[start:end]])
                start = end
            self._spelled[gpt2_id] = tuple(ids)
        return self._spelled[gpt2_id]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. The characters `<|endoftext|>` are text here like any other.

        Raises UnicodeEncodeError for a lone surrogate, which tiktoken would replace.
        """
        text.encode("utf-8")
        return self.remap(self.bpe.encode_ordinary(text))

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The ids of each text, on all cores. Raises UnicodeEncodeError as `encode` does."""
        pieces = [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            encoded = [ids for some in pool.map(self._encode_some, pieces) for ids in some]
        if self.size == GPT2_VOCAB_SIZE and self.gpt2_ids == tuple(range(self.size)):
            return encoded
        return [np.array(self.remap(gpt2_ids.tolist()), np.int64) for gpt2_ids in encoded]

    def _encode_some(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """GPT-2's ids of each text. They are encoded as one, in which end-of-text stands between
        them: a call for each would cost more than its work, and no thread could run beside it."""
        joined = EOT_TEXT.join(texts)
        joined.encode("utf-8")
        if joined.count(EOT_TEXT) != len(texts) - 1:  # a text has the separator's characters
            return [np.array(self.bpe.encode_ordinary(text), np.int64) for text in texts]
        ids = self.bpe.encode_to_numpy(joined, allowed_special={EOT_TEXT}).astype(np.int64)
        ends = [*np.flatnonzero(ids == GPT2_EOT).tolist(), len(ids)]
        starts = [0, *(end + 1 for end in ends[:-1])]
        return [ids[a:b] for a, b in zip(starts, ends, strict=True)]

    def remap(self, gpt2_ids: Iterable[int]) -> list[int]:
        """Our ids for a sequence of GPT-2 ids."""
        return [ours for gpt2_id in gpt2_ids for ours in self._spell(gpt2_id)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(
            EOT_TEXT.encode()
            if i == self.eot
            else self.bpe.decode_single_token_bytes(self.gpt2_ids[i])
            for i in ids
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")
