"""A score half from its model server's start to metrics.json: check, measure, audit."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable

from scoring.audit import BFLOAT16, CHANGES, FLOAT32, Recorded, audit, save_losses
from scoring.model import ScoredModel
from scoring.report import Report, Surroundings
from scoring.served import Checkpoint, ServedModel, Sizes, cost, ready

AUDITED = 2048
"""Positions that are asked again, unless the task's script says otherwise."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every score half takes besides its own options."""
    parser.add_argument(
        "--max-extra",
        type=float,
        required=True,
        help="numbers that a model may hold besides the unedited one's, as a share of those",
    )
    parser.add_argument(
        "--audited", type=int, default=AUDITED, help="positions that the audit asks again"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="score in bfloat16, as training computes"
    )
    parser.add_argument("settings", nargs="*", help="the training file's --key=value, behind --")


def examine(
    measure: Callable[[ScoredModel], Report],
    around: Surroundings,
    label: str,
    options: argparse.Namespace,
) -> None:
    """Writes metrics.json with what `measure` finds and whether an audit bears it out.

    `label` is the stage whose checkpoint is scored. Raises ScoreError.
    """
    sizes = Sizes.of(options.settings)
    checkpoint = Checkpoint(around.run_out, label)
    with ServedModel(label, sizes, bfloat16=options.bfloat16) as server:
        model = ready(server, checkpoint, sizes, options.max_extra)
        before = server.digest()
        report = measure(model)
        changed = server.digest() != before
        # Told once, by the stage that trained; counting takes seconds.
        spent = cost(checkpoint, sizes, server.flops()) if label == around.stage else None
    # A process of its own, started when the first is dead: neither can tell the other anything.
    with ServedModel(label, sizes, most=1) as fresh:
        fresh.load()
        seed = secrets.randbits(64)
        verdict = audit(
            model,
            fresh.hidden_states,
            options.audited,
            seed,
            rounding=BFLOAT16 if options.bfloat16 else FLOAT32,
            unedited=around.unedited,
            label=around.stage,
        )
    save_losses(Recorded.of(model.scored), around.out / "reference", around.stage)
    report.void = CHANGES if changed else verdict.void
    report.hidden["audit"] = verdict.facts | {"changed": changed, "category": report.void}
    if spent is not None:
        report.hidden["audit"]["cost"] = spent
    report.write(around.out)
    print(f"audit: {sum(s['positions'] for s in verdict.facts['samples'].values())} positions")
