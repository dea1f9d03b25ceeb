"""The command line: train, predict, evaluate, sweep, experiment, cka, models, attentions, ...

Exit code 0 only when everything asked for was written and verified.
"""

from __future__ import annotations

import sys

import typer

from napari_attnseg.cli import (
    attentions,
    cka,
    compare,
    demo,
    evaluate,
    experiment,
    measure,
    models,
    predict,
    reproduce,
    restore,
    train,
)
from napari_attnseg.errors import AttnSegError, plain_sentence

app = typer.Typer(
    name="napari-attnseg",
    help="Train, run, tune and compare attention segmentation models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("measure")(measure.measure)
app.command("reproduce")(reproduce.reproduce)
app.command("evaluate")(evaluate.evaluate)
app.command("sweep")(evaluate.sweep)
app.command("experiment")(experiment.experiment)
app.command("compare")(compare.compare)
app.command("cka")(cka.cka)
app.command("models")(models.models)
app.command("attentions")(attentions.attentions)
app.command("info")(models.info)
app.command("demo")(demo.demo)
app.command("restore")(restore.restore)


def main() -> None:
    """Run the command line; a known problem is one sentence on standard error, exit code 1."""
    try:
        app()
    except (AttnSegError, MemoryError, OSError, RuntimeError) as error:
        sentence = plain_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped by the keyboard; what was finished is kept", file=sys.stderr)
        raise SystemExit(130) from None
