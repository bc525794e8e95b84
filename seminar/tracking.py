"""Weights & Biases: every stage is a W&B run as well. The only module that knows of it.

The local record is the truth and W&B its mirror, so nothing that goes wrong here stops a training: the first problem is
told in one line, and the training goes on without W&B.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seminar.spec import Stage
from seminar.store import Record

Mode = Literal["auto", "online", "offline", "disabled"]


@dataclass
class WandbWatch:
    """A `train.Watch` that mirrors stages to W&B.

    `mode`: `auto` follows WANDB_MODE, else it is online where somebody is logged in and offline elsewhere (runs then
    lie below `folder`/wandb for `wandb sync`); `disabled` never imports W&B. `group` is the sweep's name.
    """

    mode: Mode
    folder: Path
    group: str
    project: str = "seminar-learning"
    _run: Any = field(default=None, repr=False)

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        if self.mode != "disabled":
            self._guard(lambda: self._begin(stage, epoch))

    def step(self, stage: Stage, done: int, total: int) -> None:
        pass

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.log(dict(line), step=line["epoch"]))

    def end(self, stage: Stage, body: Record | None) -> None:
        if self._run is not None:
            self._guard(lambda: self._end(stage, body))
            self._run = None

    def _begin(self, stage: Stage, epoch: int) -> None:
        # Without this, W&B looks up a host name for its own telemetry even when it is offline.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode: Any = self.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._run = wandb.init(
            project=self.project,
            id=stage.key,
            name=stage.title,
            group=self.group,
            tags=[stage.data.name, stage.backbone, f"K={stage.modules}", *(term.name for term in stage.losses)],
            config={"key": stage.key, **stage.model_dump(mode="json")},
            mode=mode,
            dir=self.folder,
            resume="allow" if mode == "online" and epoch else None,
            # Offline files are flushed every second: at the default of 15 a killed run would leave nothing.
            settings=wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=1),
        )

    def _end(self, stage: Stage, body: Record | None) -> None:
        import wandb

        if body is not None:
            pictures = sorted((self._stage_folder(stage) / "samples").glob("*.png"))
            caption = "image with clicks | truth | student" + (" | teacher" if stage.has_teacher else "")
            # One key each: a list under one key wants pictures of equal size.
            self._run.log({f"samples/{path.stem}": wandb.Image(str(path), caption=caption) for path in pictures})
            for role, protocols in body["metrics"].items():
                for protocol, scores in protocols.items():
                    for name, value in scores.items():
                        if isinstance(value, float):
                            self._run.summary[f"final/{role}/{protocol}/{name}"] = value
        self._run.finish(exit_code=0 if body is not None else 1)

    def _stage_folder(self, stage: Stage) -> Path:
        return self.folder / stage.key

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(f"W&B: {reason}; the training goes on without it", RuntimeWarning, stacklevel=3)
            self._run, self.mode = None, "disabled"
