"""napari's activity spinner, held still while we tell the progress ourselves."""

from __future__ import annotations

from qtpy.compat import isalive
from qtpy.QtGui import QMovie
from qtpy.QtWidgets import QApplication, QLabel, QMainWindow, QStatusBar


class StillSpinner:
    """Holds the turning picture in the status bar still; the bars of the activity dock move on.

    A window with an OpenGL canvas is composed anew for every frame of that picture, seventeen
    times a second: without a graphics card this alone makes the mouse stutter.
    """

    def __init__(self) -> None:
        self._held: list[QMovie] = []

    def hold(self) -> None:
        """Stop what turns now."""
        for movie in turning():
            movie.setPaused(True)
            self._held.append(movie)

    def release(self) -> None:
        """Let it turn again, for the work of others that may go on."""
        held, self._held = self._held, []
        for movie in held:
            if isalive(movie) and movie.state() == QMovie.MovieState.Paused:
                movie.setPaused(False)


def turning() -> list[QMovie]:
    """The pictures that move in the status bars of all windows."""
    found = []
    for window in QApplication.topLevelWidgets():
        if not isinstance(window, QMainWindow):
            continue
        for bar in window.findChildren(QStatusBar):
            movies = [label.movie() for label in bar.findChildren(QLabel)]
            found += [m for m in movies if m and m.state() == QMovie.MovieState.Running]
    return found
