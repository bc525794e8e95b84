"""Python imports this at the start of every process of the drill: it writes down which epochs are begun and saved."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def note(*words: object) -> None:
    line = " ".join(map(str, words)) + "\n"
    file = os.open(os.environ["DRILL_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def watch(train: Any) -> None:
    run_epoch, save = train.Trainer.run_epoch, train.checkpoint.save

    def noted_run_epoch(self: Any, epoch: int, *rest: Any) -> Any:
        note("begun", self.stage.key, epoch + 1, os.getpid())
        return run_epoch(self, epoch, *rest)

    def noted_save(trainer: Any, folder: Any, line: Any) -> None:
        save(trainer, folder, line)
        note("saved", trainer.stage.key, line["epoch"], os.getpid())

    train.Trainer.run_epoch, train.checkpoint.save = noted_run_epoch, noted_save


class Finder(importlib.abc.MetaPathFinder):
    """Calls `watch` when the trainer has been imported, and leaves processes alone that never do."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "seminar.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            watch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "DRILL_LOG" in os.environ:
    sys.meta_path.insert(0, Finder())
