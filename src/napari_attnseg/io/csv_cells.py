"""Words in a table that spreadsheets would take for a formula, and back.

A name such as ``=HYPERLINK(...)`` or ``@SUM(A1)`` is run by the program that opens the table, on
the computer of whoever opens it. An apostrophe before it says that it is text. Numbers stay.
"""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\n＝＋－＠]")  # noqa: RUF001: wide forms count as well
_ESCAPED = re.compile(r"'+[=+\-@\t\n＝＋－＠]")


def cell(value: Any) -> Any:
    """``value`` as it may stand in a table; nothing but text is changed. A carriage return, which
    ends a line for some readers even within quotes, becomes a space."""
    if not isinstance(value, str):
        return value
    words = value.replace("\r", " ")
    return f"'{words}" if _FORMULA.match(words) and not _is_number(words) else words


def text_of(cell: str) -> str:
    """The words that :func:`cell` was given (without a carriage return)."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
