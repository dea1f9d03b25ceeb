"""The command line as a person meets it: its result, or its exit code and words."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest
from typer.testing import CliRunner, Result

from napari_attnseg.cli import app, main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def message(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error of the entry point: what a person sees."""
    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(error):
        patch.setattr(sys, "argv", ["napari-attnseg", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), error.getvalue()
    return 0, error.getvalue()
