"""What is reported: one decorated entry per exhibit. A sweep file without an entry gets a plain table.

To add a table or figure, write an entry in a module of `analysis.entries` (every module there is read): a function
that takes an `Asked` per sweep file and returns a `Report`, or an entry of `analysis.entries.studies`, which needs no
function.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from analysis import entries, frame, paper, summary, tables
from analysis.page import Section
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar import sweep as sweeps
from seminar.spec import InputError, Scalar

if TYPE_CHECKING:
    from seminar.trials import Tuning

SWEEPS = Path("sweeps")
Words = Mapping[str, tuple[Scalar, ...]]

BIAS_NOTE = (
    "+bias: mIoU with the one additive background bias that is best on this very validation set. It is an oracle, an "
    "upper bound that nobody can reach honestly; where it shrinks the distance between two rows, that part of the gain "
    "is background calibration and not better objects."
)
INTERVAL_NOTE = (
    "[a, b]: 95 % t interval over the seeds (initialisation, order, augmentation; data and clicks stay the same), "
    "not corrected for the number of comparisons."
)


@dataclass(frozen=True)
class Asked:
    """What an exhibit is built from: a sweep with the words put over it, its cells, and where their records are.

    `words`: those given by hand that the sweep reads.
    """

    path: Path
    sweep: sweeps.Sweep
    words: Words
    cells: Sequence[frame.Cell]
    source: frame.Source
    runs: Path = Path("runs")
    tuning: Tuning | None = None
    """Of a search: its trials and what reports its winner. `cells` then holds the trainings of both."""

    @property
    def arguments(self) -> list[str]:
        """The words given by hand as `word=value` arguments, the profile aside."""
        given = {word: values for word, values in self.words.items() if word != "profile"}
        return [f"{word}={','.join(map(_text, values))}" for word, values in sorted(given.items())]

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles of the cells, in their order."""
        return tuple(dict.fromkeys(profile(cell.point) for cell in self.cells))

    @property
    def command(self) -> str:
        """The command that trains what is missing and writes this report anew."""
        chosen = ",".join(self.profiles)
        if self.path.parent.resolve() != SWEEPS.resolve():
            options = [] if self.runs == Path("runs") else ["--runs", str(self.runs)]
            words = [str(self.path), f"profile={chosen}", *self.arguments, *options]
            return " && ".join(
                shlex.join([*tool, *words]) for tool in (("seminar", "sweep"), ("python", "-m", "analysis"))
            )
        options = [] if self.runs == Path("runs") else [f"RUNS={self.runs}"]
        return shlex.join(["make", f"ablation-{self.path.stem}", f"PROFILE={chosen}", *self.arguments, *options])


HOST_WORDS = frozenset(
    {"device", "loader_workers", "weights", "data_root", "data_clicks_fg", "data_clicks_bg", "data_scribbles"}
)
"""Words that say where and how trainings run; the results are the same without them."""


def folder(report: Report, words: Words) -> Path:
    """Where a report goes by default: `reports/PROFILE`, and below it a folder for other words than the seed."""
    changed = {word: values for word, values in words.items() if word not in HOST_WORDS | {"profile", "seed"}}
    name = "+".join(f"{word}={','.join(map(_text, values))}" for word, values in sorted(changed.items()))
    return Path("reports") / slug("+".join(report.profiles)) / slug(name)


Build = Callable[..., Report]


@dataclass(frozen=True)
class Exhibit:
    """A registered exhibit; `build` takes one `Asked` per entry of `sweep_files`, in their order."""

    name: str
    title: str
    sweep_files: tuple[str, ...]
    build: Build


BEYOND = "Beyond the paper"
"""What the titles of exhibits begin with that are none of the paper's, as others do with `Table 3`."""

EXHIBITS: dict[str, Exhibit] = {}


def exhibit(name: str, title: str, *sweep_files: str) -> Callable[[Build], Build]:
    """Decorator: make the function below known as exhibit `name`, built from files in `sweeps/`."""

    def register(build: Build) -> Build:
        if name in EXHIBITS:
            raise ValueError(f"exhibit {name!r} is registered twice")
        EXHIBITS[name] = Exhibit(name, title, sweep_files, build)
        return build

    return register


@functools.cache
def registered() -> Mapping[str, Exhibit]:
    """Every exhibit by name, in the order of the paper."""
    for module in pkgutil.iter_modules(entries.__path__):
        importlib.import_module(f"{entries.__name__}.{module.name}")
    kinds = ("Table", "Fig", "Supplement")

    def place(entry: Exhibit) -> tuple[int, str]:
        return next((n for n, kind in enumerate(kinds) if entry.title.startswith(kind)), len(kinds)), entry.name

    return {entry.name: entry for entry in sorted(EXHIBITS.values(), key=place)}


def find(names: Sequence[str]) -> list[Exhibit]:
    """The exhibits of these names or sweep files.

    None named: all whose sweep files are there, and a plain table for every other sweep file.
    """
    if not names:
        others = sorted(SWEEPS.glob("*.yaml"))
        used = {file for entry in registered().values() for file in entry.sweep_files}
        there = [entry for entry in registered().values() if not absent(entry)]
        return [*there, *(_plain(path) for path in others if path.name not in used)]
    found = [entry for name in names for entry in _named(name)]
    return list({entry.name: entry for entry in found}.values())


def absent(entry: Exhibit) -> list[str]:
    """The sweep files of an exhibit that are not there."""
    return [file for file in entry.sweep_files if not (SWEEPS / file).exists()]


def _named(name: str) -> list[Exhibit]:
    if name in registered():
        return [registered()[name]]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"exhibit {name!r}: choose from {', '.join(sorted(registered()))}, or give a sweep file (.yaml)"
        )
    if path.parent.resolve() == SWEEPS.resolve():
        known = [entry for entry in registered().values() if path.name in entry.sweep_files]
        if known:
            return known
    return [_plain(path)]


def _plain(path: Path) -> Exhibit:
    return Exhibit(path.stem, path.stem, (str(path.resolve()),), plain)


def build(entry: Exhibit, words: Words, runs: Path) -> Report:
    """Plan the exhibit's cells, look up their records, build the report. Raises `InputError`."""
    return build_all([entry], words, runs).reports[0]


class Built(NamedTuple):
    """The reports of several exhibits, what they asked for, each sweep file once, and what was left out and why."""

    reports: list[Report]
    asked: list[Asked]
    left_out: list[str]


def build_all(chosen: Sequence[Exhibit], words: Words, runs: Path) -> Built:
    """Build several exhibits. What the data have no labels for is left out, unless nothing else was asked for."""
    # Planning imports the parts and with them torch; only what plans pays for that.
    from seminar import recipes, store, trials

    source = frame.Once(store.Store(runs))
    files = {file: sweeps.load(SWEEPS / file) for entry in chosen for file in entry.sweep_files}
    planned = recipes.suite(list(files.values()), words)
    asked: dict[str, Asked] = {}
    left_out: list[str] = []
    for file, (sweep, cells, lacking) in zip(files, planned, strict=True):
        left_out += lacking
        if not cells:
            continue
        read = {word: values for word, values in words.items() if word in sweep.parameters}
        found: trials.Tuning | None = None
        if sweep.is_search:
            try:
                found = trials.Tuning.requested(sweep, cells[0], words, runs, recipes.cells)
            except sweeps.LeftOut as error:
                if len(files) == 1:
                    raise
                left_out.append(str(error))
                continue
            best = found.best(source.record)
            cells = [found.trial_cell(trial.point) for trial in found.trials() if trial.key]
            cells += [*found.reported(), *(found.reported(best.point) if best else ())]
        asked[file] = Asked(SWEEPS / file, sweep, read, cells, source, runs, found)
    if not asked:
        raise InputError(left_out[0])
    reports: list[Report] = []
    for entry in chosen:
        if all(file in asked for file in entry.sweep_files):
            reports.append(entry.build(*(asked[file] for file in entry.sweep_files)))
        else:
            left_out.append(f"{entry.title}: nothing of it can be trained")
    return Built(reports, list(asked.values()), left_out)


def overview(built: Built) -> list[Section]:
    """What stands above all reports on the page: findings, the plan and its cost, where the numbers come from."""
    reports, asked, left_out = built
    findings: list[tuple[Value, ...]] = []
    for report in reports:
        place, _, what = report.title.partition(": ")
        name = what if place == BEYOND else place
        findings += [(name, group, *row) for group, table in report.claims.items() for row in table.rows]
    one_group = len({row[1] for row in findings}) == 1
    if one_group:
        findings = [(name, *row) for name, _, *row in findings]
    claims = [table for report in reports for table in report.claims.values()]
    notes = tuple(dict.fromkeys(note for table in claims for note in table.notes))
    columns = (Column("exhibit", right=False), *(() if one_group else (Column("group", right=False),)))
    columns += claims[0].columns if claims else ()
    said = (Table("What is claimed, and whether it holds here", columns, tuple(findings), notes),)
    plan: list[tuple[Value, ...]] = []
    every = [cell for one in asked for cell in one.cells]
    asked_for = {**{f"`{one.path.name}`": one.cells for one in asked}, "together": every}
    trained = {name: frame.trainings(asked[0].source, cells) for name, cells in asked_for.items()}
    for name, cells in asked_for.items():
        paid = trained[name]
        done = paid[paid["status"] == "done"]
        separate = sum(len(stage.chain) for stage in {cell.stage for cell in cells})
        costs = (float(done["seconds"].sum()) / 60, _or_none(done["peak_memory_mb"].max()))
        plan.append((name, len(cells), len(paid), separate, len(done), *costs))
    heads = ("sweep", "cells", "trainings", "without sharing", "done", "minutes of training", "peak memory (MB)")
    shared = Table(
        "What was asked for and what it cost",
        tuple(Column(head, 0 if "MB" in head else 1, right=bool(place)) for place, head in enumerate(heads)),
        tuple(plan),
        (
            "trainings: distinct ones; together: over all files, so that what several ask for counts once. without "
            "sharing: if the chain of every distinct cell were trained by itself. Trainings that a search has ended "
            "early are not done, and their minutes are not counted.",
            "peak memory: of the hungriest training, the whole process on a CPU, its tensors on a GPU.",
        ),
    )
    done = trained["together"][trained["together"]["status"] == "done"]
    lines = []
    for name, column in PROVENANCE:
        counts = done[column].value_counts(sort=False)
        told = ", ".join(f"{tables.quoted(str(value))} ({count})" for value, count in sorted(counts.items()) if value)
        lines.append(f"{name} (trainings): {told or 'nothing trained yet'}.")
    data = sorted({f"{cell.stage.data.name}: {cell.stage.data_fingerprint}" for cell in every})
    lines += [f"Data {tables.quoted(text)}." for text in data]
    lines.append(
        "Every training has a key; `stage.json` in its folder says what it is. The tables of each exhibit list them."
    )
    return [
        *([Section("Findings", (), said)] if findings else []),
        Section("Plan and cost", tuple(f"Left out: {reason}." for reason in left_out), (shared,)),
        Section("Provenance", tuple(lines)),
    ]


# -- parts that exhibits share -------------------------------------------------------------------------------------


def profile(point: Mapping[str, Scalar]) -> str:
    """The profile of a grid point; `creatures` is the default of `recipes`."""
    return str(point.get("profile", "creatures"))


def groups(cells: Sequence[frame.Cell], *apart: str) -> dict[str, list[frame.Cell]]:
    """Cells by everything but the seed and the words `apart`: rows are only compared within a group.

    The name of a group is `profile, backbone` and whatever else differs between groups; between the two the data set
    where it is not the profile's.
    """
    left_out = {"seed", "profile", "backbone", *apart}
    varied = _varied([cell.point for cell in cells]) - left_out
    result: dict[str, list[frame.Cell]] = {}
    for cell in cells:
        rest = [f"{word}={_text(cell.point[word])}" for word in sorted(varied & cell.point.keys())]
        own = [f"data {cell.stage.data.name}"] if "data" in cell.point else []
        result.setdefault(", ".join([profile(cell.point), *own, cell.stage.backbone, *rest]), []).append(cell)
    return result


def _varied(points: Sequence[Mapping[str, Scalar]]) -> set[str]:
    words = {word for point in points for word in point}
    return {word for word in words if len({_text(point[word]) for point in points if word in point}) > 1}


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


PROVENANCE = (("Commit", "commit"), ("PyTorch", "torch"), ("Device", "device"), ("CPU", "cpu"))
"""What is told of where trainings ran: the name, and the column of the frame."""


def header(asked: Asked) -> tuple[str, ...]:
    """Facts about the runs behind a report."""
    paid = frame.trainings(asked.source, asked.cells)
    done = paid[paid["status"] == "done"]
    seeds = sorted({cell.stage.replicate for cell in asked.cells})
    fixed = {w: v for w, v in asked.sweep.parameters.items() if w not in ("profile", "seed")}
    words = ", ".join(f"{word} = {' / '.join(map(_text, values))}" for word, values in sorted(fixed.items()))
    lines = [
        f"Profile: {', '.join(asked.profiles)}. Words: {words or 'none'}. Seeds: {', '.join(map(str, seeds))}.",
        f"Reported number: the student after the last epoch, protocol `{frame.PROTOCOL}` "
        "(short side resized to the crop size, centre crop), mean over classes of one confusion matrix.",
        f"Distinct trainings: {len(paid)}, of which {len(done)} done; training time together "
        f"{_duration(float(done['seconds'].sum()))} (sum over trainings, whatever ran side by side).",
    ]
    for name, column in PROVENANCE:
        seen = sorted(set(done[column]) - {""})
        if seen:
            lines.append(f"{name}: {', '.join(tables.quoted(value) for value in seen)}.")
        if len(seen) > 1 and column in ("commit", "device"):
            lines.append(
                f"Mind: these records come from {len(seen)} different {column}s; rows may differ for that alone."
            )
    notes = sorted({note for text in done["notes"] for note in text.split("\n") if note})
    lines += [f"Mind: {note}." for note in notes]
    return (*lines, f"Made by `{asked.command}`; that command also trains what is missing.")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


UNSCORED = f"done, without a `{frame.PROTOCOL}` score: no validation image has a mask."


def gaps(name: str, rows: Sequence[Row]) -> list[str]:
    """What is missing and why. Empty when everything is done."""
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


def report(name: str, title: str, asked: Asked, missing: Sequence[str] = (), **parts: Any) -> Report:
    """A report about `asked`: `missing` and the command that trains it are its gaps, `parts` its other fields."""
    to_train = any(not line.endswith(UNSCORED) for line in missing)
    fill = (*missing, f"Fill with `{asked.command}`") if to_train else tuple(missing)
    return Report(name=name, title=title, profiles=asked.profiles, header=header(asked), gaps=fill, **parts)


def stem(name: str, group: str, groups: Collection[str]) -> str:
    """The file name of what is drawn for one group: that of the exhibit where there is no other group."""
    return name if len(groups) == 1 else f"{name}_{slug(group)}"


def _seeds(seeds: pd.Series[int]) -> str:
    numbers = sorted({int(seed) for seed in seeds})
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


@dataclass(frozen=True)
class Claimed:
    """A claim of the paper, what was measured, and the paper's own gain by network (None: not printed)."""

    text: str
    change: summary.Estimate
    verdict: summary.Verdict
    paper: Mapping[str, float | None] = field(default_factory=dict)


def claims_table(title: str, lines: Sequence[Claimed], margin: float | None = None) -> Table:
    """Claims with their verdicts; all such tables have the same columns. `margin`: within it nothing changes."""
    body: list[tuple[Value, ...]] = []
    for line in lines:
        printed = ", ".join(
            f"{network} {tables.fixed(gain, 2, sign=True)}" for network, gain in line.paper.items() if gain is not None
        )
        change = line.change
        body.append((line.text, tables.difference(change, 2), change.n, line.verdict, printed or None))
    columns = (
        Column("claim", right=False),
        Column("mIoU gained"),
        Column("seeds"),
        Column("verdict", right=False),
        Column("paper", right=False),
    )
    notes = ["holds: the whole 95 % interval of the paired difference is above 0; reversed: below 0; else cannot tell."]
    if margin is not None:
        notes.append(
            f"Where nothing is said to change, holds: the interval lies within {margin:g} point(s) of 0 on both sides; "
            "reversed: wholly beyond that; else cannot tell."
        )
    if any(line.paper for line in lines):
        notes.append("The paper has one run per number, so its differences have no interval.")
    return Table(title, columns, tuple(body), tuple(notes))


def runs_table(parts: Mapping[str, Sequence[Row]]) -> Table:
    """The appendix: every cell with the first 8 digits of its key (the folder `runs/<key>`)."""
    body: list[tuple[Value, ...]] = []
    for name, rows in parts.items():
        for row in rows:
            for run in row.runs.sort_values("seed", kind="stable").to_dict("records"):
                status = f"failed: {tables.quoted(str(run['error']))}" if run["status"] == "failed" else run["status"]
                scores = (_or_none(run["student_miou"]), _or_none(run["seconds"]))
                body.append((f"`{run['key'][:8]}`", name, row.label, int(run["seed"]), status, *scores))
    left = [Column(name, right=False) for name in ("key", "group", "row")]
    columns = (*left, Column("seed"), Column("status", right=False), Column("mIoU (%)", 2), Column("seconds", 0))
    return Table("Runs behind the table", columns, tuple(body))


def runs_data(data: pd.DataFrame) -> Table:
    """The frame itself, for machines: one row per cell."""
    numeric = {str(name) for name in data.columns if pd.api.types.is_float_dtype(data[name])}
    body = [
        tuple(_or_none(value) if name in numeric else _plain_value(value) for name, value in run.items())
        for run in data.to_dict("records")
    ]
    return Table("Runs", tuple(Column(str(name)) for name in data.columns), tuple(body))


def _plain_value(value: object) -> Value:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else " ".join(str(value).split())


def slug(text: str) -> str:
    """A name that is safe as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", text).strip("_.")


def not_comparable(
    cells: Sequence[frame.Cell], printed: paper.PaperTable, varied: Collection[str] = ("losses",)
) -> str | None:
    """Why the paper's numbers cannot be set against these cells, whose rows differ in `varied`; None if they can."""
    chosen, backbone = profile(cells[0].point), cells[0].stage.backbone
    if chosen != printed.profile:
        return f"profile {chosen} has other data, another network or input size ({backbone}) and another budget"
    if printed.network(backbone) is None:
        return f"the paper does not print this for the network {backbone}"
    points = [{w: v for w, v in cell.point.items() if printed.words.get(w) != v} for cell in cells]
    changed = sorted(
        {word for point in points for word in point} - HOST_WORDS - {"profile", "seed", "backbone", *varied}
    )
    return f"changed here: {', '.join(changed)}" if changed else None


def estimate_columns(name: str, value: summary.Estimate) -> dict[str, Value]:
    parts: dict[str, Value] = {"mean": value.mean, "std": value.std, "low": value.low, "high": value.high}
    return {f"{name}_n": value.n, **{f"{name}_{part}": number for part, number in parts.items()}}


# -- any other sweep -----------------------------------------------------------------------------------------------


def plain(asked: Asked) -> Report:
    """One row per grid point without its seed: the words that vary, the score, the status. Of a search, its report."""
    if asked.tuning is not None:
        return registered()["tune"].build(asked)
    points = [{**cell.point, "profile": profile(cell.point)} for cell in asked.cells]
    varied = sorted(_varied(points) - {"seed"})
    data = frame.frame(asked.source, asked.cells)
    data["row"] = [", ".join(f"{w}={_text(p[w])}" for w in varied if w in p) or asked.sweep.name for p in points]
    rows = summary.rows(data, by="row")
    first = dict(zip(reversed(data["row"].tolist()), reversed(points)))
    body: list[tuple[Value, ...]] = []
    numbers: list[tuple[Value, ...]] = []
    for row in rows:
        words = tuple(_text(first[row.label][w]) if w in first[row.label] else None for w in varied)
        score, teacher = row.over_seeds(), row.over_seeds("teacher_miou")
        body.append((*words, score.n, score.mean, score.std, teacher.mean, row.status))
        numbers.append((*words, *estimate_columns("miou", score).values(), teacher.mean, row.status))
    heads = [Column(word, right=False) for word in varied]
    columns = (*heads, Column("n"), Column("mIoU (%)"), Column("std"), Column("teacher"), Column("status", right=False))
    name, title = asked.sweep.name, asked.sweep.description or asked.sweep.name
    plain_heads = (*heads, *map(Column, estimate_columns("miou", summary.Estimate(0))), Column("teacher_miou"))
    notes = (f"Student, last epoch, protocol `{frame.PROTOCOL}`: mean and sample standard deviation over n seeds.",)
    file = slug(asked.path.stem)
    return report(
        file,
        title,
        asked,
        gaps(name, rows),
        main=(Table(title, columns, tuple(body), notes),),
        appendix=(runs_table({name: rows}),),
        data={
            file: Table(name, (*plain_heads, Column("status")), tuple(numbers)),
            f"{file}_runs": runs_data(data),
        },
    )
