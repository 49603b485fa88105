"""The data sets of documents that are known by name, and files of one's own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.build import Recipe, Source, build_corpus, clear_leftovers
from corpus.documents import KINDS
from corpus.files import DataError, is_complete
from corpus.hub import Origin, describe_files, mirror_folder


@dataclass(frozen=True)
class Hosted:
    """A data set on the hub."""

    repository: str
    patterns: tuple[str, ...]
    licence: str
    homepage: str
    most_files: int | None = None
    """So many of its files unless told otherwise; None: all."""


FINEWEB = Hosted(
    repository="HuggingFaceFW/fineweb",
    patterns=("sample/10BT/*.parquet",),
    licence="ODC-By 1.0, and Common Crawl's terms of use",
    homepage="https://huggingface.co/datasets/HuggingFaceFW/fineweb",
)
CLIMBMIX = Hosted(
    # NVIDIA's own repository has its documents in the order of their topics, as GPT-2 ids; this is
    # the same text in random order, so that its first files are a fair share of the whole.
    repository="karpathy/climbmix-400b-shuffle",
    patterns=("*.parquet", "*.jsonl"),
    licence="CC BY-NC 4.0 (NVIDIA ClimbMix): not for commercial use",
    homepage="https://huggingface.co/datasets/nvidia/Nemotron-ClimbMix",
    most_files=170,
)


def add_options(parser: argparse.ArgumentParser, *, hosted: Hosted | None) -> None:
    """What `prepare_hosted` or `prepare_local` reads."""
    default = Recipe("")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    if hosted is None:
        parser.add_argument(
            "inputs", type=Path, nargs="+", help=f"{', '.join(KINDS)} files, or folders of them"
        )
        parser.add_argument(
            "--text-key", default=default.text_key, help="column or key of the text"
        )
        parser.add_argument("--licence", default="not stated", help="for the manifest")
    else:
        parser.add_argument(
            "--repository", default=hosted.repository, help=f"default: {hosted.repository}"
        )
        number = "all" if hosted.most_files is None else hosted.most_files
        parser.add_argument(
            "--most-files", type=int, default=hosted.most_files, help=f"default: {number}"
        )
    parser.add_argument(
        "--mirror", type=Path, help="a folder laid out as the hub is; default: HARNESS_MIRROR"
    )
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core"
    )
    parser.add_argument(
        "--held-out", type=int, default=default.held_out, help="tokens in each held-out split"
    )
    parser.add_argument(
        "--piece-bytes", type=int, default=default.piece_bytes, help="text in a piece and a shard"
    )
    parser.add_argument(
        "--any-size", action="store_true", help="accept parts of evaluation sets, to try things out"
    )


def prepare_hosted(args: argparse.Namespace, hosted: Hosted) -> None:
    """Make the folder out of a data set on the hub or in a mirror. Raises DataError, OSError."""
    recipe = _recipe(args, "text")
    settings = {**recipe.as_json(), "repository": args.repository, "most_files": args.most_files}
    out: Path = args.out.absolute()
    if is_complete(out, settings):
        clear_leftovers(out)
        print(f"{out} is complete")
        return
    origin = Origin(out.parent / "downloads", mirror_folder(args.mirror))
    print(f"taking {args.dataset} from {args.repository}", flush=True)
    fetched = origin.fetch(args.repository, hosted.patterns, args.most_files)
    description = {
        "name": args.dataset,
        "repository": args.repository,
        "revision": fetched.revision,
        "licence": hosted.licence,
        "homepage": hosted.homepage,
    }
    source = Source(description, fetched.files)
    build_corpus(out, recipe, settings, source, origin, args.workers)


def prepare_local(args: argparse.Namespace) -> None:
    """Make the folder out of files of this machine. Raises DataError, OSError."""
    recipe = _recipe(args, args.text_key)
    out: Path = args.out.absolute()
    inputs = find_inputs(args.inputs)
    folder = Path(os.path.commonpath([path.parent for path in inputs]))
    files = describe_files([path.relative_to(folder).as_posix() for path in inputs], folder)
    settings: dict[str, Any] = {
        **recipe.as_json(),
        "files": [file.as_json() for file in files],
        "licence": args.licence,
    }
    if is_complete(out, settings):
        clear_leftovers(out)
        print(f"{out} is complete")
        return
    origin = Origin(out.parent / "downloads", mirror_folder(args.mirror))
    source = Source({"name": "text", "revision": None, "licence": args.licence}, tuple(files))
    build_corpus(out, recipe, settings, source, origin, args.workers)


def find_inputs(inputs: Sequence[Path]) -> list[Path]:
    """The files that are meant, each once, in order. Raises DataError if one is not there."""
    found: dict[Path, None] = {}
    for given in inputs:
        path = given.absolute()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in KINDS)
            if not inside:
                raise DataError(f"{given} holds none of {', '.join(KINDS)}")
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[path] = None
        else:
            raise DataError(f"there is no {given}")
    return list(found)


def _recipe(args: argparse.Namespace, text_key: str) -> Recipe:
    for name in ("workers", "held_out", "piece_bytes", "most_files"):
        if (value := getattr(args, name, None)) is not None and value < 1:
            raise DataError(f"--{name.replace('_', '-')} must be 1 or more")
    return Recipe(
        dataset=args.dataset,
        text_key=text_key,
        held_out=args.held_out,
        piece_bytes=args.piece_bytes,
        any_size=args.any_size,
    )
