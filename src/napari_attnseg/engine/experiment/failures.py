"""Runs that failed, and why: a small file each, so that the report can say it later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from napari_attnseg.engine.experiment.plan import Plan, Run
from napari_attnseg.engine.experiment.records import write_json
from napari_attnseg.errors import EngineError, InputError, plain_sentence

FAILURES = (EngineError, InputError, RuntimeError, ValueError, MemoryError)
"""What may go wrong with one contestant and not with the next one."""
Failed = Mapping[tuple[str, int], str]
"""Row key and seed to the sentence."""


def failure_path(out: Path, run: Run) -> Path:
    """Where it lies why a run failed."""
    return out / "runs" / f"{run.key}.failed.json"


def note_failure(out: Path, run: Run, error: Exception) -> str:
    """Keep why a run failed; the sentence."""
    words = plain_sentence(error) or str(error) or type(error).__name__
    write_json(failure_path(out, run), {"row": run.row.label, "seed": run.seed, "error": words})
    return words


def forget_failure(out: Path, run: Run) -> None:
    """The run is tried again."""
    failure_path(out, run).unlink(missing_ok=True)


def failures(out: Path, plan: Plan) -> dict[tuple[str, int], str]:
    """Every failed run of a folder."""
    found = {}
    for run in plan.runs:
        try:
            told = json.loads(failure_path(out, run).read_text())
        except (OSError, json.JSONDecodeError):
            continue
        found[run.row.key, run.seed] = str(told.get("error", ""))
    return found


def failure_words(plan: Plan, failed: Failed) -> list[str]:
    """One sentence per failed run."""
    labels = {row.key: row.label for row in plan.rows}
    return [f"Failed: {labels[key]}, seed {seed}: {why}" for (key, seed), why in failed.items()]
