"""Documents out of parquet, JSON lines and text files, read in batches and cut into pieces of work.

- `.parquet`, `.jsonl`: a document a row, in the column that a key names; a column `tokens` with
  GPT-2 ids is taken where that one is missing, as ClimbMix has it.
- `.txt`: one document; lines with nothing but `<|endoftext|>` separate several. Read whole.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpus.files import DataError

KINDS = (".parquet", ".jsonl", ".txt")
TOKENS_KEY = "tokens"
SEPARATOR = b"<|endoftext|>"
BATCH_BYTES = 2 << 20
"""About so much of a file's text is in memory at a time."""


@dataclass(frozen=True)
class Span:
    """A run of one file: row groups of parquet, bytes of JSON lines, the whole of a text."""

    path: str
    first: int
    stop: int
    bytes: int
    """About how many bytes of text it holds."""


Piece = tuple[Span, ...]
"""What one worker does at a time; a file of shards comes out."""


@dataclass(frozen=True)
class Batch:
    """Some documents, in order."""

    contents: list[bytes]
    """Of each its UTF-8 text, or its little-endian uint16 tokens."""
    tokenised: bool


def read_table(path: Path) -> pa.Table:
    """A small parquet or JSON lines file as a whole. Raises DataError if it is damaged."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pa.json.read_json(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: Path | str, error: object) -> DataError:
    reason = (str(error).strip().splitlines() or [repr(error)])[0]
    return DataError(f"{path} cannot be read ({reason}). Fetch it again and run this again")


# -----------------------------------------------------------------------------
# pieces


def cut(paths: Sequence[Path], piece_bytes: int, key: str) -> list[Piece]:
    """All of the files as pieces of about `piece_bytes` of text each, in order.

    Where they are cut depends on the files and on `piece_bytes` alone. Raises DataError for a
    file of another kind, or one that is damaged or lacks the column.
    """
    pieces: list[Piece] = []
    spans: list[Span] = []
    size = 0
    for path in paths:
        for span in _spans(path, piece_bytes, key):
            if spans and size + span.bytes > piece_bytes:
                pieces.append(tuple(spans))
                spans, size = [], 0
            spans.append(span)
            size += span.bytes
    return [*pieces, tuple(spans)] if spans else pieces


def _spans(path: Path, most: int, key: str) -> Iterator[Span]:
    if path.suffix == ".parquet":
        yield from _row_groups(path, most, key)
    elif path.suffix == ".jsonl":
        size = path.stat().st_size
        for first in range(0, size, most):
            stop = min(first + most, size)
            yield Span(str(path), first, stop, stop - first)
    elif path.suffix == ".txt":
        if size := path.stat().st_size:
            yield Span(str(path), 0, 1, size)
    else:
        raise DataError(f"{path} is none of {', '.join(KINDS)}")


def _row_groups(path: Path, most: int, key: str) -> Iterator[Span]:
    """Neighbouring row groups together, as small as they are: a thousand rows in FineWeb."""
    try:
        meta = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    # A list's leaf is called tokens.list.element.
    columns = {meta.schema.column(i).path.split(".")[0]: i for i in range(meta.num_columns)}
    place = columns.get(key, columns.get(TOKENS_KEY))
    if place is None:
        raise DataError(
            f"{path} has no column {key!r}; its columns: {', '.join(columns)}. Name one with "
            "--text-key"
        )
    first = size = 0
    for group in range(meta.num_row_groups):
        own = meta.row_group(group).column(place).total_uncompressed_size
        if size and size + own > most:
            yield Span(str(path), first, group, size)
            first, size = group, 0
        size += own
    if size:
        yield Span(str(path), first, meta.num_row_groups, size)


# -----------------------------------------------------------------------------
# reading


def read(piece: Piece, key: str) -> Iterator[Batch]:
    """The documents of a piece, in order. Raises DataError where a file is damaged."""
    readers = {".parquet": _read_parquet, ".jsonl": _read_lines, ".txt": _read_text}
    for span in piece:
        try:
            yield from readers[Path(span.path).suffix](span, key)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(span.path, error) from error


def _read_parquet(span: Span, key: str) -> Iterator[Batch]:
    with pq.ParquetFile(span.path) as file:
        name = key if key in file.schema_arrow.names else TOKENS_KEY
        groups = range(span.first, span.stop)
        rows = sum(file.metadata.row_group(g).num_rows for g in groups)
        batch = max(1, rows * BATCH_BYTES // max(span.bytes, 1))
        for part in file.iter_batches(batch, list(groups), columns=[name], use_threads=False):
            yield _column(part.column(0), span.path)


def _column(column: pa.Array, path: str) -> Batch:
    """A column of texts, or of lists of token ids; a missing one counts as empty."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ends = column.offsets.to_numpy()
        ids = _packed(column.values.to_numpy(zero_copy_only=False)[ends[0] : ends[-1]], path)
        bounds = (2 * (ends - ends[0])).tolist()
        return Batch([ids[a:b] for a, b in itertools.pairwise(bounds)], True)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Batch([text or b"" for text in column.cast(pa.large_binary()).to_pylist()], False)
    raise DataError(f"{path}: a column of {kind} is neither text nor lists of token ids")


def _packed(ids: Any, path: str) -> bytes:
    array = np.asarray(ids)
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 0xFFFF):
        raise DataError(f"{path} holds something else than GPT-2 token ids in {TOKENS_KEY!r}")
    return array.astype("<u2").tobytes()


def unpacked(content: bytes) -> NDArray[np.uint16]:
    """The ids of a document that came tokenised."""
    return np.frombuffer(content, dtype="<u2")


def _read_lines(span: Span, key: str) -> Iterator[Batch]:
    """The lines that begin in the span."""
    with Path(span.path).open("rb") as file:
        if span.first:
            file.seek(span.first - 1)
            file.readline()  # belongs to the span before, unless the span begins with a line
        while (at := file.tell()) < span.stop:
            lines = file.readlines(min(BATCH_BYTES, span.stop - at))
            # `readlines` goes on to the end of the line; beyond the span none may begin.
            yield _parse(b"".join(lines), key, span.path, at)


def _parse(lines: bytes, key: str, path: str, at: int) -> Batch:
    """Whole lines of JSON: arrow's parser, and Python's for what it does not take."""
    first = json.loads(lines.split(b"\n", 1)[0] or b"{}") if lines.startswith(b"{") else {}
    name = key if key in first or TOKENS_KEY not in first else TOKENS_KEY
    kind = pa.list_(pa.int64()) if name == TOKENS_KEY and key != TOKENS_KEY else pa.large_string()
    try:
        table = pa.json.read_json(
            pa.BufferReader(lines),
            pa.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
            pa.json.ParseOptions(pa.schema([(name, kind)]), unexpected_field_behavior="ignore"),
        )
        column = table.column(name).combine_chunks()
        if column.null_count == 0:
            return _column(column, path)
    except (pa.ArrowException, KeyError):
        pass
    return _parse_slowly(lines, name, path, at)


def _parse_slowly(lines: bytes, name: str, path: str, at: int) -> Batch:
    """Line by line, to say which one is wrong; half a surrogate pair becomes U+FFFD."""
    texts: list[bytes] = []
    tokenised = False
    for line in lines.splitlines(keepends=True):
        if line.strip():
            try:
                value = json.loads(line)[name]
            except (ValueError, KeyError, TypeError) as error:
                reason = f"no {name!r}" if isinstance(error, KeyError) else str(error)
                raise DataError(
                    f"{path}: the line at byte {at} is no JSON object with a document ({reason}). "
                    "Name the key with --text-key, or fetch the file again"
                ) from error
            if isinstance(value, list):
                tokenised = True
                texts.append(_packed(value, path))
            elif isinstance(value, str) or value is None:
                whole = (value or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                texts.append(whole.encode())
            else:
                raise DataError(f"{path}: the line at byte {at} has no text in {name!r}")
        at += len(line)
    return Batch(texts, tokenised)


def _read_text(span: Span, key: str) -> Iterator[Batch]:
    content = Path(span.path).read_bytes()
    content.decode("utf-8")  # or it is said which byte is wrong
    documents: list[list[bytes]] = [[]]
    for line in content.splitlines(keepends=True):
        if line.strip() == SEPARATOR:
            documents.append([])
        else:
            documents[-1].append(line)
    yield Batch([b"".join(lines) for lines in documents], False)
