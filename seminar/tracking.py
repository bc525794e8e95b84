"""Weights & Biases: send what is trained here. Every stage is a W&B run as well, and a cell is the one run that
`wandb agent` starts. `wandb_pull` brings finished trainings back; no other module knows of W&B.

The local record is the truth and W&B its mirror, so nothing that goes wrong here stops a training: the first problem is
reported in one line, and the training goes on without W&B. The small files of every training (`FILES`) are kept with
its run. What W&B's own environment variables say about a run wins over what is said here.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import ValidationError

from seminar import schema
from seminar.catalogue import Cell
from seminar.spec import InputError, Stage
from seminar.store import ASK, Record, read_curve, score, write_atomic
from seminar.text import brief, printable

Mode = Literal["auto", "online", "offline", "disabled"]
JobType = Literal["ancillary", "primary", "trial", "report"]
"""What a run is: a student that learned from no other, or from one; a training of a search; a report."""
PROJECT = "seminar-learning"
FILES = ("stage.json", "metrics.jsonl", "record.json")
"""What is kept of a training with its run, in the folder `trainings/<key>`. The record comes last, as in the store."""
RUN_ID = "wandb-run-id"
"""The file in the folder of a training that holds the id of its run on the server of W&B."""
MODEL = "training-"
"""What the name of the artifact with the weights of a training begins with; its key follows."""
_PATIENCE = "WANDB_FINISH_TIMEOUT"
_WITH_WEIGHTS = {_PATIENCE: "600"}
_ENVIRONMENT = {
    # Without this, W&B looks up a host name for its own telemetry even when it is offline.
    "WANDB_ERROR_REPORTING": "false",
    # Seconds that the end of a run waits for a server that does not answer; the rest is left for `wandb sync`.
    _PATIENCE: "60",
}
"""Set before W&B is imported, unless somebody has set them; `_WITH_WEIGHTS` instead where weights are sent."""
_NAMES = {
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
}
"""W&B's variables for what we would call a run: these win. (An argument of `wandb.init` would win over them.)"""


def prepare_environment(weights: bool = False) -> None:
    """Set the variables that W&B reads when it is imported, where nobody has set them. `weights`: some are sent."""
    for name, value in (_ENVIRONMENT | (_WITH_WEIGHTS if weights else {})).items():
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
    artifacts: bool = field(default=False, kw_only=True)
    """Whether weights are kept as artifacts."""
    cell: Cell | None = field(default=None, init=False)
    """The cell of a sweep that needs the trainings, for the config of the run."""
    _run: Any = field(default=None, init=False, repr=False)
    _best: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    """The best of each mIoU that the run holds."""

    def _begin_run(
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
        prepare_environment(self.artifacts)
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

    def _copy_files(self, key: str) -> None:
        """Put the files of a finished training into the folder of the run: online they are sent, offline they stay."""
        target = Path(self._run.dir) / "trainings" / key
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(self.folder / key / name, target / name)
            self._run.save(str(target / name), base_path=self._run.dir, policy="now")

    def _publish(self, last: Stage, made: Sequence[Stage], used: Sequence[Stage]) -> None:
        """Send what W&B keeps as artifacts: the scores of the `last` training by class and, where they are wanted, the
        weights of the trainings that the run has made; those that it has used are named.

        Raises `TimeoutError` where the server has not taken them in time: a training waits no longer for it.
        """

        def send() -> None:
            tables = _by_class(self._record(last))
            if tables:
                self._run.log(tables)
            if self.artifacts:
                self._send_weights(made, used)

        # Not even the file for `wandb sync` holds them: W&B asks the server about each artifact before it writes.
        what = "the tables by class" + (" and the weights" if self.artifacts else "")
        _in_time(send, f"{what} of {last.key} were not sent within {{}}; `wandb sync` sends all but these")

    def _send_weights(self, made: Sequence[Stage], used: Sequence[Stage]) -> None:
        for stage in () if self._run.offline else used:  # W&B knows no use of artifacts offline
            self._run.use_artifact(self._model(stage))
        sent = [self._run.log_artifact(self._model(stage)) for stage in made]
        for artifact in () if self._run.offline else sent:
            artifact.wait()

    def _record(self, stage: Stage) -> Record:
        return schema.read(self.folder / stage.key / "record.json", schema.RECORD, ASK) or {}

    def _model(self, stage: Stage) -> Any:
        """Return the weights of a finished training as an artifact that is not logged yet."""
        import wandb

        record = self._record(stage)
        named = record.get("weights_sha256", {})
        about = {"key": stage.key, "title": stage.title, "miou": score(record), **named}
        artifact = wandb.Artifact(f"{MODEL}{stage.key}", type="model", metadata=about)
        for role in named:
            # Never changed once they are written, so W&B needs no copy of its own.
            path = str(self.folder / stage.key / f"{role}.pt")
            artifact.add_file(path, policy="immutable", skip_cache=True)
        return artifact

    def _results(self, stage: Stage, body: Record) -> None:
        """Log the sample pictures, and put the scores into the run's summary."""
        pictures = self._pictures(stage, body)
        if pictures:
            self._run.log(pictures)
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


def _in_time(send: Callable[[], None], late: str) -> None:
    """Send something to W&B, which by itself would wait without end for a server that does not answer. Raises what
    `send` raises, and `TimeoutError` with the text `late` where it takes longer than WANDB_FINISH_TIMEOUT."""
    failed: list[Exception] = []

    def work() -> None:
        try:
            send()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(float(os.environ[_PATIENCE]) or None)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise TimeoutError(late.format(f"{os.environ[_PATIENCE]} s ({_PATIENCE})"))


def _by_class(record: Record) -> dict[str, Any]:
    """Return tables by the protocol that is reported, as far as the record has them: IoU and recall by class and
    network, and the student's confusion matrix, in the columns of W&B's own chart of one."""
    import wandb

    columns: dict[str, list[float | None]] = {}
    for role, protocols in record["metrics"].items():
        for name, title in (("iou", "IoU"), ("recall", "recall")):
            if name in protocols["crop"]:
                columns[f"{role} {title}"] = protocols["crop"][name]
    names, tables = record["classes"], {}
    if columns:
        rows: list[Iterable[Any]] = [list(row) for row in zip(names, *columns.values(), strict=True)]
        tables["by_class"] = wandb.Table(columns=["class", *columns], data=rows)
    confusion = record["metrics"]["student"]["crop"].get("confusion")
    if confusion:
        pairs: list[Iterable[Any]] = [
            [true, predicted, count]
            for true, counts in zip(names, confusion, strict=True)
            for predicted, count in zip(names, counts, strict=True)
        ]
        tables["confusion"] = wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=pairs)
    return tables


_VARIABLES = {
    "run_tags": "WANDB_TAGS",
    "run_name": "WANDB_NAME",
    "run_notes": "WANDB_NOTES",
    "run_job_type": "WANDB_JOB_TYPE",
}
"""W&B's names for environment variables whose names are not made by its rule, by the setting."""


def _reason(error: Exception) -> str:
    """Return one line about a problem with W&B."""
    # W&B checks its environment variables by pydantic, whose first line is the number of mistakes.
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"][:1]))
        variable = _VARIABLES.get(name, f"WANDB_{name.upper()}")
        text = f"{name}={brief(first['input'])} ({variable}?): {first['msg']}" if name else first["msg"]
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
            self._begin_run(stage, self.trials, self.group, id=name, resume="allow" if known else None)
        if self._run is not None:
            held = int(self._run.step)  # the step that comes next: 0 for a run that holds nothing
            for line in read_curve(folder / "metrics.jsonl"):
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

    def record_written(self, stage: Stage) -> None:
        """The record of the stage lies in the store: keep its files, end the run."""
        if self._run is not None:
            with self._guarded():
                self._copy_files(stage.key)
                self._publish(stage, [stage], [] if stage.ancillary is None else [stage.ancillary])
            self._finish(exit_code=0)


@dataclass
class CellRun(_Mirror):
    """A `watch.Watch` for a whole cell as one run: the one that `wandb agent` has started, or a new one.

    The metrics of the chain's n-th training are logged as `student<n>/...`, those of the cell's own stage also under
    their bare names, `student_miou` once for each evaluated epoch: that is what a sweep's metric and `early_terminate`
    look at. A training that is found finished is logged from its file.
    """

    _logged: set[str] = field(default_factory=set, init=False)
    _begun: set[str] = field(default_factory=set, init=False)

    def start(self, cell: Cell) -> None:
        """Begin the run of a cell."""
        self.cell, self._own = cell, cell.stage
        self._names = {member.key: f"student{place}" for place, member in enumerate(cell.stage.chain, 1)}
        prefixes = [f"{name}/" for name in self._names.values()]
        self._begin_run(cell.stage, cell.point.get("split") == "tuning", prefixes=prefixes)

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        self._begun.add(stage.key)
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
                    self._copy_files(stage.key)
                self._results(self._own, record)
                made = [stage for stage in self._own.chain if stage.key in self._begun or stage == self._own]
                self._publish(self._own, made, [stage for stage in self._own.chain if stage not in made])
        self._finish(exit_code=0 if record is not None else 1)

    def _replay(self, stage: Stage) -> None:
        self._logged.add(stage.key)
        for line in read_curve(self.folder / stage.key / "metrics.jsonl"):
            self.epoch(stage, line)


@dataclass
class ReportRun(_Mirror):
    """The run of a report: it trains nothing, and holds files, their tables and their pictures."""

    def send(self, name: str, files: Sequence[Path]) -> str:
        """Keep files in a run of their own: CSV files are its tables, PNG files its pictures. Returns what was done.

        Raises `InputError` where a file cannot be read, or W&B does not take it.
        """
        import wandb

        logged: dict[str, Any] = {}
        try:
            if self._resolved() == "disabled":
                raise ValueError("WANDB_MODE is disabled")
            self._init(**_called((), name=name, job_type="report"), config={"files": [path.name for path in files]})
            for path in files:
                target = Path(self._run.dir) / "report" / path.name
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
                self._run.save(str(target), base_path=self._run.dir, policy="now")
                if path.suffix == ".png":
                    logged[f"figures/{path.stem}"] = wandb.Image(str(path))
                elif path.suffix == ".csv":
                    logged[f"tables/{path.stem}"] = _table(path)
            _in_time(lambda: self._run.log(logged), "the tables were not sent within {}")
            where = "offline; `wandb sync` sends it" if self._run.offline else self._run.url
            self._finish(exit_code=0)
        except Exception as error:
            raise InputError(f"W&B: {_reason(error)}; the report was not sent") from None
        return f"W&B: {len(files)} files as the run {name!r} ({where})"


def _table(path: Path) -> Any:
    """Return a CSV file as a table."""
    import wandb

    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file))
    columns = [_numbers(column) for column in zip(*rows, strict=True)]
    lines: list[Iterable[Any]] = [list(row) for row in zip(*columns, strict=True)]
    names: list[str | int] = [*head]
    return wandb.Table(columns=names, data=lines)


def _numbers(column: Sequence[str]) -> Sequence[str | float | None]:
    """Return a column of a CSV file as numbers where all that is in it are numbers, with None for nothing."""
    with suppress(ValueError):
        return [float(cell) if cell else None for cell in column]
    return column
