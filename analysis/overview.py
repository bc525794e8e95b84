"""What stands on the page beside the reports: findings, the plan and its cost, where the numbers come from."""

from __future__ import annotations

import pandas as pd

from analysis import blocks, frame, tables
from analysis.exhibits import BEYOND, Built, Request
from analysis.page import Section
from analysis.tables import Column, Table, Value
from seminar.growing import SeedCount


def overview(built: Built) -> list[Section]:
    """Return the sections of the page beside its reports; the findings, if there are any, come first."""
    findings = _findings(built)
    every = [cell for request in built.requests for cell in request.cells]
    paid = frame.trainings(built.requests[0].source, every)
    return [
        *([Section("Findings", (), (findings,), opening=True)] if findings is not None else []),
        Section("Plan and cost", tuple(f"Left out: {reason}." for reason in built.left_out), (_costs(built, paid),)),
        Section("Provenance", tuple(_provenance(built, paid))),
    ]


def seeds(built: Built) -> list[str]:
    """Return a line for each sweep that says how many of its seeds are done, if it has several."""
    counts = [(request.path.stem, _count(request)) for request in built.requests]
    lines = [f"{name}: {count.complete} of {count.total} seeds done" for name, count in counts if count.total > 1]
    return list(dict.fromkeys(lines))


def _count(request: Request) -> SeedCount:
    return SeedCount(request.cells, lambda key: request.source.status(key) == "done")


def _findings(built: Built) -> Table | None:
    findings: list[tuple[Value, ...]] = []
    for report in built.reports:
        place, _, what = report.title.partition(": ")
        name = what if place == BEYOND else place
        findings += [(name, group, *row) for group, table in report.claims.items() for row in table.rows]
    if not findings:
        return None
    one_group = len({row[1] for row in findings}) == 1
    if one_group:
        findings = [(name, *row) for name, _, *row in findings]
    claims = [table for report in built.reports for table in report.claims.values()]
    notes = tuple(dict.fromkeys(note for table in claims for note in table.notes))
    columns = (Column("exhibit", right=False), *(() if one_group else (Column("group", right=False),)))
    columns += claims[0].columns
    return Table("What is claimed, and whether it holds here", columns, tuple(findings), notes)


def _costs(built: Built, every_paid: pd.DataFrame) -> Table:
    lines: list[tuple[Value, ...]] = []
    every = [cell for request in built.requests for cell in request.cells]
    requested = {**{f"`{request.path.name}`": request.cells for request in built.requests}, "together": every}
    for name, cells in requested.items():
        paid = every_paid[every_paid["key"].isin({stage.key for cell in cells for stage in cell.stage.chain})]
        done = paid[paid["status"] == "done"]
        separate = sum(len(stage.chain) for stage in {cell.stage.key: cell.stage for cell in cells}.values())
        on_gpus = done[done["device"].notna() & ~done["device"].isin(["", "cpu"])]
        hours = float(on_gpus["seconds"].sum()) / 3600 if len(on_gpus) else None
        costs = (float(done["seconds"].sum()) / 60, hours, blocks.or_none(done["peak_memory_mb"].max()))
        lines.append((name, len(cells), len(paid), separate, len(done), *costs))
    heads = (
        "sweep",
        "cells",
        "trainings",
        "without sharing",
        "done",
        "minutes of training",
        "GPU-hours",
        "peak memory (MB)",
    )
    return Table(
        "What was requested and what it cost",
        tuple(Column(head, 0 if "MB" in head else 1, right=bool(place)) for place, head in enumerate(heads)),
        tuple(lines),
        (
            "trainings: distinct ones; together: over all files, so that what several request counts once. without "
            "sharing: if the chain of every distinct cell were trained by itself. Trainings that a search has ended "
            "early are not done, and their minutes are not counted. GPU-hours: of the trainings that ran on a GPU.",
            "peak memory: of the training that needed most, the whole process on a CPU, its tensors on a GPU.",
        ),
    )


def _provenance(built: Built, paid: pd.DataFrame) -> list[str]:
    every = [cell for request in built.requests for cell in request.cells]
    done = paid[paid["status"] == "done"]
    lines = []
    for name, column in blocks.PROVENANCE:
        counts = done[column].value_counts(sort=False)
        shown = ", ".join(f"{tables.quoted(str(value))} ({count})" for value, count in sorted(counts.items()) if value)
        lines.append(f"{name} (trainings): {shown or 'nothing trained yet'}.")
    data = sorted({f"{cell.stage.data.name}: {cell.stage.data_fingerprint}" for cell in every})
    lines += [f"Data {tables.quoted(text)}." for text in data]
    lines.append(
        "Every training has a key; `stage.json` in its folder says what it is. The tables of each exhibit list them."
    )
    return lines
