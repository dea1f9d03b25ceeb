"""Where training and test images come from: two folders, or a recognised data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.cli._common import say
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.io.layout import Layout

Images = Annotated[Path | None, typer.Option(help="Folder of images (2D or NIfTI).")]
Masks = Annotated[Path | None, typer.Option(help="Folder of masks, paired by file name.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Instead of --images and --masks: folder of a data set as its archive unpacks "
        "(Kvasir, LiTS, DRIVE, ISIC-2017, CUB, Oxford Pets, fish, fire, flood; or images/ and "
        "masks/). Its training part trains, its test part is evaluated."
    ),
]
Labels = Annotated[
    str,
    typer.Option(help="With --data, how masks are read: border-ignored, liver, id=1+2, ..."),
]

DataSet = Annotated[
    Path, typer.Option(help="Folder of a data set, as its archive unpacks, or images/ + masks/")
]
Limit = Annotated[
    int, typer.Option(min=0, help="Images at most, a fifth of them for the test (0: all).")
]
Reading = Annotated[
    str, typer.Option(help="Reading of the masks (border-ignored, liver, id=1, ...).")
]
Tables = Annotated[Path, typer.Option(help="Folder for the tables; given again, it goes on.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Training value NAME=VALUE (repeatable).")
]


def layout_of(
    images: Path | None, masks: Path | None, data: Path | None, labels: str
) -> Layout | None:
    """The data set of ``--data``, or ``None`` when two folders were given.

    Raises ``InputError`` unless it is one or the other.
    """
    if data is None:
        if images is None or masks is None:
            raise InputError(
                "got no training data; expected --images and --masks, or --data with the folder "
                "of a data set"
            )
        if labels:
            raise InputError("got --labels without --data; leave it out, or give --data")
        return None
    if images is not None or masks is not None:
        raise InputError("got --data and folders as well; expected --data alone, or both folders")
    from napari_attnseg.io.layouts import find_layout

    layout = find_layout(data, labels)
    say(layout.report())
    return layout
