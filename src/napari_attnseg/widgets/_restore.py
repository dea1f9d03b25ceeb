"""The offer to bring back what a window that ended left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtWidgets import QFileDialog, QFrame, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError, plain_sentence
from napari_attnseg.io.journal_folder import Left, left_behind, set_aside
from napari_attnseg.viewer.journal_restore import order_of, restore
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
        self._brought: dict[Path, Any] = {}
        self._moved: dict[str, Path] = {}  # where images are now, by where they were
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

    @property
    def first(self) -> list[Left]:
        """All journals of the window that is asked about, in the order they are brought back."""
        folder = self.found[0].path.parent if self.found else None
        return sorted((x for x in self.found if x.path.parent == folder), key=order_of)

    def bring_back(self, path: Path | None = None) -> None:
        """Bring back what the first window had; the next one is offered then. ``path``: where the
        image is now that was not found."""
        if not self.found or self.hub.closed:
            return
        images = []
        if path is not None:
            self._moved[_place(self.first[0])] = path
        for left in self.first:
            image, was = left.facts.get("image", {}), _place(left)
            where = self._moved.get(was) or (Path(was) if was else None)
            if where is not None and where.exists() and (where, image.get("part")) not in images:
                images.append((where, image.get("part")))
        self.bring.setEnabled(False)
        openings_for(self.hub.viewer).ahead(images, self._restore)

    def _restore(self) -> None:
        self.bring.setEnabled(True)
        if not self.found or self.hub.closed:
            return
        told: list[str] = []
        problems: list[AttnSegError] = []  # of those that stay, in the order of ``first``
        with busy_pointer():
            for left in self.first:
                problem = self._one(left, told)
                problems += [problem] if problem else []
                if not problem:
                    self.found.remove(left)
        if told:
            more = (f"And {words.removeprefix('Brought back: ')}" for words in told[1:])
            self._told(" ".join([told[0], *more]))
        self._show(self.found)
        if problems:
            self.where.setVisible(isinstance(problems[0], ImageGone))
            self._complain(str(problems[0]))

    def _one(self, left: Left, told: list[str]) -> AttnSegError | None:
        """Bring back one journal; what is in its way."""
        path = self._moved.get(_place(left))
        try:
            told.append(restore(self.hub, left, path, self._check_later, self._brought))
        except AttnSegError as error:
            return error
        return None

    def _check_later(self, check: Callable[[], str]) -> None:
        check_behind(self, check, self._complain)

    def discard(self) -> None:
        """Put what the first window had aside."""
        first = self.first
        for left in first:
            set_aside(left)
        self._show([left for left in self.found if left not in first])

    def _show(self, found: list[Left]) -> None:
        self.found = found
        self.where.hide()
        self.setVisible(bool(found))
        if found:
            lines = [f"<b>Not saved last time.</b> {found[0].words()}."]
            names = [left.thing() for left in self.first if left is not found[0]]
            if names:
                lines.append(f"From the same window: {', '.join(names)}.")
            rest = len({left.path.parent for left in found}) - 1
            if rest:
                lines.append(f"({rest} more window{'' if rest == 1 else 's'} after this one.)")
            self.words.setText("<br>".join(lines))

    def _ask_where(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, f"Where is {self.first[0].image}?")
        if path:
            self.bring_back(Path(path))


def _place(left: Left) -> str:
    """Where its image was; empty for one without a file."""
    return str(left.facts.get("image", {}).get("path") or "")
