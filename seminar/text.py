"""Text that others wrote, on its way to a terminal, a file name, a spreadsheet or a message."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import sys
import unicodedata
import warnings
from pathlib import Path

JOINERS = "\u200c\u200d"
"""Invisible, but part of words in Persian and of some pictograms."""
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
LONGEST_NAME = 80
_REMEDIES = {
    errno.ENOSPC: "; free some space and call again",
    errno.EDQUOT: "; free some space and call again",
    errno.EROFS: "; name another folder",
    errno.EACCES: "; change its permissions, or name another folder",
    errno.EPERM: "; change its permissions, or name another folder",
}


def tolerate_encoding() -> None:
    """Have the standard output show `?` for signs that its encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


_usual_format = warnings.formatwarning


def one_line_warnings() -> None:
    """Have warnings of this package shown as one line for people, without the place in its source; those of others
    stay as Python shows them."""
    warnings.formatwarning = _format


def _format(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category is RuntimeWarning and Path(filename).is_relative_to(Path(__file__).parent):
        return f"seminar: warning: {printable(' '.join(str(message).split()))}\n"
    return _usual_format(message, category, filename, lineno, line)


def printable(text: object) -> str:
    """Return the text with everything that is no visible sign written out (`\\x1b`), but for line breaks: names of
    files and classes, errors and records of others may hold what a terminal takes for orders, or turn the order of
    signs round."""
    signs = str(text)
    if signs.isprintable():
        return signs
    return "".join(s if s.isprintable() or s == "\n" or s in JOINERS else ascii(s)[1:-1] for s in signs)


def spreadsheet(text: str) -> str:
    """Return the text for a cell of a CSV file: one that begins as a formula does, also in the wide signs of Chinese
    and Japanese, gets a `'` before it, by which spreadsheets take it for text."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip("\n").startswith(FORMULAS) else shown


def file_name(name: str) -> str:
    """Return a name as the name of a file or folder, a different one for every name. Names of up to 80 letters (a to
    z), digits, `-` and `_` stay as they are; others are cut and changed, and end in 8 digits of their SHA-256."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", unicodedata.normalize("NFKD", name))[:LONGEST_NAME]
    return kept if kept == name and name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def brief(value: object, longest: int = 200) -> str:
    """Return a value of others as Python writes it, cut to `longest` signs."""
    return _cut(repr(value), longest)


def plain(value: object, longest: int = 200) -> str:
    """Return a value of others as a user writes it, in one line, cut to `longest` signs."""
    return _cut(printable(value).replace("\n", r"\n"), longest)


def system_error(error: OSError) -> str:
    """Return an error of the operating system for people: the file, what is wrong and, where that is known, what to
    do."""
    if error.strerror is None:  # made by a library, with a text of its own
        return str(error)
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{file}{error.strerror}{_REMEDIES.get(error.errno or 0, '')}"


def _cut(shown: str, longest: int) -> str:
    return shown if len(shown) <= longest else f"{shown[:longest]}..."
