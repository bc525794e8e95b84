"""Lower rooms never import higher ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = [
    {"provenance", "text"},
    {"spec"},
    {"colours", "display", "parts", "schema", "sweep"},
    {"store", "timm_models"},
    {"data", "pool", "presets"},
    {"catalogue"},
    {
        "compiled",
        "crf",
        "metrics",
        "networks",
        "optimizers",
        "pairwise",
        "parallel",
        "pixel_sum",
        "schedules",
        "strong_views",
        "teacher",
        "tree",
        "watch",
    },
    {"losses", "machine", "pretrained", "weights"},
    {"recipes", "tracking", "views"},
    {"checkpoint", "evaluation", "model_card", "results", "trials"},
    {"samples"},
    {"train"},
    {"checked", "cost", "inspection", "outdated", "predict", "search", "wandb_pull"},
    {"export", "growing", "plan"},
    {"jobs"},
    {"__main__"},
]
TRAINING = ("jobs", "search", "tracking", "train", "wandb_pull")
"""Rooms that train."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted((ROOT / "seminar").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports when it runs; names that only types need are none."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    """The room of a file; all of `seminar/data/` is one."""
    return path.relative_to(ROOT / "seminar").with_suffix("").parts[0].removesuffix("__init__")


@pytest.mark.parametrize("path", [path for path in FILES if room(path)], ids=lambda path: path.stem)
def test_no_room_imports_a_higher_one(path: Path) -> None:
    here = room(path)
    assert here in FLOOR, f"{here} is a new room: give it a floor"
    for name in imports(path):
        other = name.removeprefix("seminar.").split(".")[0]
        if name.startswith("seminar.") and other in FLOOR and other != here:
            assert FLOOR[other] < FLOOR[here], (here, other)
        assert not name.startswith("analysis")


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("wandb", {"tracking", "wandb_pull"}),
        ("optuna", {"jobs", "search"}),
        ("argparse", {"__main__"}),
        ("timm", {"timm_models"}),
    ],
)
def test_few_rooms_know_the_library(library: str, only: set[str]) -> None:
    users = {room(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert users == only


def test_analysis_never_trains() -> None:
    for path in (ROOT / "analysis").rglob("*.py"):
        for name in imports(path):
            assert not name.startswith(("wandb", "optuna", *(f"seminar.{room}" for room in TRAINING))), path
