"""Python imports this at the start of every process whose PYTHONPATH holds this folder: the stand-in for `torch.cuda`
is installed as soon as torch is imported, where CUDA_STANDIN_LOG names a file."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class Finder(importlib.abc.MetaPathFinder):
    """Installs the stand-in behind the import of torch, and leaves processes alone that never do that."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            install()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    place = Path(__file__).parent.parent / "device.py"
    spec = importlib.util.spec_from_file_location("cuda_standin_device", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    installed.append(module.installed())
    installed[0].__enter__()


installed: list[Any] = []
"""Kept for the life of the process: what was replaced would come back otherwise."""

if "CUDA_STANDIN_LOG" in os.environ:
    sys.meta_path.insert(0, Finder())
