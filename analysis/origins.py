"""Whether the trainings of a report were made by one version of the code, on one kind of machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from analysis import tables
from seminar.spec import Stage

if TYPE_CHECKING:
    from analysis.frame import Source

KINDS = {"commit": "commits", "torch": "versions of PyTorch", "device": "kinds of processor"}
UNKNOWN = "not recorded"


def commits(record: Mapping[str, Any]) -> str:
    """Return the commits that a training was started and continued at, in their order: `a1b2 then c3d4`."""
    starts = [str(start.get("commit") or "") for start in record.get("starts", ())]
    return " then ".join(dict.fromkeys(filter(None, starts))) or str(record.get("environment", {}).get("commit") or "")


def processor(record: Mapping[str, Any]) -> str:
    """Return the name of the GPU, or of the CPU, that a training ran on."""
    environment = record.get("environment", {})
    device = str(environment.get("device") or "")
    return str(environment.get("cpu") or device) if device == "cpu" else device


def warnings(source: Source, stages: Iterable[Stage]) -> list[str]:
    """Return a line for everything in which finished trainings differ that can change numbers beside their settings:
    commit, PyTorch, processor, and the source of the parts that they used. Empty where they are all alike."""
    seen: dict[str, dict[str, set[str]]] = {kind: defaultdict(set) for kind in KINDS}
    parts: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    silent: dict[str, set[str]] = defaultdict(set)  # trainings that recorded no versions, by part
    for stage in {stage.key: stage for last in stages for stage in last.chain}.values():
        record = source.record(stage.key) if source.status(stage.key) == "done" else None
        if record is None:
            continue
        environment = record.get("environment", {})
        values = {"commit": commits(record), "torch": environment.get("torch"), "device": processor(record)}
        for kind, value in values.items():
            seen[kind][str(value or UNKNOWN)].add(stage.key)
        for start in record.get("starts", ()):
            for part, digest in start.get("parts", {}).items():
                parts[part][digest].add(stage.key)
        if not record.get("starts"):
            for part in (*(f"loss {term.name}" for term in stage.losses), f"data {stage.data.name}"):
                silent[part].add(stage.key)
    lines = []
    mixed = [f"{part} ({_counts(versions)})" for part, versions in sorted(parts.items()) if len(versions) > 1]
    if mixed:
        lines.append(
            f"These numbers mix versions of the code of {', '.join(mixed)}; --retrain (make: RETRAIN=1) trains the "
            "older ones again."
        )
    unknown = set().union(*(silent[part] for part, versions in parts.items() if len(versions) == 1))
    if unknown:
        lines.append(f"{len(unknown)} of these trainings did not record which version of the code made them.")
    for kind, found in seen.items():
        if len(found) > 1:
            lines.append(
                f"These trainings come from {len(found)} {KINDS[kind]} ({_counts(found)}): rows can differ for that "
                "alone."
            )
    return lines


def _counts(found: Mapping[str, set[str]]) -> str:
    return ", ".join(f"{tables.quoted(name)}: {len(keys)}" for name, keys in sorted(found.items()))
