"""Weights & Biases: every stage is a W&B run as well, and a cell is the one run that `wandb agent` starts. The only
module that knows of it.

The local record is the truth and W&B its mirror, so nothing that goes wrong here stops a training: the first problem is
reported in one line, and the training goes on without W&B. The small files of every training (`FILES`) are kept with
its run, from where `pull` brings them back. What W&B's own environment variables say about a run wins over what is said
here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from uuid import uuid4

from pydantic import ValidationError
from tqdm import tqdm

from seminar import schema
from seminar.catalogue import Cell
from seminar.spec import InputError, Stage
from seminar.store import ASK, Record, Store, read_lines, write_atomic
from seminar.text import printable

Mode = Literal["auto", "online", "offline", "disabled"]
JobType = Literal["ancillary", "primary", "trial", "report"]
"""What a run is: a student that learned from no other, or from one; a training of a search; a report."""
PROJECT = "seminar-learning"
FILES = ("stage.json", "metrics.jsonl", "record.json")
"""What is kept of a training with its run, in the folder `trainings/<key>`. The record comes last, as in the store."""
RUN_ID = "wandb-run-id"
"""The file in the folder of a training that holds the id of its run on the server of W&B."""
_KEPT = re.compile(rf"trainings/[0-9a-f]{{16}}/({'|'.join(map(re.escape, FILES))})")
LARGEST = 1 << 26
"""Bytes of the largest file that is pulled: a curve of 100,000 epochs has a third of that."""
_ENVIRONMENT = {
    # Without this, W&B looks up a host name for its own telemetry even when it is offline.
    "WANDB_ERROR_REPORTING": "false",
    # Seconds that the end of a run waits for a server that does not answer; the rest is left for `wandb sync`.
    "WANDB_FINISH_TIMEOUT": "60",
}
"""Set before W&B is imported, unless somebody has set them."""
_NAMES = {
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
}
"""W&B's variables for what we would call a run: these win. (An argument of `wandb.init` would win over them.)"""


def _prepare() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _called(tags: Iterable[str], **names: str | None) -> dict[str, Any]:
    """Return how to call a run, as arguments of `wandb.init`: `names` that the environment does not give, and `tags`
    with those of WANDB_TAGS, each once."""
    joined = [*tags, *os.environ.get("WANDB_TAGS", "").split(",")]
    found: dict[str, Any] = {"tags": list(dict.fromkeys(tag.strip() for tag in joined if tag.strip()))}
    return found | {name: os.environ.get(_NAMES[name]) or own for name, own in {"project": PROJECT, **names}.items()}


def _job_type(stage: Stage, trial: bool) -> JobType:
    """Return what the run of a stage is; `trial`: it is a training of a search."""
    if trial:
        return "trial"
    return "ancillary" if stage.ancillary is None else "primary"


@dataclass
class _Mirror:
    """One W&B run at a time, below `folder`; the first problem with it ends the mirroring, never the training."""

    mode: Mode
    folder: Path
    cell: Cell | None = field(default=None, init=False)
    """The cell of a sweep that needs the trainings, for the config of the run."""
    _run: Any = field(default=None, init=False, repr=False)
    _best: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    """The best of each mIoU that the run holds."""

    def _begin(
        self, stage: Stage, trial: bool, group: str | None = None, prefixes: Iterable[str] = (), **of_run: Any
    ) -> None:
        """Begin the run of a stage.

        `trial`: it is a training of a search. `prefixes`: of metrics that have an epoch of their own. `of_run`: more
        arguments of `wandb.init`.
        """
        if self.mode != "disabled":
            self._best = {}
            with self._guarded():
                tags = (stage.data.name, stage.backbone, f"K={stage.modules}", *(term.name for term in stage.losses))
                named = _called(tags, name=stage.title, group=group, job_type=_job_type(stage, trial))
                config = {
                    "key": stage.key,
                    "settings": stage.settings,
                    "cell": None if self.cell is None else self.cell.facts,
                    "stage": json.loads(stage.canonical())["stage"],
                }
                self._init(config=config, **named, **of_run)
                for prefix in (*prefixes, ""):
                    self._run.define_metric(f"{prefix}epoch", hidden=True)
                    self._run.define_metric(f"{prefix}*", step_metric=f"{prefix}epoch")

    def _resolved(self) -> str:
        """Return the mode, of `auto` what it means here."""
        _prepare()
        import wandb

        if self.mode != "auto":
            return self.mode
        return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")

    def _init(self, **of_run: Any) -> None:
        mode: Any = self._resolved()
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode=mode,
            dir=self.folder,
            # Offline files are flushed every second: at the default of 15 a killed run would leave nothing.
            settings=wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=1),
            **of_run,
        )

    def _keep_best(self, values: Mapping[str, Any]) -> None:
        """Keep the best of each mIoU in the summary.

        The summary's `student_miou` itself stays the last value, a plain number: a W&B sweep looks at it, and
        `define_metric(summary=...)` would put a dictionary in its place.
        """
        for name, value in values.items():
            if name.endswith("_miou") and value is not None and value > self._best.get(name, -1.0):
                self._best[name] = value
                self._run.summary[f"best/{name}"] = value

    def _keep(self, key: str) -> None:
        """Put the files of a finished training into the folder of the run: online they are sent, offline they stay."""
        target = Path(self._run.dir) / "trainings" / key
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(self.folder / key / name, target / name)
            self._run.save(str(target / name), base_path=self._run.dir, policy="now")

    def _results(self, stage: Stage, body: Record) -> None:
        """Log the sample pictures and the scores of each class, and put all scores into the run's summary."""
        found = {**self._pictures(stage, body), **_by_class(body)}
        if found:
            self._run.log(found)
        for role, protocols in body["metrics"].items():
            for protocol, scores in protocols.items():
                for name, value in scores.items():
                    if isinstance(value, float):
                        self._run.summary[f"final/{role}/{protocol}/{name}"] = value

    def _pictures(self, stage: Stage, body: Record) -> dict[str, Any]:
        """Return the sample images with their clicks, and truth and predictions as masks over each."""
        import numpy as np
        import wandb

        from seminar.data import UNLABELLED
        from seminar.data.pictures import clicked, enlargement

        path = self.folder / stage.key / "samples" / "final.npz"
        if not path.exists():  # of a training that was pulled
            return {}
        labels = {**dict(enumerate(body["classes"])), UNLABELLED: "no label"}
        background = schema.background(body)
        pictures: dict[str, Any] = {}
        with np.load(path) as arrays:
            for number in range(sum(name.endswith("_image") for name in arrays)):
                pixels = arrays[f"{number}_image"]
                clicks = [(float(x), float(y), int(cls)) for x, y, cls in arrays[f"{number}_clicks"]]
                factor = enlargement(*pixels.shape[:2])
                masks = {
                    role: {
                        "mask_data": arrays[f"{number}_{role}"].repeat(factor, 0).repeat(factor, 1),
                        "class_labels": labels,
                    }
                    for role in ("truth", "student", "teacher")
                    if f"{number}_{role}" in arrays
                }
                # One key each: a list under one key wants pictures of equal size.
                pictures[f"samples/{number}"] = wandb.Image(clicked(pixels, clicks, background), masks=masks)
        return pictures

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            warnings.warn(f"W&B: {_reason(error)}; the training goes on without it", RuntimeWarning, stacklevel=4)
            self._run, self.mode = None, "disabled"

    def _finish(self, exit_code: int) -> None:
        if self._run is not None:
            with self._guarded():
                self._run.finish(exit_code=exit_code)
            self._run = None


def _by_class(body: Record) -> dict[str, Any]:
    """Return a table of IoU and recall by class and network, by the protocol that is reported; empty where the record
    has none."""
    import wandb

    columns: dict[str, list[float | None]] = {}
    for role, protocols in body["metrics"].items():
        for name, title in (("iou", "IoU"), ("recall", "recall")):
            if name in protocols["crop"]:
                columns[f"{role} {title}"] = protocols["crop"][name]
    if not columns:
        return {}
    rows: list[Iterable[Any]] = [list(row) for row in zip(body["classes"], *columns.values(), strict=True)]
    return {"by_class": wandb.Table(columns=["class", *columns], data=rows)}


def _reason(error: Exception) -> str:
    """Return one line about a problem with W&B."""
    # W&B checks its environment variables by pydantic, whose first line is the number of mistakes.
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return printable(text.splitlines()[0] if text else type(error).__name__)


@dataclass
class WandbWatch(_Mirror):
    """A `watch.Watch` that mirrors every stage to a run of its own.

    `mode`: `auto` follows WANDB_MODE, else it is online where somebody is logged in and offline elsewhere (runs then
    lie below `folder`/wandb for `wandb sync`); `disabled` never imports W&B. `group` is the sweep's name. `trials`: the
    trainings are those of a search.
    """

    group: str = "train"
    trials: bool = False

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        """Begin the run of a training, or go on with it, and log what of the first `epoch` epochs it does not hold.

        Every training has a run of its own, also where others have one of the same training: a run with the id of
        theirs would take its place on the server. A training that goes on online goes on in its run; offline it gets
        another one with the whole curve, so that its folder is enough, and syncing the earlier one too doubles nothing.
        """
        if self.mode == "disabled":
            return
        path = folder / RUN_ID
        with self._guarded():
            online = self._resolved() == "online"
            # What is trained from the start gets a new run: an earlier one would keep the epochs it has.
            known = online and path.exists() and epoch > 0
            name = path.read_text(encoding="utf-8") if known else f"{stage.key}-{uuid4().hex[:6]}"
            if online and not known:
                write_atomic(path, lambda file: file.write(name.encode()))
            self._begin(stage, self.trials, self.group, id=name, resume="allow" if known else None)
        if self._run is not None:
            held = int(self._run.step)  # the step that comes next: 0 for a run that holds nothing
            for line in read_lines(folder / "metrics.jsonl"):
                if line["epoch"] <= epoch:
                    self._epoch(line, line["epoch"] >= held)

    def step(self, stage: Stage, done: int, total: int) -> None: ...

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        self._epoch(line)

    def _epoch(self, line: Mapping[str, Any], log: bool = True) -> None:
        if self._run is not None:
            with self._guarded():
                if log:
                    self._run.log(dict(line), step=line["epoch"])
                self._keep_best(line)

    def end(self, stage: Stage, body: Record | None) -> None:
        if body is None:
            self._finish(exit_code=1)
        elif self._run is not None:
            with self._guarded():
                self._results(stage, body)

    def recorded(self, stage: Stage) -> None:
        """The record of the stage lies in the store: keep its files, end the run."""
        if self._run is not None:
            with self._guarded():
                self._keep(stage.key)
            self._finish(exit_code=0)


@dataclass
class CellRun(_Mirror):
    """A `watch.Watch` for a whole cell as one run: the one that `wandb agent` has started, or a new one.

    The metrics of the chain's n-th training are logged as `student<n>/...`, those of the cell's own stage also under
    their bare names, `student_miou` once for each evaluated epoch: that is what a sweep's metric and `early_terminate`
    look at. A training that is found finished is logged from its file.
    """

    _logged: set[str] = field(default_factory=set, init=False)

    def start(self, cell: Cell) -> None:
        """Begin the run of a cell."""
        self.cell, self._own = cell, cell.stage
        self._names = {member.key: f"student{place}" for place, member in enumerate(cell.stage.chain, 1)}
        prefixes = [f"{name}/" for name in self._names.values()]
        self._begin(cell.stage, cell.point.get("split") == "tuning", prefixes=prefixes)

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        self._replay(stage)  # of an earlier session

    def step(self, stage: Stage, done: int, total: int) -> None: ...

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        if self._run is not None:
            named = {f"{self._names[stage.key]}/{name}": value for name, value in line.items()}
            with self._guarded():
                values = named | (dict(line) if stage == self._own else {})
                self._run.log(values)
                self._keep_best(values)

    def end(self, stage: Stage, body: Record | None) -> None: ...

    def finish(self, record: Record | None) -> None:
        """End the run; None: stopped before its end."""
        if record is not None and self._run is not None:
            for stage in self._own.chain:
                if stage.key not in self._logged:
                    self._replay(stage)
            with self._guarded():
                for stage in self._own.chain:
                    self._keep(stage.key)
                self._results(self._own, record)
        self._finish(exit_code=0 if record is not None else 1)

    def _replay(self, stage: Stage) -> None:
        self._logged.add(stage.key)
        for line in read_lines(self.folder / stage.key / "metrics.jsonl"):
            self.epoch(stage, line)


@dataclass(frozen=True)
class Pulled:
    """What a pull brought: keys of trainings that are `new` here, that were `known`, and those of the known ones whose
    record `differs` from the one that is kept; `refused`: why others could not be used, a line each; `unfinished`: runs
    without any finished training."""

    new: tuple[str, ...]
    known: tuple[str, ...]
    differs: tuple[str, ...]
    refused: tuple[str, ...]
    unfinished: int


def pull(source: str, store: Store) -> Pulled:
    """Bring the finished trainings of a W&B project (`ENTITY/PROJECT`) or of a folder of runs into a store.

    Of several runs of one training the one that finished first counts, and what the store has stays. Raises
    `InputError` for a source that is neither, and `OSError` where nothing can be written into the store.
    """
    with TemporaryDirectory() as scratch:
        lost: list[str] = []
        if Path(source).is_dir():
            folders = _local(Path(source))
        else:
            folders, lost = _download(source, Path(scratch))
        found: list[tuple[str, Path, str]] = []
        for folder, name in folders.items():
            records = [path.parent for path in sorted(folder.glob("trainings/*/record.json"))]
            found += [(_finished(path), path, name) for path in records]
        new: list[str] = []
        known: list[str] = []
        differs: list[str] = []
        refused: list[str] = []
        for _, path, name in sorted(found):
            try:
                _check_files(path)
                if store.take_over(path):
                    new.append(path.name)
                    continue
                known.append(path.name)
                kept, other = store.record(path.name), Store(path.parent).record(path.name)
                if kept is not None and other is not None and kept["metrics"] != other["metrics"]:
                    differs.append(path.name)
            except InputError as error:
                refused.append(str(error).replace(f"{path.parent.parent}{os.sep}", name))
        unfinished = sum(not any(folder.glob("trainings/*/record.json")) for folder in folders)
    refused += lost
    return Pulled(tuple(new), tuple(known), tuple(differs), tuple(refused), unfinished)


def _local(folder: Path) -> dict[Path, str]:
    """Return the folders of files of the runs below a folder, each with what messages call it."""
    found = sorted(path / "files" for path in folder.rglob("*run-*") if (path / "files").is_dir())
    if not found:
        raise InputError(f"{folder}: no W&B run below this folder (offline-run-.../files)")
    return {path: f"{path}{os.sep}" for path in found}


def _download(source: str, scratch: Path) -> tuple[dict[Path, str], list[str]]:
    """Return the folders of the files of a project's runs, each with what messages call it, and why other runs could
    not be downloaded, a line each."""
    _prepare()
    import wandb

    if source.count("/") != 1:
        raise InputError(f"{source!r}: neither a folder nor a W&B project; write ENTITY/PROJECT")
    folders: dict[Path, str] = {}
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
            folders[folder] = f"run {run.id}: "  # the folder is gone when somebody reads the message
    except failures as error:
        raise InputError(f"{source}: W&B: {' '.join(str(error).split())}") from None
    return folders, lost


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
