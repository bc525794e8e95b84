"""The pictures of a folder, by the names that people and tools give them; and whose a file of labels is."""

from __future__ import annotations

import os.path
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath

from seminar.data.files import IMAGES, OTHERS, find_images, find_linked, find_unreadable, is_resource_fork, is_turned
from seminar.data.labels import Labels, Source, known
from seminar.data.labels import find as find_format
from seminar.spec import InputError

SUFFIXES = (".json", ".csv", ".xml", ".geojson", ".pnt")
"""Ends of the names of files that may hold labels."""
SHOWN = 10
"""Names without a picture that are reported one by one; looking for what may be meant takes time."""


class Named:
    """The pictures in `folder` and below it. Each goes by its path below the folder without its suffix: its id.

    `wrong` is called with a line for each picture that cannot be told from another. Raises `InputError` for a folder
    without any.
    """

    def __init__(self, folder: Path, wrong: Callable[[str], None]) -> None:
        self.folder, self._wrong = folder, wrong
        self.paths: dict[str, Path] = {}
        for path in find_images(folder):
            id = name_of(path, folder)
            if id in self.paths:
                suffix = path.stem == self.paths[id].stem
                why = (
                    "an image goes by its name without the suffix" if suffix else "their accents are written otherwise"
                )
                wrong(f"{path}: {self.paths[id].name} has the same name; {why}")
            self.paths[id] = path
        if not self.paths:
            others = find_unreadable(folder)
            more = f"; {len(others)} files as {others[0].name} must be converted to JPEG or PNG first" if others else ""
            linked = find_linked(folder)
            more += (
                f"; {linked[0]} is a link to a folder, which is not followed: move the folder here" if linked else ""
            )
            raise InputError(f"{folder}: no picture in this folder or below it (read are {', '.join(IMAGES)}){more}")

    def id(self, name: str) -> str | None:
        """Return the id of the picture of a name, with or without its suffix."""
        name = composed(name)
        if name in self.paths:
            return name
        plain = Path(name)
        # Only the end of a picture's name is one: `scan.2` is not `scan`.
        id = plain.with_suffix("").as_posix() if plain.suffix.lower() in (*IMAGES, *OTHERS) else ""
        return id if id in self.paths else None

    def missing(self, path: Path, name: str) -> str:
        """Return the message for a name in the file `path` that no picture has."""
        for other in find_unreadable(self.folder):
            if composed(name) in (name_of(other, self.folder), composed(other.relative_to(self.folder).as_posix())):
                kind = other.suffix[1:].upper()
                return f"{path}: {other.name}: {kind} pictures cannot be read; convert it to JPEG or PNG"
        # Tools put folders of their own before a name, and change blanks and brackets in it.
        last = PurePosixPath(composed(name).replace("\\", "/")).stem
        near = get_close_matches(composed(name), self.paths, n=1) or get_close_matches(last, self.paths, n=1)
        return f"{path}: no image goes by the name {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")

    def labels(self, source: Source) -> Iterator[tuple[str, Labels]] | None:
        """Return what a file has for each picture, by its id; None for a file in no form that is known. What cannot be
        used is reported through the source."""
        try:
            form = find_format(source)
        except InputError as error:
            source.wrong(str(error))
            return iter(())
        if form is None and source.meant:
            forms = "; ".join(what for _, what in known())
            source.wrong(f"{source.path}: in no form that is known. Read are: {forms}")
            return iter(())
        return None if form is None else self._drawn(source, form.single, form.read(source))

    def _drawn(
        self, source: Source, single: bool, drawn: Iterator[tuple[tuple[str, ...], Labels]]
    ) -> Iterator[tuple[str, Labels]]:
        path, find = source.path, self._finder(source.path, single)
        absent: list[str] = []
        taken: dict[str, tuple[str, bool]] = {}
        for names, found in drawn:
            id, sure = find(names)
            if found.empty:  # an export lists pictures on which nothing is drawn, and pictures that lie elsewhere
                if id is not None:
                    yield id, found
                continue
            found = found.stripped()
            if id is None:
                absent.append(names[-1])
                continue
            other, both_sure = taken.setdefault(id, (names[0], sure))
            if other != names[0] and not (sure and both_sure):
                source.wrong(
                    f"{path}: {other!r} and {names[0]!r} may both be the picture {id!r}; give the pictures different "
                    "names, or leave one of the two out"
                )
            elif not found.upright and is_turned(self.paths[id]):
                source.wrong(
                    f"{path}: {self.paths[id].name}: its EXIF data turn the picture, but the tool shows it as it is "
                    "stored; remove the orientation from its EXIF data, and the clicks lie where they were seen"
                )
            elif any(not name or not name.isprintable() for name in found.names):
                name = min(name for name in found.names if not name or not name.isprintable())
                source.wrong(f"{path}: {id}: class {name!r} is no name; give it one that can be printed")
            else:
                found.sizes.setdefault(path, None)
                yield id, found
        for name in absent[:SHOWN]:
            hint = "; a file of this form is named like its picture" if single and name == path.stem else ""
            source.wrong(self.missing(path, name) + hint)
        if absent[SHOWN:]:
            source.wrong(f"{path}: and {len(absent) - SHOWN} more names that no image has, the last {absent[-1]!r}")

    def _finder(self, path: Path, single: bool) -> Callable[[Sequence[str]], tuple[str | None, bool]]:
        """Return a function that returns the id of the picture that one of some names means in the file `path`, and
        whether that is sure: not where folders at the beginning of a name are left out, which may be those of another
        machine."""
        beside = name_of(path, self.folder) if single and path.is_relative_to(self.folder) else ""
        parent, plain = path.parent.resolve(), PurePosixPath()
        # Files of labels are often kept in folders like those of the pictures: labels/deep/c.png of images/deep/c.jpg.
        ends = [PurePosixPath(*parent.parts[place:]) for place in range(1, len(parent.parts))]
        alike = [end for end in ends if end in self._folders]
        tails = [*alike, plain] if single else [plain, *alike]

        def find(names: Sequence[str]) -> tuple[str | None, bool]:
            if beside in self.paths:  # where it lies counts more than what its picture was called once
                return beside, True
            names = [*names, *(name.replace("\\", "/") for name in names if "\\" in name)]  # written on Windows
            near = [os.path.normpath(os.path.join(parent, name)) for name in names]
            sure = [there.removeprefix(self._here) for there in near if there.startswith(self._here)]
            sure += [(tail / name).as_posix() for tail in tails for name in names]
            parts = [PurePosixPath(name).parts for name in names]
            others = ["/".join(those[place:]) for those in parts for place in range(1, len(those))]
            for candidates, certain in ((sure, True), (others, False)):
                id = next(filter(None, map(self.id, candidates)), None)
                if id is not None:
                    return id, certain
            return None, False

        return find

    @cached_property
    def _here(self) -> str:
        """The folder of the pictures, links resolved, with a slash at the end."""
        return os.path.join(self.folder.resolve(), "")

    @cached_property
    def _folders(self) -> set[PurePosixPath]:
        """The folders that hold pictures, or folders with pictures, relative to the folder of all."""
        return {parent for id in self.paths for parent in PurePosixPath(id).parents} - {PurePosixPath()}


def label_files(folder: Path) -> list[Path]:
    """Return the files in a folder and below it that may hold labels, sorted; none in hidden folders, where editors
    and notebooks keep settings and old copies."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not is_resource_fork(path))
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def name_of(path: Path, folder: Path) -> str:
    """Return what a picture goes by."""
    return composed(path.relative_to(folder).with_suffix("").as_posix())


def composed(name: str) -> str:
    """Return a name as most programs write it; some file systems take its accents apart (NFD)."""
    return unicodedata.normalize("NFC", name)
