"""The committed reference results, and how the numbers of a report compare with them.

reports/reference/<profile>/<exhibit>.csv        the rows of the reference: `group`, `row`, `miou_n`, `miou_mean`, ...
                            <exhibit>_runs.csv   its trainings, with their keys
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis import blocks, summary, tables
from analysis.exhibits import Request
from analysis.summary import Estimate, Row
from analysis.tables import Column, Table, Value

REFERENCE = Path("reports") / "reference"


def compare(request: Request, name: str, parts: Mapping[str, Sequence[Row]]) -> list[Table]:
    """Return a table of the rows of a report beside those of the reference; none where there is no such reference.

    Settings that were given by hand, the seed aside, make another experiment, which has no reference. Raises
    `InputError` for a damaged file.
    """
    if request.changed or request.reference_itself:
        return []
    rows = pd.concat([_read(profile, name) for profile in request.profiles])
    trainings = pd.concat([_read(profile, f"{name}_runs") for profile in request.profiles])
    if not len(rows):
        return []
    keys = set(trainings["key"]) if "key" in trainings else set()
    body: list[tuple[Value, ...]] = []
    for group, found in parts.items():
        for row in found:
            same = rows[(rows["group"] == group) & (rows["row"] == row.label)]
            here = row.over_seeds()
            if not len(same) or here.mean is None:
                continue
            there = _estimate(same.iloc[0])
            shared = keys >= set(row.runs.loc[row.runs["status"] == "done", "key"])
            change = None if there.mean is None else here.mean - there.mean
            shown = (tables.mean_and_std(here), tables.mean_and_std(there), tables.fixed(change, 2, sign=True))
            what = "same keys" if shared else "same settings, other keys"
            body.append((group, row.label, *shown, summary.against(here, there), what))
    if not body:
        return []
    columns = (
        *(Column("group", right=False), Column("row", right=False), Column("here"), Column("reference")),
        *(Column("difference"), Column("the difference is", right=False), Column("trainings", right=False)),
    )
    notes = [
        f"reference: the committed results in `{REFERENCE / request.profiles[0]}`, mIoU in %, mean ± sample standard "
        "deviation (seeds).",
        "inside the spread of seeds: the 95 % interval of the difference (Welch; for one seed, the interval of a "
        "further seed) holds 0. Equal keys on another CPU give other rounding, so they differ as other seeds do.",
    ]
    if any(row[-1] != "same keys" for row in body):
        notes.append("other keys: the reference was trained with another version of the code, or on other data.")
    return [Table("Against the reference", columns, tuple(body), tuple(notes))]


def trainings(name: str) -> dict[str, pd.DataFrame]:
    """Return the trainings of the reference of an exhibit, by profile."""
    found = {path.parent.name: pd.read_csv(path) for path in sorted(REFERENCE.glob(f"*/{name}_runs.csv"))}
    return {profile: runs for profile, runs in found.items() if len(runs)}


def _read(profile: str, name: str) -> pd.DataFrame:
    path = REFERENCE / blocks.slug(profile) / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def _estimate(row: pd.Series) -> Estimate:
    """Return the estimate in a line of a table of the reference."""
    values = {part: blocks.or_none(row[f"miou_{part}"]) for part in ("mean", "std", "low", "high")}
    return Estimate(int(row["miou_n"]), **values)
