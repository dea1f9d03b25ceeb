"""Options of ``predict`` that tidy a mask before it is written."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_attnseg.errors import InputError

KeepLargest = Annotated[
    bool,
    typer.Option(
        "--keep-largest",
        help="Of every class only its largest connected part stays (of two kidneys one).",
    ),
]
FillHoles = Annotated[
    bool,
    typer.Option(
        "--fill-holes",
        help="Background that a class encloses on all sides becomes that class (after "
        "--keep-largest).",
    ),
]
FillHoles2d = Annotated[
    bool, typer.Option("--fill-holes-2d", help="The same within each slice alone.")
]


def steps_of(keep_largest: bool, fill_holes: bool, fill_holes_2d: bool) -> tuple[str, ...]:
    """Names of the steps in their order. Raises ``InputError`` for both ways of filling."""
    from napari_attnseg.io.tidying import FILL_2D, FILL_3D, KEEP_LARGEST

    if fill_holes and fill_holes_2d:
        raise InputError(
            "got --fill-holes and --fill-holes-2d, expected one of them; the second fills more"
        )
    wanted = ((KEEP_LARGEST, keep_largest), (FILL_3D, fill_holes), (FILL_2D, fill_holes_2d))
    return tuple(name for name, chosen in wanted if chosen)
