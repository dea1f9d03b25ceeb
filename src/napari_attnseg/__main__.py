"""``python -m napari_attnseg`` is the command line."""

from napari_attnseg.cli import main

main()
