"""Export of a mask: written, read again and compared, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_attnseg.errors import plain_sentence
from napari_attnseg.viewer import writer
from napari_attnseg.viewer.layers import layer_volume
from napari_attnseg.viewer.making import making_of, with_source
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._bridge import to_main_thread
from napari_attnseg.widgets._parts import button, hint, into_view

if TYPE_CHECKING:
    from napari_attnseg.viewer.results import ResultLayers

TICK = '<span style="color:#3fae5a; font-size: 15px;"><b>✓</b></span> '
TIP = (
    "Write NIfTI, NRRD, MHA, OME-Zarr, TIFF, PNG or, of a DICOM series, DICOM-SEG; then read the "
    "file again and compare it"
)


def named(path: str, chosen: str, kinds: str) -> str:
    """The file that is written: a typed ending counts, unless another format than the first was
    chosen in the dialog. ``kinds``: all of them, see ``writer.filters_of``."""
    typed = path.lower().endswith(writer.SUFFIXES)
    untouched = chosen == kinds.partition(";;")[0]
    return path if typed and untouched else writer.with_ending(path, chosen)


class ExportPart(QWidget):
    """A button, and the verdict under it. ``results``: whose labels are written.

    ``complain`` is called with a sentence when nothing was written; ``problem`` may say, before
    anything is asked, why the mask is not ready.
    """

    exported = Signal(str)

    def __init__(
        self,
        results: Callable[[], ResultLayers | None],
        complain: Callable[[str], None],
        shortcut: str = "",
        problem: Callable[[], str] = lambda: "",
    ) -> None:
        super().__init__()
        self._results, self._complain, self._problem = results, complain, problem
        self.button = button("Export mask...", TIP, shortcut)
        self.button.clicked.connect(self.choose_target)
        self.verdict = hint()
        self.verdict.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.button)
        box.addWidget(self.verdict)

    def choose_target(self) -> None:
        """Ask for a file and write it."""
        results = self._results()
        if results is None or results.layer("labels") is None:
            return
        if problem := self._problem():
            self._complain(problem)
            return
        volume = layer_volume(results.source)
        suffix = writer.suggested_suffix(volume, results.shape[0])
        folder = Path(str(recall("export_folder", recall("folder", str(Path.home())))))
        name = f"{results.source.name}_mask{suffix}"
        kinds = writer.filters_of(volume, results.shape[0])
        path, kind = QFileDialog.getSaveFileName(self, "Export the mask", str(folder / name), kinds)
        if path:
            remember("export_folder", str(Path(path).parent))
            self._export_as(path, named(path, kind, kinds))

    def _export_as(self, asked: str, path: str) -> None:
        """Write ``path``, unless it is there and the dialog asked only about another name."""
        if path != asked and Path(path).exists():
            self._complain(
                f"{Path(path).name} is there already and was not replaced; export again and type "
                "this name to replace it"
            )
            return
        self.export_to(path)

    def export_to(self, path: str) -> None:
        """Write and verify in a thread; the verdict appears under the button."""
        results = self._results()
        labels = results.layer("labels") if results is not None else None
        if results is None or labels is None or results.edits is None:
            return
        results.edits.complete()
        self.button.setEnabled(False)
        self.verdict.setText("Writing and reading again ...")
        self.verdict.show()
        job = {
            "labels": np.array(labels.data),
            "volume": layer_volume(results.source),
            "classes": dict(enumerate(results.card.class_names)) if results.card else None,
            "colors": dict(enumerate(results.card.class_colors)) if results.card else None,
            "provenance": making_of(results),
        }
        work = (path, job, results.source)
        threading.Thread(target=self._write, args=work, daemon=True).start()

    def _write(self, path: str, job: dict[str, Any], image: Any) -> None:
        try:
            job["provenance"] = with_source(job["provenance"], job["volume"], image)
            verified = writer.export(path, shown=image, **job)
            words = f"{TICK}{verified.path.name}: {verified.message}"
            to_main_thread(lambda: self._on_written(words, ""))
        except Exception as error:  # a thread that dies in silence would leave the button grey
            sentence = plain_sentence(error) or f"the mask was not written ({error!r})"
            to_main_thread(lambda: self._on_written("", sentence))

    def _on_written(self, verdict: str, problem: str) -> None:
        self.button.setEnabled(True)
        self.verdict.setText(verdict)
        self.verdict.setVisible(bool(verdict))
        if verdict:
            into_view(self.verdict)
        if problem:
            self._complain(problem)
        else:
            self.exported.emit(verdict)
