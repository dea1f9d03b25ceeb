"""``measure``: volumes, surfaces, parts and values of masks, and agreement with references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.cli._common import say
from napari_attnseg.errors import AttnSegError, InputError, plain_sentence

if TYPE_CHECKING:
    from napari_attnseg.io.measure_files import FileMeasures

SHOWN = ("class", "voxels", "volume_ml", "area_mm2", "surface_mm2", "perimeter_mm", "parts")
MORE = ("mean", "sd", "dice", "iou", "hd95", "surface_dice")


def measure(
    mask: Annotated[Path, typer.Argument(help="A mask, or a folder of masks.")],
    image: Annotated[
        Path | None, typer.Option(help="Its image, or a folder: mean and sd of its values.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A mask taken for right, or a folder: Dice, HD95, ...")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Of the surface Dice, in mm (pixels where no size is known); default 2 mm, of "
            "pictures 2 pixels.",
        ),
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="A row per connected part of a class, too.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the table with all columns here.")] = None,
) -> None:
    """Measure the classes of MASK: volume, surface (marching cubes), parts, box, centroid, values.

    Of folders, files go together by name (a_mask.png and a.png); a file that cannot be measured
    is named and the others go on.
    """
    masks = _masks(mask)
    rows: list[dict[str, Any]] = []
    failed = 0
    for path in masks:
        try:
            found = _one(path, mask, image, reference, tolerance, parts)
            rows += found.rows()
            for note in found.notes:
                say(f"note: {note}")
        except (AttnSegError, MemoryError, OSError) as error:
            say(f"error: {path}: {plain_sentence(error) or error}")
            failed += 1
    if rows:
        print(table(rows))
    elif not failed:
        print("no class has a pixel")
    if csv is not None and (rows or not failed):
        from napari_attnseg.io.measures_csv import write_csv

        write_csv(csv, rows)
        say(f"written: {csv} ({len(rows)} rows)")
    if failed:
        say(f"{len(masks) - failed} of {len(masks)} masks measured")
        raise typer.Exit(1)


def _masks(mask: Path) -> list[Path]:
    from napari_attnseg.io.inputs import images_in, is_one_image

    if not mask.exists():
        raise InputError(f"got {mask}, which does not exist; give a mask or a folder of masks")
    if not mask.is_dir() or is_one_image(mask):
        return [mask]
    found = [p for p in images_in(mask) if not p.name.startswith(".")]
    named = [p for p in found if "_mask." in p.name]  # beside their images and previews
    if not found:
        raise InputError(f"no mask found in {mask}; give a mask or a folder of masks")
    return named or found


def _one(
    path: Path,
    given: Path,
    image: Path | None,
    reference: Path | None,
    tolerance: float | None,
    parts: bool,
) -> FileMeasures:
    from napari_attnseg.io.measure_files import measure_file

    beside, truth = _of(path, given, image), _of(path, given, reference)
    return measure_file(path, beside, truth, tolerance, parts, _names(path))


def _of(path: Path, given: Path, other: Path | None) -> Path | None:
    """The file that belongs to a mask: the one given, or the one of its name in the folder."""
    from napari_attnseg.io.inputs import images_in, is_one_image
    from napari_attnseg.io.measure_files import partner

    if other is None:
        return None
    if other.is_dir() and not is_one_image(other):
        return partner(path, images_in(other))
    if given.is_dir() and path != given:
        raise InputError(f"got one file {other.name} for a folder of masks; give a folder too")
    return other


def _names(path: Path) -> dict[int, str]:
    """Class names that the mask says itself."""
    from napari_attnseg.io.comment import comment_of

    told = comment_of(path).get("classes") or {}
    return {int(i): str(name) for i, name in told.items() if str(i).isdigit()}


def table(rows: list[dict[str, Any]]) -> str:
    """The columns that say something, for a terminal."""
    first = ["mask"] if len({r["mask"] for r in rows}) > 1 else []
    names = [*first, *(n for n in (*SHOWN, *MORE) if any(r.get(n) not in (None, "") for r in rows))]
    cells = [names] + [[_cell(r.get(n), n, r) for n in names] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if names[i] in ("mask", "class") else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cell(value: Any, name: str, row: dict[str, Any]) -> str:
    if name == "class" and row.get("part"):
        return f"{value}, part {row['part']}"
    if value is None or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
