"""Text in the cells of a CSV file: a name from a file or a bundle must not become a formula in a spreadsheet."""

from __future__ import annotations

import re

# What Excel, LibreOffice and Google Sheets take for the beginning of a formula, also after blanks; full-width forms too.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\u2212")
CONTROLS = ("\t", "\n", "\0")
# Where commas are decimal marks, spreadsheets also end a cell at a semicolon or a tab.
INSIDE = re.compile(rf"((?:;|(?<=[\s\S])\t)[ \u00a0\ufeff\u200b]*)(?=[{re.escape(''.join(FORMULA))}])")


def text_cell(value: object) -> object:
    """Text that would begin a formula gets an apostrophe before it; numbers and other text stay as they are.

    Example:
        >>> text_cell("=HYPERLINK(1)"), text_cell("liver"), text_cell(-1.5)
        ("'=HYPERLINK(1)", 'liver', -1.5)
    """
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # a lone return ends a row for some readers, quoted or not
    value = INSIDE.sub(r"\1'", value)
    begins = value.lstrip(" \u00a0\ufeff\u200b")
    return f"'{value}" if begins.startswith(FORMULA) or value.startswith(CONTROLS) else value
