"""Blocks that reports share: groups of cells, the header, gaps, claims, and the tables behind a table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import frame, origins, paper, statistics, summary, tables
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar.catalogue import Cell, Unknown, profile_of
from seminar.spec import Scalar

if TYPE_CHECKING:
    from analysis.exhibits import Request

BIAS_NOTE = (
    "+bias: mIoU with the one additive background bias that is best on this very validation set. It is an oracle, an "
    "upper bound that nobody can reach honestly; where it shrinks the distance between two rows, that part of the gain "
    "is background calibration and not better objects."
)
INTERVAL_NOTE = (
    "[a, b]: 95 % interval over the seeds (initialisation, order, augmentation; data and clicks stay the same), not "
    "corrected for the number of comparisons."
)
SCORE_NOTE = f"mIoU in %, mean ± sample standard deviation (seeds); student, last epoch, protocol `{frame.PROTOCOL}`."
PROVENANCE = (("Commit", "commit"), ("PyTorch", "torch"), ("Device", "device"), ("CPU", "cpu"))
"""Where trainings ran: the name, and the column of the frame."""
RUNS_SHOWN = 1000
"""Runs that a report and the page list; `NAME_runs.csv` has all of them."""
UNSCORED = f"done, without a `{frame.PROTOCOL}` score: no validation image has a mask."


def text(value: Scalar) -> str:
    """Return a value as a user writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def numbers(values: Sequence[Scalar]) -> str:
    """Return values in short: `0,1,2`, and `0 to 99` for a long run of whole numbers."""
    if len(values) > 8 and list(values) == list(range(int(values[0]), int(values[0]) + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(text, values))


def slug(name: str) -> str:
    """Return a name that is safe as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", name).strip("_.")


def or_none(value: float) -> float | None:
    """Return None for NaN."""
    return None if pd.isna(value) else float(value)


def groups(cells: Sequence[Cell], *apart: str) -> dict[str, list[Cell]]:
    """Group cells that have equal settings but for the seed and the settings `apart`; only rows of one group are
    compared.

    The name of a group is `profile, backbone`, then each setting that differs between cells as `name=value`; after the
    profile stands `data NAME` where the point of a cell sets the data.
    """
    left_out = {"seed", "profile", "backbone", *apart}
    differing = varied([cell.point for cell in cells]) - left_out
    result: dict[str, list[Cell]] = {}
    for cell in cells:
        rest = [f"{name}={text(cell.point[name])}" for name in sorted(differing & cell.point.keys())]
        own = [f"data {cell.stage.data.name}"] if "data" in cell.point else []
        result.setdefault(", ".join([profile_of(cell.point), *own, cell.stage.backbone, *rest]), []).append(cell)
    return result


def varied(points: Sequence[Mapping[str, Scalar]]) -> set[str]:
    """Return the settings that have several values among points."""
    names = {name for point in points for name in point}
    return {name for name in names if len({text(point[name]) for point in points if name in point}) > 1}


def header(request: Request) -> tuple[str, ...]:
    """Return facts about the runs behind a report, a line each."""
    paid = frame.trainings(request.source, request.cells)
    done = paid[paid["status"] == "done"]
    seeds = sorted({cell.stage.replicate for cell in request.cells})
    fixed = {w: v for w, v in request.sweep.parameters.items() if w not in ("profile", "seed")}
    settings = ", ".join(f"{name} = {' / '.join(map(text, values))}" for name, values in sorted(fixed.items()))
    lines = [
        f"Profile: {', '.join(request.profiles)}. Settings: {settings or 'none'}. Seeds: {numbers(seeds)}.",
        f"Reported number: the student after the last epoch, protocol `{frame.PROTOCOL}` "
        "(short side resized to the crop size, centre crop), mean over classes of one confusion matrix.",
        f"Distinct trainings: {len(paid)}, of which {len(done)} done; training time together "
        f"{_duration(float(done['seconds'].sum()))} (sum over trainings, whatever ran side by side).",
    ]
    for name, column in PROVENANCE:
        seen = sorted(set(done[column]) - {""})
        if seen:
            lines.append(f"{name}: {', '.join(tables.quoted(value) for value in seen)}.")
    notes = sorted({note for notes in done["notes"] for note in notes.split("\n") if note})
    lines += [f"Note: {note}." for note in notes]
    return (*lines, f"Made by `{request.command}`; that command also trains what is missing.")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def gaps(name: str, rows: Sequence[Row]) -> list[str]:
    """Return what is missing in the rows of a group and why, a line each. Empty when everything is done."""
    lines: list[str] = []
    for row in rows:
        for status, part in row.runs[row.runs["status"] != "done"].groupby("status", sort=False):
            if status != "failed":
                lines.append(f"{name}: {row.label}, {_seeds(part['seed'])}: {status}.")
                continue
            for error, failed in part.groupby("error", sort=False):
                cause = tables.quoted(str(error)) or "no cause was kept"
                lines.append(f"{name}: {row.label}, {_seeds(failed['seed'])}: failed: {cause}")
        empty = row.runs[(row.runs["status"] == "done") & row.runs["student_miou"].isna()]
        if len(empty):
            lines.append(f"{name}: {row.label}, {_seeds(empty['seed'])}: {UNSCORED}")
    return lines


def unplanned(unknown: Iterable[Unknown]) -> list[str]:
    """Return the points for which no training is known, a line for those that differ only in the seed."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for point, reason in unknown:
        rest = " ".join(f"{n}={text(v)}" for n, v in sorted(point.items()) if n not in ("seed", "profile"))
        seeds.setdefault((f"{profile_of(point)}: {rest}".rstrip(": "), reason), []).append(int(point.get("seed", 0)))
    return [f"{what}, {_seeds(found)}: {reason}." for (what, reason), found in seeds.items()]


def _seeds(seeds: Iterable[int]) -> str:
    numbers = sorted({int(seed) for seed in seeds})
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def assemble(name: str, title: str, request: Request, missing: Sequence[str] = (), **parts: Any) -> Report:
    """Return a report: `missing` and the command that trains it are its gaps, `parts` its other fields."""
    missing = [*missing, *unplanned(request.unknown)]
    to_train = any(not line.endswith(UNSCORED) for line in missing)
    fill = (*missing, f"Fill with `{request.command}`") if to_train else tuple(missing)
    report = Report(name=name, title=title, profiles=request.profiles, header=header(request), gaps=fill, **parts)
    warnings = origins.warnings(request.source, [cell.stage for cell in request.cells])
    # Beside what they may make wrong: the verdicts, or the scores where nothing is judged.
    if report.claims:
        return replace(report, claims={name: _warned(table, warnings) for name, table in report.claims.items()})
    return replace(report, main=(_warned(report.main[0], warnings), *report.main[1:]) if report.main else ())


def _warned(table: Table, warnings: Sequence[str]) -> Table:
    return replace(table, notes=(*warnings, *table.notes))


def with_background(rows: Sequence[Row]) -> bool:
    """Return whether the data set of these rows has a background, so that there are recalls of it and the oracle bias
    to show; True as long as no row has a score."""
    scored = [row.runs for row in rows if row.runs["student_miou"].notna().any()]
    return not scored or any(runs["background_recall"].notna().any() for runs in scored)


def stem(name: str, group: str, groups: Collection[str]) -> str:
    """Return the file name of what is drawn for one group: the exhibit's where there is no other group."""
    return name if len(groups) == 1 else f"{name}_{slug(group)}"


@dataclass(frozen=True)
class Claimed:
    """A claim about two rows: what was measured, and the paper's own gain by network (None: not printed).

    `same`: the claim is that nothing changes. `contrast`: the difference by the analysis of the whole table. `alone`:
    the paired difference of the two rows alone.
    """

    text: str
    contrast: statistics.Contrast
    alone: summary.Estimate
    same: bool = False
    paper: Mapping[str, float | None] = field(default_factory=dict)


def decide(
    contrasts: Sequence[statistics.Contrast], same: Sequence[bool], request: Request, cells: Sequence[Cell]
) -> list[statistics.Decision]:
    """Return the decisions on the claims of one table (`statistics.decide`), with the margin and the looks that a
    report was asked for. `cells`: those that the table is made from."""
    looks, seeds = request.looks, _seeds_of(cells)
    return statistics.decide(
        contrasts,
        same,
        request.margin,
        spend=lambda level: statistics.share(level, looks.planned, seeds) if looks else level,
    )


def _seeds_of(cells: Sequence[Cell]) -> int:
    return len({cell.stage.replicate for cell in cells})


def claims_table(title: str, lines: Sequence[Claimed], request: Request, cells: Sequence[Cell]) -> Table:
    """Return the claims of one exhibit with their verdicts; all such tables have the same columns. `cells`: what more
    seeds would train."""
    seeds = _seeds_of(cells)
    looks = request.looks
    decisions = decide([line.contrast for line in lines], [line.same for line in lines], request, cells)
    body: list[tuple[Value, ...]] = []
    for line, found in zip(lines, decisions):
        printed = ", ".join(
            f"{network} {tables.fixed(gain, 2, sign=True)}" for network, gain in line.paper.items() if gain is not None
        )
        verdict = f"equal within {points(request.margin)}" if found.verdict == "equal" else found.verdict
        body.append((line.text, tables.difference(found.change, 2), line.contrast.n, verdict, printed or None))
    columns = (
        Column("claim", right=False),
        Column("mIoU gained"),
        Column("seeds"),
        Column("verdict", right=False),
        Column("paper", right=False),
    )
    margin = points(request.margin)
    notes = [
        f"holds: the whole interval is above 0; reversed: below 0; equal: within {margin} of 0 on both sides; else "
        "inconclusive. The intervals are of the analysis of the whole table, and so wide (Holm) that any of these "
        "verdicts is wrong in about one table of 20.",
    ]
    if any(0 < line.contrast.n < seeds for line in lines):
        notes.append(
            "Trainings are missing, so these verdicts are not final: whoever stops at a moment of his choice finds "
            "something by chance."
        )
    if looks:
        share = 100 * statistics.share(statistics.LEVEL, looks.planned, seeds)
        notes.append(
            f"Looked at after {numbers(looks.planned)} seeds. The 5 % are shared among the looks (spending of O'Brien "
            f"and Fleming's type); this one, at {seeds}, has {share:.2g} %. Stopped after {looks.seeds}: {looks.why}."
        )
    if any(line.same for line in lines):
        notes.append(
            f"Where the claim is that nothing changes, holds: the interval lies within {margin} of 0 on both sides; "
            "reversed: wholly beyond that; else inconclusive."
        )
    taking = [
        f'To decide "{line.text}": {what}'
        for line, found in zip(lines, decisions)
        if found.verdict == "inconclusive" and not looks and (what := _it_would_take(line, found, request, cells))
    ]
    if taking:
        taking.append(
            f"To decide: with a chance of {100 * statistics.POWER:.0f} % if difference and spread are as measured "
            "here; both are uncertain, and so is this. The time is of training, one after another."
        )
    if any(line.paper for line in lines):
        notes.append("The paper has one run per number, so its differences have no interval.")
    return Table(title, columns, tuple(body), (*notes, *taking))


def claims_data(lines: Mapping[str, Sequence[Claimed]], request: Request, cells: Sequence[Cell]) -> Table:
    """Return the claims of one exhibit, by group, with their verdicts, for machines. `lines`, `cells`: as of
    `claims_table`. `level`: the error with which the interval was made; `same`: the claim is that nothing changes."""
    numbers: list[dict[str, object]] = []
    for group, claimed in lines.items():
        decisions = decide([one.contrast for one in claimed], [one.same for one in claimed], request, cells)
        for one, found in zip(claimed, decisions):
            gain = estimate_columns("gain", found.change, std=False)
            verdict = {"verdict": found.verdict, "same": one.same, "level": found.level, "margin": request.margin}
            papers = {f"paper_{network}": printed for network, printed in one.paper.items()}
            numbers.append({"group": group, "claim": one.text, **gain, **verdict, **papers})
    data = pd.DataFrame(numbers, dtype=object)
    return numbers_table("claims", data, ("level", "margin"))


def alone_table(title: str, lines: Sequence[Claimed]) -> Table:
    """Return the differences of claims from their two rows alone."""
    body = tuple((line.text, tables.difference(line.alone, 2), line.alone.n) for line in lines)
    columns = (Column("claim", right=False), Column("mIoU gained"), Column("seeds"))
    note = (
        "The cautious reading: mean paired difference over the seeds that both rows have, with its plain 95 % t "
        "interval. It takes nothing from other rows, assumes no common spread, and is not corrected for the number of "
        "claims."
    )
    return Table(title, columns, body, (note,))


def points(margin: float) -> str:
    return f"{margin:g} point{'' if margin == 1 else 's'}"


def _it_would_take(line: Claimed, found: statistics.Decision, request: Request, cells: Sequence[Cell]) -> str | None:
    """Return how many more seeds would decide a claim, what they cost, and the command; None: nothing is known."""
    seeds = sorted({cell.stage.replicate for cell in cells})
    if line.contrast.mean is None or line.contrast.error is None:
        return None
    needed = statistics.seeds_needed(line.contrast, line.same, request.margin, found.level)
    if needed is None:
        return f"more than {statistics.MOST_SEEDS} seeds."
    more = max(needed - len(seeds), 0)
    if not more:
        return f"what is missing of {len(seeds)} seeds: `{request.command}`."
    paid = frame.trainings(request.source, cells)
    seconds = float(paid["seconds"].mean()) * len(paid) / len(seeds) * more
    following = [*seeds, *(seeds[-1] + place + 1 for place in range(more))]
    seeds_more = f"about {more} more seed{'' if more == 1 else 's'}"
    return f"{seeds_more} ({_duration(seconds)}): `{request.command_for(following)}`."


def design_notes(
    design: statistics.Design,
    contrasts: Sequence[statistics.Contrast],
    claims: Sequence[statistics.Contrast] = (),
    apart: Collection[str] = (),
) -> list[str]:
    """Return what to know of the analysis of a table: how small a difference it could tell, and whether its rows have
    one spread. `claims`: the differences that are judged."""
    known = [contrast for contrast in contrasts if contrast.error is not None]
    if not known:
        return []
    halves = _from_to([contrast.half() for contrast in known])
    strictest = [contrast.half(statistics.LEVEL / len(claims)) for contrast in claims if contrast.error is not None]
    judged = ""
    if len(claims) > 1 and strictest:
        judged = f"; {_from_to(strictest)} for the clearest of the {len(claims)} claims"
    common = [contrast for contrast in known if contrast.rows]
    how = f"spread of one training {tables.fixed(design.spread, 2)}, {design.freedom} degrees of freedom"
    notes = [
        f"Sensitivity: half the 95 % interval of a difference is {halves} points{judged}"
        f"{f' ({how})' if common else ''}. About half of such tables would tell a true difference of that size."
    ]
    if design.p_spread is None:
        looked = "Whether the rows have one spread cannot be tested here; it is assumed"
    else:
        factor = f"differ by up to a factor of {tables.fixed(design.ratio)}" if design.ratio else "were compared"
        p_value = f"p = {design.p_spread:.3f}" if design.p_spread >= 0.001 else "p < 0.001"
        looked = f"Spreads of the rows, less what a seed shifts in all, {factor} (Levene, {p_value}): "
        welch = "so each difference is one of means and stands on the spread of its own two rows (Welch)"
        looked += "taken as one" if design.shared else f"not taken as one, {welch}"
    notes.append(f"{looked}.")
    named = [name for name in apart if name in design.scores]
    if named and design.shared:
        notes.append(f"{', '.join(named)}: known to have another spread, so compared by Welch's interval.")
    return notes


def _from_to(values: Sequence[float | None]) -> str:
    """Return the range of values, one number where they agree."""
    known = [tables.fixed(value) for value in sorted(value for value in values if value is not None)]
    return known[0] if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def runs_table(parts: Mapping[str, Sequence[Row]]) -> Table:
    """Return the appendix: every cell with the first 8 digits of its key (the folder `runs/<key>`)."""
    body: list[tuple[Value, ...]] = []
    count = sum(len(row.runs) for rows in parts.values() for row in rows)
    for name, rows in parts.items():
        for row in rows:
            shown = row.runs.sort_values("seed", kind="stable").head(RUNS_SHOWN - len(body))
            for run in shown.to_dict("records"):
                status = f"failed: {tables.quoted(str(run['error']))}" if run["status"] == "failed" else run["status"]
                scores = (or_none(run["student_miou"]), or_none(run["seconds"]))
                body.append((f"`{run['key'][:8]}`", name, row.label, int(run["seed"]), status, *scores))
    left = [Column(name, right=False) for name in ("key", "group", "row")]
    columns = (*left, Column("seed"), Column("status", right=False), Column("mIoU (%)", 2), Column("seconds", 0))
    notes = (f"Of {count:,} runs the first {RUNS_SHOWN:,} are listed.",) if count > RUNS_SHOWN else ()
    return Table("Runs behind the table", columns, tuple(body), notes)


def runs_data(parts: Mapping[str, Sequence[Row]]) -> Table:
    """Return the runs for machines, one line each: group, row, scores, costs, the profile, and the settings that
    differ."""
    whole = [row.runs.assign(group=name, row=row.label) for name, rows in parts.items() for row in rows]
    if not whole:
        return Table("Runs", (Column("group"), Column("row"), Column("key")), ())
    data = pd.concat(whole, ignore_index=True)
    settings = [name for name in frame.setting_columns(data) if name not in ("group", "row")]
    same = [name for name in settings if name != "profile" and data[name].nunique(dropna=False) == 1]
    names = [name for name in data.columns if name not in ("group", "row", *same)]
    return numbers_table("Runs", data[["group", "row", *names]], settings)


def numbers_table(title: str, data: pd.DataFrame, exact: Collection[str]) -> Table:
    """Return a frame as a table for machines; the numbers of the columns `exact` are not rounded."""
    columns = tuple(Column(str(name), exact=str(name) in exact) for name in data.columns)
    return Table(title, columns, tuple(tuple(map(_plain, run)) for run in data.itertuples(index=False, name=None)))


def _plain(value: object) -> Value:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else " ".join(str(value).split())


def estimate_columns(name: str, value: summary.Estimate, std: bool = True) -> dict[str, Value]:
    """Return an estimate as columns for machines: `NAME_n`, `NAME_mean`, `NAME_std` (where `std`: a difference by the
    analysis of a whole table has none), `NAME_low`, `NAME_high`."""
    parts: dict[str, Value] = {"mean": value.mean, **({"std": value.std} if std else {})}
    parts |= {"low": value.low, "high": value.high}
    return {f"{name}_n": value.n, **{f"{name}_{part}": number for part, number in parts.items()}}


def not_comparable(cells: Sequence[Cell], printed: paper.PaperTable, apart: Collection[str]) -> str | None:
    """Return why the paper's numbers cannot be compared with cells whose rows differ in `apart`; None if they can."""
    chosen, backbone = profile_of(cells[0].point), cells[0].stage.backbone
    if chosen != printed.profile:
        return f"profile {chosen} has other data, another network or input size ({backbone}) and another budget"
    if printed.network(backbone) is None:
        return f"the paper does not print this for the network {backbone}"
    changed: set[str] = set()
    for cell in cells:
        known = cell.stage.settings.keys() | {"split", "variant"}  # others only say where and how it was trained
        changed |= {name for name, value in cell.point.items() if name in known and printed.settings.get(name) != value}
    changed -= {"seed", "backbone", *apart}
    return f"changed here: {', '.join(sorted(changed))}" if changed else None
