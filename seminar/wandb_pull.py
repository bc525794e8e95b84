"""Bring finished trainings back from a W&B project, or from a folder of W&B's offline runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tqdm import tqdm

from seminar import schema
from seminar.spec import InputError
from seminar.store import ASK, Store
from seminar.tracking import FILES, MODEL, prepare_environment

_KEPT = re.compile(rf"trainings/[0-9a-f]{{16}}/({'|'.join(map(re.escape, FILES))})")
LARGEST = 1 << 26
"""Bytes of the largest file that is pulled: a curve of 100,000 epochs has a third of that."""
LARGEST_WEIGHTS = 1 << 31
"""Bytes of the largest weights that are pulled: those of a ResNet-101 have an eighth of that."""


@dataclass(frozen=True)
class Pulled:
    """What a pull brought: keys of trainings that are `new` here, that were `known`, and those of the known ones whose
    record `differs` from the one that is kept; `weights`: those whose weights it brought; `refused`: why others could
    not be used, a line each; `unfinished`: runs without any finished training."""

    new: tuple[str, ...]
    known: tuple[str, ...]
    differs: tuple[str, ...]
    weights: tuple[str, ...]
    refused: tuple[str, ...]
    unfinished: int


class _Sent(NamedTuple):
    """The files of a run: where they lie, what messages call it, and the run on its server (None: in a folder)."""

    folder: Path
    name: str
    run: Any = None


def pull(source: str, store: Store) -> Pulled:
    """Bring the finished trainings of a W&B project (`ENTITY/PROJECT`) or of a folder of runs into a store.

    Of several runs of one training the one that finished first counts, and what the store has stays. Weights come from
    a project that holds them as artifacts, also for trainings that the store has without. Raises `InputError` for a
    source that is neither, and `OSError` where nothing can be written into the store.
    """
    with TemporaryDirectory() as scratch:
        lost: list[str] = []
        if Path(source).is_dir():
            runs = _local(Path(source))
        else:
            runs, lost = _download(source, Path(scratch))
        found: list[tuple[str, Path, _Sent]] = []
        for sent in runs:
            records = [path.parent for path in sorted(sent.folder.glob("trainings/*/record.json"))]
            found += [(_finished(path), path, sent) for path in records]
        new: list[str] = []
        known: list[str] = []
        differs: list[str] = []
        refused: list[str] = []
        weights: list[str] = []
        for _, path, sent in sorted(found, key=lambda each: each[:2]):
            try:
                _check_files(path)
                if store.take_over(path):
                    new.append(path.name)
                else:
                    known.append(path.name)
                    kept, other = store.record(path.name), Store(path.parent).record(path.name)
                    if kept is not None and other is not None and kept["metrics"] != other["metrics"]:
                        differs.append(path.name)
                if sent.run is not None and _pull_weights(sent.run, path.name, store, Path(scratch) / "weights"):
                    weights.append(path.name)
            except InputError as error:
                refused.append(str(error).replace(f"{path.parent.parent}{os.sep}", sent.name))
        unfinished = sum(not any(sent.folder.glob("trainings/*/record.json")) for sent in runs)
    refused += lost
    return Pulled(tuple(new), tuple(known), tuple(differs), tuple(weights), tuple(refused), unfinished)


def _pull_weights(run: Any, key: str, store: Store, scratch: Path) -> bool:
    """Bring the weights of a training that the store lacks, where a run has logged them; returns whether it had.

    Raises `InputError` where they are not those of the record, or cannot be downloaded.
    """
    lacking = store.lacks(key)
    found = _download_weights(run, key, lacking, scratch) if lacking else {}
    for role, path in found.items():
        store.take_weights(key, role, path)
        path.unlink()
    return bool(found)


def _download_weights(run: Any, key: str, lacking: Mapping[str, str], scratch: Path) -> dict[str, Path]:
    """Return files with the weights of a training, by role; empty where the run has not logged those that `lacking`
    names by their SHA-256. Raises `InputError` where they cannot be downloaded."""
    import wandb

    try:
        for artifact in run.logged_artifacts():
            named = artifact.type == "model" and artifact.name.partition(":")[0] == f"{MODEL}{key}"
            if named and all(artifact.metadata.get(role) == digest for role, digest in lacking.items()):
                entries = {role: artifact.get_entry(f"{role}.pt") for role in lacking}
                for role, entry in entries.items():
                    if entry.ref is not None:
                        raise ValueError(f"{role}.pt is only a reference to a file elsewhere")
                    if entry.size is None or entry.size > LARGEST_WEIGHTS:
                        raise ValueError(f"{role}.pt has more than the {LARGEST_WEIGHTS:,} bytes allowed")
                return {role: Path(entry.download(str(scratch), skip_cache=True)) for role, entry in entries.items()}
    except (wandb.errors.Error, ValueError, KeyError, OSError) as error:
        raise InputError(f"run {run.id}: weights of {key}: {' '.join(str(error).split())}") from None
    return {}


def _local(folder: Path) -> list[_Sent]:
    """Return the files of the runs below a folder."""
    found = sorted(path / "files" for path in folder.rglob("*run-*") if (path / "files").is_dir())
    if not found:
        raise InputError(f"{folder}: no W&B run below this folder (offline-run-.../files)")
    return [_Sent(path, f"{path}{os.sep}") for path in found]


def _download(source: str, scratch: Path) -> tuple[list[_Sent], list[str]]:
    """Return the files of a project's runs, and why other runs could not be downloaded, a line each."""
    prepare_environment()
    import wandb

    if source.count("/") != 1:
        raise InputError(f"{source!r}: neither a folder nor a W&B project; write ENTITY/PROJECT")
    found: list[_Sent] = []
    lost: list[str] = []
    failures = (wandb.errors.Error, ValueError, OSError)
    try:
        runs = enumerate(tqdm(wandb.Api().runs(source), desc="runs", disable=not sys.stderr.isatty()))
        # Ids and names of files come from the server: neither decides where anything is written.
        for number, run in runs:
            folder = scratch / str(number)
            folder.mkdir()
            try:
                for file in run.files():
                    if _KEPT.fullmatch(file.name):
                        if file.size > LARGEST:
                            raise ValueError(f"{file.name} has {file.size:,} bytes, more than the {LARGEST:,} allowed")
                        file.download(root=str(folder))
            except failures as error:
                lost.append(f"run {run.id}: {' '.join(str(error).split())}")
                continue
            found.append(_Sent(folder, f"run {run.id}: ", run))  # the folder is gone when somebody reads the message
    except failures as error:
        raise InputError(f"{source}: W&B: {' '.join(str(error).split())}") from None
    return found, lost


def _check_files(folder: Path) -> None:
    """Raise `InputError` where the files of a training are none that can be read whole: devices, pipes, huge files."""
    for path in (folder / name for name in FILES):
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no file; {ASK}")
        if path.exists() and path.stat().st_size > LARGEST:
            raise InputError(f"{path}: has {path.stat().st_size:,} bytes, more than the {LARGEST:,} allowed; {ASK}")


def _finished(folder: Path) -> str:
    """Return when a training was finished; `pull` names a damaged record when it takes it over."""
    with suppress(InputError, OSError):
        _check_files(folder)
        return str((schema.read(folder / "record.json", schema.RECORD, "pull it again") or {}).get("finished", ""))
    return ""
