"""Docks. Importing any of them tells the hub how to reach Qt's main thread and its windows."""

from napari_attnseg.viewer.dispatching import set_dispatcher
from napari_attnseg.viewer.edits_shown import set_waiting
from napari_attnseg.widgets._bridge import busy_pointer, to_main_thread, when_window_goes
from napari_attnseg.widgets._turns import in_turns

set_dispatcher(to_main_thread, when_window_goes, in_turns)
set_waiting(busy_pointer)
