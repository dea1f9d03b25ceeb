"""Saving a session and opening one: two buttons, and the question where an image is now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError, InputError, plain_sentence
from napari_attnseg.io.session_file import SUFFIX
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.viewer.session import draft_of, image_places, open_session
from napari_attnseg.widgets._bridge import busy_pointer, to_main_thread
from napari_attnseg.widgets._openings import openings_for
from napari_attnseg.widgets._parts import button, hint, row
from napari_attnseg.widgets._restore import check_behind

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

FILTER = f"Sessions of napari-attnseg (*{SUFFIX})"


class SessionPart(QWidget):
    """``saved`` and ``told`` show what was done, ``complain`` what went wrong."""

    def __init__(
        self,
        hub: Hub,
        saved: Callable[[str], None],
        told: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.hub, self._saved, self._told, self._complain = hub, saved, told, complain
        self._path = ""
        self._missing: list[dict[str, Any]] = []
        self.save = button(
            "Save session...",
            "Images (by their place), labels with all hand edits, model and values in one file: "
            "drop it on napari to go on another day",
        )
        self.open = button("Open session...", "Go on from a session that was saved")
        self.words = hint()
        self.where = button("Where is it now? ...", "Choose the file that the labels lie on")
        self.save.clicked.connect(self._ask_target)
        self.open.clicked.connect(self._ask_session)
        self.where.clicked.connect(self._ask_where)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        for widget in (row(self.save, self.open), self.words, self.where):
            box.addWidget(widget)
        self._show_missing([])

    def save_to(self, path: str) -> None:
        """Write the session in a thread; what comes of it is told."""
        target = Path(path if path.lower().endswith(SUFFIX) else path + SUFFIX)
        try:
            draft = draft_of(self.hub)
        except AttnSegError as error:
            self._complain(str(error))
            return
        marks = self.hub.keeper.marks()
        self.save.setEnabled(False)

        def work() -> None:
            problem = ""
            try:
                draft.write(target)
            except Exception as error:  # a lazy image may raise anything while it is read
                problem = plain_sentence(error) or f"{target.name} was not written: {error}"
            to_main_thread(lambda: done(problem))

        def done(problem: str) -> None:
            if not problem and not self.hub.closed:
                self.hub.keeper.saved_at(marks)
            if isalive(self):
                self.save.setEnabled(True)
                self._complain(problem) if problem else self._saved(f"Saved {target.name}.")

        threading.Thread(target=work, name="attnseg-session").start()

    def open_path(self, path: str, places: dict[str, Path] | None = None) -> None:
        """Bring a session into this window; images that are missing are asked for."""
        try:
            images = image_places(path, places)
        except AttnSegError as error:
            self._complain(str(error))
            return
        openings_for(self.hub.viewer).ahead(images, lambda: self._bring(path, places))

    def _bring(self, path: str, places: dict[str, Path] | None) -> None:
        if self.hub.closed:
            return
        try:
            with busy_pointer():
                opened = open_session(self.hub, path, places, self._check_later)
        except AttnSegError as error:
            self._complain(str(error))
            return
        self._path = path
        self._show_missing(opened.missing)
        self._told(opened.words)

    def _check_later(self, check: Callable[[], str]) -> None:
        """Hash the images behind the window; what has changed is told when it is known."""
        check_behind(self, check, self._complain)

    # --- inside ---------------------------------------------------------------------------------

    def _show_missing(self, missing: list[dict[str, Any]]) -> None:
        self._missing = missing
        for widget in (self.words, self.where):
            widget.setVisible(bool(missing))
        if missing:
            first = missing[0]
            more = f" ({len(missing) - 1} more after this one.)" if len(missing) > 1 else ""
            self.words.setText(f"{first['why'][:1].upper()}{first['why'][1:]}.{more}")

    def _ask_target(self) -> None:
        name = f"{self.hub.source.name if self.hub.source is not None else 'session'}{SUFFIX}"
        folder = Path(str(recall("export_folder", recall("folder", str(Path.home())))))
        path, _ = QFileDialog.getSaveFileName(self, "Save the session", str(folder / name), FILTER)
        if path:
            remember("export_folder", str(Path(path).parent))
            self.save_to(path)

    def _ask_session(self) -> None:
        folder = str(recall("export_folder", recall("folder", str(Path.home()))))
        path, _ = QFileDialog.getOpenFileName(self, "Open a session", folder, FILTER)
        if path:
            self.open_path(path)

    def _ask_where(self) -> None:
        name = self._missing[0]["name"]
        folder = str(Path(self._path).parent)
        path, _ = QFileDialog.getOpenFileName(self, f"Where is {name}?", folder)
        if path:
            self.take_from(name, Path(path))

    def take_from(self, name: str, place: Path) -> None:
        """The missing image ``name`` is at ``place`` now; the next missing one is asked for."""
        rest = [facts for facts in self._missing if facts["name"] != name]
        self.open_path(self._path, {name: place})
        if not self._missing:
            self._show_missing(rest)


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[Any]] | None:
    """npe2 reader of session files: one at a time."""
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) != 1 or not str(paths[0]).lower().endswith(SUFFIX):
        return None
    return lambda _: _read(str(paths[0]))


def _read(path: str) -> list[Any]:
    """Into the window that it was dropped on, with the Segment dock; without a window, layers."""
    import napari

    from napari_attnseg.io.session_file import read_session

    read_session(path)  # what cannot be used is said at once
    viewer = napari.current_viewer()
    if viewer is None:
        return _layers(path)

    def go_on() -> None:
        _, dock = viewer.window.add_plugin_dock_widget("napari-attnseg", "Segment")
        dock.session.open_path(path)

    to_main_thread(go_on)  # napari is still busy with what was dropped
    return [(None,)]


def _layers(path: str) -> list[Any]:
    from napari.components import ViewerModel

    from napari_attnseg.viewer.hub import Hub

    hub = Hub(viewer := ViewerModel())
    try:
        missing = open_session(hub, path).missing
        if missing:
            raise InputError(missing[0]["why"])
        return [layer.as_layer_data_tuple() for layer in viewer.layers]
    finally:
        hub.close()


def write_session(path: str, layers: Sequence[Any]) -> list[str]:
    """npe2 writer: the whole window's session, whichever of its layers are chosen."""
    import napari

    from napari_attnseg.viewer.hub import hub_for

    viewer = napari.current_viewer()
    if viewer is None:
        raise InputError("a session is saved from a window; open one first")
    draft_of(hub_for(viewer)).write(Path(path))
    return [path]
