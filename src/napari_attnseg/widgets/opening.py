"""Opening files from the window: the Open... dialog, the question which volume, drag and drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog, QWidget

from napari_attnseg.errors import InputError
from napari_attnseg.viewer import reader
from napari_attnseg.viewer.layers import LayerData
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._openings import openings_for, takes_long

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import ViewerModel

    from napari_attnseg.io.many import ManyVolumes

PLUGIN = "napari-attnseg"
PATTERNS = ("*.nii", "*.nii.gz")
FILTER = (
    "Images and volumes (*.nii *.nii.gz *.dcm *.nrrd *.nhdr *.mha *.mhd *.png *.jpg *.jpeg *.tif "
    "*.tiff *.bmp *.gif);;All files, DICOM without an ending too (*)"
)


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """npe2 reader: like ``viewer.reader.get_reader``, but a 4D file asks which volume, and large
    files that are dropped on a window come in behind it."""
    return None if reader.get_reader(path) is None else _read


def _read(path: str | Sequence[str]) -> list[LayerData]:
    if QApplication.instance() is None:
        return reader.read_layers(path)
    paths = [path] if isinstance(path, str) else list(path)
    late = [Path(p) for p in paths if takes_long(Path(p))]
    if not late or not drop_behind(late):
        return reader.read_layers(paths, ask_volume)
    now = [p for p in paths if Path(p) not in late]
    return reader.read_layers(now, ask_volume)  # of no path: nothing to add yet, on purpose


def drop_behind(paths: Sequence[Path]) -> bool:
    """Open large files behind the present window; false when there is none."""
    import napari
    from napari.utils.notifications import show_error, show_info

    viewer = napari.current_viewer()
    if viewer is None:
        return False
    openings = openings_for(viewer)
    if not len(openings.began):  # no dock tells of it
        openings.began.connect(show_info)
        openings.ended.connect(lambda problem: show_error(problem) if problem else None)
    for path in paths:
        openings.open(path, ask_volume)
    return True


def ask_volume(path: Path, many: ManyVolumes, parent: QWidget | None = None) -> int | None:
    """Which volume (from 0) of several to open; ``None`` when the person cancels."""
    count = many.count
    if many.names:
        names = [f"{i}: {name}" for i, name in enumerate(many.names)]
        words = f"{path.name} holds {count} volumes. Open:"
        name, fine = QInputDialog.getItem(parent, "Which volume?", words, names, 0, False)
        return names.index(name) if fine else None
    number, fine = QInputDialog.getInt(
        parent,
        "Which volume?",
        f"{path.name} holds {count} volumes.\nOpen number (0 to {count - 1}):",
        0,
        0,
        count - 1,
    )
    return number if fine else None


def choose_file(parent: QWidget) -> str:
    """A file to open, starting in the last folder; an empty string when cancelled."""
    start = str(recall("folder", str(Path.home())))
    path, _ = QFileDialog.getOpenFileName(parent, "Open an image or a volume", start, FILTER)
    if path:
        remember("folder", str(Path(path).parent))
    return path


def choose_folder(parent: QWidget) -> str:
    """A folder to open (DICOM, OME-Zarr); an empty string when cancelled."""
    start = str(recall("folder", str(Path.home())))
    path = QFileDialog.getExistingDirectory(parent, "Open a DICOM folder or an OME-Zarr", start)
    if path:
        remember("folder", str(Path(path).parent))
    return path


def open_file(viewer: ViewerModel, path: str, parent: QWidget | None = None) -> list[Layer]:
    """Open a file or a folder with our readers, whatever napari's default reader is.

    Raises ``InputError`` with one sentence for a file that cannot be used.
    """
    found = reader.read_layers(path, lambda p, many: ask_volume(p, many, parent))
    made = [data for data in found if len(data) == 3]  # (None,): the person cancelled
    from napari.layers import Layer

    layers = [Layer.create(*data) for data in made]
    for layer in layers:
        viewer.add_layer(layer)
    return layers


def is_default_reader() -> bool:
    """Whether dropped NIfTI files come to our reader without a question."""
    from napari.settings import get_settings

    chosen = get_settings().plugins.extension2reader
    return all(chosen.get(pattern) == PLUGIN for pattern in PATTERNS)


def make_default_reader() -> None:
    """With the person's consent: dropped NIfTI files come to our reader from now on."""
    from napari.settings import get_settings

    plugins = get_settings().plugins
    plugins.extension2reader = {**plugins.extension2reader, **dict.fromkeys(PATTERNS, PLUGIN)}


def checked_model_file(parent: QWidget) -> str:
    """A checkpoint file chosen by the person, or an empty string."""
    start = str(recall("model_folder", recall("folder", str(Path.home()))))
    path, _ = QFileDialog.getOpenFileName(
        parent, "Load a model", start, "Checkpoints (*.safetensors);;All files (*)"
    )
    if path:
        remember("model_folder", str(Path(path).parent))
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file; choose a .safetensors checkpoint.")
    return path
