"""Docks. Importing any of them tells the hub how engine events reach Qt's main thread."""

from napari_attnseg.viewer.hub import set_dispatcher
from napari_attnseg.widgets._bridge import to_main_thread

set_dispatcher(to_main_thread)
