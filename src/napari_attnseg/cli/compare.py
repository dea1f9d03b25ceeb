"""``compare``: a bake-off of attention mechanisms on one data set, all else equal."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_attnseg.cli._common import Device, say
from napari_attnseg.cli._data import DataSet, Limit, Reading, Sets, Tables
from napari_attnseg.cli._settings import parse_pairs
from napari_attnseg.cli.experiment import carry_out, parse_seeds


def compare(
    attention: Annotated[
        list[str],
        typer.Argument(
            help="Contestants: a name (cbam), or a placement (skip[1:]=cbam:reduction=8); several "
            'placements in one, separated by ";". The plain U-Net is always among them.'
        ),
    ],
    data: DataSet,
    out: Tables,
    size: Annotated[int, typer.Option(min=0, help="Working size in pixels (0: 128).")] = 0,
    epochs: Annotated[int, typer.Option(min=0, help="Of every contestant (0: 30).")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="0: 8.")] = 0,
    limit: Limit = 0,
    seeds: Annotated[
        str, typer.Option(help="Seeds, separated by commas; without several, nothing can be said.")
    ] = "0,1,2",
    width: Annotated[float, typer.Option(min=0.0, help="Width of the network (0: 0.25).")] = 0.0,
    labels: Reading = "",
    set_: Sets = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Model option NAME=VALUE, as levels=3 (repeatable).")
    ] = None,
    device: Device = "auto",
) -> None:
    """Train one U-Net with every contestant: same seeds, split and budget; one table of Dice, IoU,
    time, parameters and MACs with the spread over seeds, and masks and maps side by side."""
    numbers = parse_seeds(seeds)
    changed, options = parse_pairs(set_ or [], "--set"), parse_pairs(option or [], "--option")
    from napari_attnseg.engine.experiment.gallery import write_gallery
    from napari_attnseg.engine.experiment.plan import Scale
    from napari_attnseg.engine.experiment.plan_compare import compare as bake_off
    from napari_attnseg.engine.experiment.suited import suited
    from napari_attnseg.io.layouts import find_layout

    scale = Scale(size, epochs, batch, width, numbers, changed, options)
    bake_off(attention, scale)  # wrong words are refused before the folder is looked at
    layout = find_layout(data, labels, limit)
    base, note = suited(layout)
    plan = bake_off(attention, scale, base)
    carry_out(plan, layout, out, device, True, note)
    for path in write_gallery(plan, layout, out, device):
        say(f"written: {path}")
