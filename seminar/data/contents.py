"""Digests of the contents of files, remembered so that thousands of pictures are read for this only once.

~/.cache/seminar-learning/<16 digits>.json    the files of one folder: size, times and digest of each

The folder (or $XDG_CACHE_HOME/seminar-learning) can be deleted at any time; then files are read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter
from tqdm import tqdm

from seminar.spec import InputError
from seminar.store import write_atomic
from seminar.text import printable

SETTLED = 2 * 10**9
"""Nanoseconds after which a file is taken to be what it was: file systems keep times to two seconds at worst, so one
that was changed just now may change again without its times telling."""

_Facts = tuple[int, int, int]  # size in bytes, and in nanoseconds when content and inode were changed last
_CACHE = TypeAdapter(dict[str, tuple[int, int, int, str]])


def digests(paths: Iterable[Path], folder: Path) -> list[str]:
    """Return the SHA-256 of each file, read now or, where neither size nor times have changed, earlier; `folder` names
    what is remembered together. Raises `InputError` for a file that cannot be read."""
    place = _place(folder)
    known = _load(place)
    fresh: dict[str, tuple[int, int, int, str]] = {}
    files = [(path, os.path.abspath(path)) for path in paths]
    facts = {name: _facts(path) for path, name in files}
    old = {name: known[name] for name in facts if name in known and known[name][:3] == facts[name]}
    rest = {name: path for path, name in files if name not in old}
    if len(rest) > 100:
        print(printable(f"reading {len(rest):,} files of {folder} to know their contents (once)"), file=sys.stderr)
    for name, path in tqdm(rest.items(), desc="contents", unit="file", disable=not sys.stderr.isatty(), leave=False):
        now = time.time_ns()
        try:
            with path.open("rb") as file:
                fresh[name] = (*facts[name], hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if now - max(facts[name][1:]) < SETTLED or _facts(path) != facts[name]:
            old[name] = fresh.pop(name)
    if fresh:
        content = json.dumps(known | fresh).encode()
        remember(place, lambda file: file.write(content))
    return [(fresh.get(name) or old[name])[3] for _, name in files]


def _facts(path: Path) -> _Facts:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def cache() -> Path:
    """Return the folder for what can be computed again: `seminar-learning` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "seminar-learning"


def remember(place: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file below `cache()`. A full disk, or a home that cannot be written to, is no error: what the file would
    hold is computed again next time."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, write)


def _place(folder: Path) -> Path:
    digits = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]
    return cache() / f"{digits}.json"


def _load(place: Path) -> dict[str, tuple[int, int, int, str]]:
    try:
        return _CACHE.validate_json(place.read_bytes())
    except (OSError, ValueError):  # missing or damaged: what it held is read again
        return {}
