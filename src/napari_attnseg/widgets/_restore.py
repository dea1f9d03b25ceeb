"""The offer to bring back what a window that ended left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtWidgets import QFileDialog, QFrame, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError, plain_sentence
from napari_attnseg.io.journal_folder import Left, left_behind, set_aside
from napari_attnseg.viewer.journal_restore import restore
from napari_attnseg.viewer.session_image import ImageGone
from napari_attnseg.widgets._bridge import busy_pointer, to_main_thread
from napari_attnseg.widgets._openings import openings_for
from napari_attnseg.widgets._parts import button, hint, row

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub


def check_behind(owner: QWidget, check: Callable[[], str], tell: Callable[[str], None]) -> None:
    """``check`` in a thread: hashing an image takes seconds; ``tell`` its words, if any, while
    ``owner`` lives."""

    def work() -> None:
        try:
            words = check()
        except Exception as error:  # a lazy image may raise anything while it is read
            words = plain_sentence(error) or ""
        if words:
            to_main_thread(lambda: tell(words) if isalive(owner) else None)

    threading.Thread(target=work, name="attnseg-digest", daemon=True).start()


class RestoreOffer(QFrame):
    """Seen only when there is something; asks about one window after the other, newest first.

    ``told`` shows what was brought back, ``complain`` what went wrong.
    """

    def __init__(
        self, hub: Hub, told: Callable[[str], None], complain: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.hub, self._told, self._complain = hub, told, complain
        self.found: list[Left] = []
        self.words = hint()
        self.bring = button(
            "Bring back", "Opens the image and shows the labels with all hand edits, as they were"
        )
        self.leave = button(
            "Discard", "Does not ask again; napari-attnseg restore still lists it for a while"
        )
        self.where = button("Where is the image now? ...", "Choose the file that the labels lie on")
        self.bring.clicked.connect(lambda: self.bring_back())
        self.leave.clicked.connect(self.discard)
        self.where.clicked.connect(self._ask_where)
        self.setObjectName("restore")
        self.setStyleSheet("#restore { border: 1px solid rgba(128, 128, 128, 120); }")
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(4)
        for widget in (self.words, self.where, row(self.bring, self.leave)):
            box.addWidget(widget)
        self.hide()

    def look(self) -> None:
        """Read the journals in a thread; the offer appears when there are any."""

        def work() -> None:
            found = left_behind()
            to_main_thread(lambda: self._show(found) if isalive(self) else None)

        threading.Thread(target=work, name="attnseg-restore", daemon=True).start()

    def bring_back(self, path: Path | None = None) -> None:
        """Bring the first one back; the next one is offered then."""
        if not self.found or self.hub.closed:
            return
        image = self.found[0].facts.get("image", {})
        where = path or (Path(image["path"]) if image.get("path") else None)
        images = [(where, image.get("part"))] if where is not None and where.exists() else []
        self.bring.setEnabled(False)
        openings_for(self.hub.viewer).ahead(images, lambda: self._restore(path))

    def _restore(self, path: Path | None) -> None:
        self.bring.setEnabled(True)
        if not self.found or self.hub.closed:
            return
        try:
            with busy_pointer():
                words = restore(self.hub, self.found[0], path, self._check_later)
        except ImageGone as error:
            self.where.show()
            self._complain(str(error))
        except AttnSegError as error:
            self._complain(str(error))
        else:
            self._told(words)
            self._show(self.found[1:])

    def _check_later(self, check: Callable[[], str]) -> None:
        check_behind(self, check, self._complain)

    def discard(self) -> None:
        """Put the first one aside."""
        if self.found:
            set_aside(self.found[0])
            self._show(self.found[1:])

    def _show(self, found: list[Left]) -> None:
        self.found = found
        self.where.hide()
        self.setVisible(bool(found))
        if found:
            more = f"<br>({len(found) - 1} more after this one.)" if len(found) > 1 else ""
            self.words.setText(f"<b>Not saved last time.</b> {found[0].words()}.{more}")

    def _ask_where(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, f"Where is {self.found[0].image}?")
        if path:
            self.bring_back(Path(path))
