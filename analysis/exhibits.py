"""What is reported: one decorated entry per exhibit. A sweep file without an entry gets a plain table.

To add a table or figure, write a function below that takes an `Asked` per sweep file and returns a `Report`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import figures, frame, paper, summary, tables
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar import sweep as sweeps
from seminar.spec import InputError, Scalar

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
    """What an exhibit is built from: a sweep with the words put over it, its cells, and where their records are."""

    path: Path
    sweep: sweeps.Sweep
    words: Words
    cells: Sequence[frame.Cell]
    source: frame.Source
    runs: Path = Path("runs")

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


HOST_WORDS = frozenset({"device", "loader_workers", "weights", "data_root", "data_clicks_fg", "data_clicks_bg"})
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


EXHIBITS: dict[str, Exhibit] = {}


def exhibit(name: str, title: str, *sweep_files: str) -> Callable[[Build], Build]:
    """Decorator: make the function below known as exhibit `name`, built from files in `sweeps/`."""

    def register(build: Build) -> Build:
        if name in EXHIBITS:
            raise ValueError(f"exhibit {name!r} is registered twice")
        EXHIBITS[name] = Exhibit(name, title, sweep_files, build)
        return build

    return register


def find(names: Sequence[str]) -> list[Exhibit]:
    """The exhibits of these names or sweep files. None named: all, and a plain table for every other sweep file."""
    if not names:
        others = sorted(SWEEPS.glob("*.yaml"))
        used = {file for entry in EXHIBITS.values() for file in entry.sweep_files}
        return [*EXHIBITS.values(), *(_plain(path) for path in others if path.name not in used)]
    found = [entry for name in names for entry in _named(name)]
    return list({entry.name: entry for entry in found}.values())


def _named(name: str) -> list[Exhibit]:
    if name in EXHIBITS:
        return [EXHIBITS[name]]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"exhibit {name!r}: choose from {', '.join(sorted(EXHIBITS))}, or give a sweep file (.yaml)")
    if path.parent.resolve() == SWEEPS.resolve():
        known = [entry for entry in EXHIBITS.values() if path.name in entry.sweep_files]
        if known:
            return known
    return [_plain(path)]


def _plain(path: Path) -> Exhibit:
    return Exhibit(path.stem, path.stem, (str(path.resolve()),), plain)


def build(entry: Exhibit, words: Words, runs: Path) -> Report:
    """Plan the exhibit's cells, look up their records, build the report. Raises `InputError`."""
    # Planning imports the parts and with them torch; only what plans pays for that.
    from seminar import recipes, store

    asked: list[Asked] = []
    for file in entry.sweep_files:
        path = SWEEPS / file
        sweep = sweeps.load(path)
        asked.append(Asked(path, sweep, words, recipes.cells(sweep, words), store.Store(runs), runs))
    return entry.build(*asked)


# -- parts that exhibits share -------------------------------------------------------------------------------------


def profile(point: Mapping[str, Scalar]) -> str:
    """The profile of a grid point; `creatures` is the default of `recipes`."""
    return str(point.get("profile", "creatures"))


def groups(cells: Sequence[frame.Cell], *apart: str) -> dict[str, list[frame.Cell]]:
    """Cells by everything but the seed and the words `apart`: rows are only compared within a group.

    The name of a group is `profile, backbone` and whatever else differs between groups.
    """
    left_out = {"seed", "profile", "backbone", *apart}
    varied = _varied([cell.point for cell in cells]) - left_out
    result: dict[str, list[frame.Cell]] = {}
    for cell in cells:
        rest = [f"{word}={_text(cell.point[word])}" for word in sorted(varied & cell.point.keys())]
        result.setdefault(", ".join([profile(cell.point), cell.stage.backbone, *rest]), []).append(cell)
    return result


def _varied(points: Sequence[Mapping[str, Scalar]]) -> set[str]:
    words = {word for point in points for word in point}
    return {word for word in words if len({_text(point[word]) for point in points if word in point}) > 1}


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def header(asked: Asked) -> tuple[str, ...]:
    """Facts about the runs behind a report."""
    paid = frame.trainings(asked.source, asked.cells)
    done = paid[paid["status"] == "done"]
    seeds = sorted({cell.stage.replicate for cell in asked.cells})
    fixed = {w: v for w, v in asked.sweep.override(asked.words).parameters.items() if w not in ("profile", "seed")}
    words = ", ".join(f"{word} = {' / '.join(map(_text, values))}" for word, values in sorted(fixed.items()))
    lines = [
        f"Profile: {', '.join(asked.profiles)}. Words: {words or 'none'}. Seeds: {', '.join(map(str, seeds))}.",
        f"Reported number: the student after the last epoch, protocol `{frame.PROTOCOL}` "
        "(short side resized to the crop size, centre crop), mean over classes of one confusion matrix.",
        f"Distinct trainings: {len(paid)}, of which {len(done)} done; training time together "
        f"{_duration(float(done['seconds'].sum()))} (sum over trainings, whatever ran side by side).",
    ]
    for name, column in (("Commit", "commit"), ("PyTorch", "torch"), ("Device", "device"), ("CPU", "cpu")):
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


def gaps(name: str, rows: Sequence[Row], command: str) -> list[str]:
    """What is missing and why, and the command that fills it. Empty when everything is done."""
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
            lines.append(f"{name}: {row.label}, {_seeds(empty['seed'])}: done, but without a `{frame.PROTOCOL}` score.")
    return [*lines, f"Fill with `{command}`"] if lines else []


def _seeds(seeds: pd.Series[int]) -> str:
    numbers = sorted({int(seed) for seed in seeds})
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


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


# -- Table 3 -------------------------------------------------------------------------------------------------------

STEPS = (
    ("CRF added to pCE", "pce", "pce+crf"),
    ("pCons added to pCE", "pce", "pce+pcons"),
    ("CRF added to pCE + pCons", "pce+pcons", "pce+crf+pcons"),
    ("pseudo added to pCE + CRF + pCons", "pce+crf+pcons", "pce+crf+pcons+pseudo"),
)
"""The steps that the paper argues with: what is added, the row without it, the row with it."""

ORDER = (("pce", "pce+crf+pcons"), ("pce+crf+pcons", "ce"))
"""pCE < pCE + CRF + pCons < full supervision."""

_UNCHANGED = HOST_WORDS | {"profile", "seed", "backbone", "losses"}


@exhibit("table3", "Table 3: the contribution of each loss term", "losses.yaml")
def table3(asked: Asked) -> Report:
    """Loss combinations: scores, what each step brings, and what of it is background calibration."""
    printed = paper.table("table3")
    parts: dict[str, list[Row]] = {}
    main: list[Table] = []
    more: list[Table] = []
    missing: list[str] = []
    drawn: dict[str, Mapping[str, bytes]] = {}
    data: list[Table] = []
    by_group = groups(asked.cells, "losses")
    for name, cells in by_group.items():
        rows = summary.rows(frame.frame(asked.source, cells))
        parts[name] = rows
        reason = not_comparable(cells, printed)
        network = printed.network(cells[0].stage.backbone)
        main.append(_table3_main(name, rows, printed, reason))
        more += [_steps(name, rows, printed), _order(name, rows), _calibration(name, rows)]
        missing += gaps(name, rows, asked.command)[:-1]
        stem = "table3" if len(by_group) == 1 else f"table3_{slug(name)}"
        drawn[stem] = figures.table3(
            rows,
            frame.curves(asked.source, cells),
            f"Table 3: loss terms ({name})",
            {row.label: _loss_name(row.label) for row in rows},
            {} if reason or network is None else {k: v for k, v in printed.miou[network].items() if v is not None},
        )
        data.append(_table3_data(name, cells, rows, printed, comparable=not reason))
    return Report(
        name="table3",
        title=EXHIBITS["table3"].title,
        profiles=asked.profiles,
        header=header(asked),
        main=tuple(main),
        gaps=(*missing, f"Fill with `{asked.command}`") if missing else (),
        more=tuple(more),
        appendix=(runs_table(parts),),
        data={
            "table3": Table("table3", data[0].columns, tuple(row for table in data for row in table.rows)),
            "table3_runs": runs_data(frame.frame(asked.source, asked.cells)),
        },
        figures=drawn,
    )


def not_comparable(cells: Sequence[frame.Cell], printed: paper.PaperTable) -> str | None:
    """Why the paper's numbers cannot be set against these cells; None if they can."""
    chosen, backbone = profile(cells[0].point), cells[0].stage.backbone
    if chosen != printed.profile:
        return f"profile {chosen} has other data, another network or input size ({backbone}) and another budget"
    if printed.network(backbone) is None:
        return f"the paper does not use the network {backbone}"
    changed = sorted({word for cell in cells for word in cell.point} - _UNCHANGED)
    return f"changed here: {', '.join(changed)}" if changed else None


def _loss_name(label: str) -> str:
    return "ce (full)" if label == "ce" else label


def _paper_pair(printed: paper.PaperTable, label: str) -> str:
    return " / ".join(tables.fixed(printed.value(network, label)) for network in printed.miou)


def _table3_main(name: str, rows: Sequence[Row], printed: paper.PaperTable, reason: str | None) -> Table:
    body: list[tuple[Value, ...]] = []
    for index, row in enumerate(rows):
        step = summary.minus(row, rows[index - 1]) if index else summary.Estimate(0)
        recalls = [tables.fixed(row.over_seeds(f"{kind}_recall").mean, 0) for kind in ("background", "foreground")]
        body.append(
            (
                _loss_name(row.label),
                tables.mean_and_std(row.over_seeds()),
                tables.difference(step),
                _paper_pair(printed, row.label),
                "/".join(recalls),
                row.over_seeds("miou_bias").mean,
                row.over_seeds("teacher_miou").mean,
                row.status,
            )
        )
    titles = " / ".join(printed.titles.values())
    compare = "one run each on VOC 2012 val, 513 px"
    if reason:
        compare += f"; it cannot be compared with the numbers here: {reason}"
    notes = (
        f"mIoU in %, mean ± sample standard deviation (seeds); student, last epoch, protocol `{frame.PROTOCOL}`.",
        f"to row above: mean difference over the seeds that both rows have. {INTERVAL_NOTE}",
        f"paper: {titles}, {compare}. {' '.join(printed.conflicts)}".strip(),
        "bg/fg: recall of the background, and mean recall of the foreground classes, in %.",
        BIAS_NOTE,
        f"teacher: its mIoU, {tables.DASH} in a row that trains without one. Elsewhere {tables.DASH}: not there yet.",
    )
    columns = (
        Column("losses", right=False),
        Column("mIoU (n)"),
        Column("to row above"),
        Column("paper"),
        Column("bg/fg"),
        Column("+bias"),
        Column("teacher"),
        Column("status", right=False),
    )
    return Table(f"Loss terms ({name})", columns, tuple(body), notes)


def _by_label(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.label: row for row in rows}


def _steps(name: str, rows: Sequence[Row], printed: paper.PaperTable) -> Table:
    found = _by_label(rows)
    body: list[tuple[Value, ...]] = []
    for step, without, with_ in STEPS:
        change = summary.Estimate(0)
        if without in found and with_ in found:
            change = summary.minus(found[with_], found[without])
        papers = []
        for network in printed.miou:
            lower, upper = printed.value(network, without), printed.value(network, with_)
            papers.append(None if lower is None or upper is None else upper - lower)
        shown = [tables.fixed(value, 2, sign=True) for value in papers]
        body.append((step, tables.difference(change, 2), change.n, summary.verdict(change), *shown))
    columns = (
        Column("step", right=False),
        Column("mIoU gained"),
        Column("seeds"),
        Column("the gain", right=False),
        *(Column(f"paper {title}") for title in printed.titles.values()),
    )
    notes = (
        "holds: the whole 95 % interval of the paired difference is above 0; reversed: below 0; else cannot tell.",
        "The paper has one run per number, so its differences have no interval.",
    )
    return Table(f"The paper's steps ({name})", columns, tuple(body), notes)


def _order(name: str, rows: Sequence[Row]) -> Table:
    found = _by_label(rows)
    body: list[tuple[Value, ...]] = []
    for lower, upper in ORDER:
        low, high = (found[label].over_seeds() if label in found else summary.Estimate(0) for label in (lower, upper))
        shown = [f"{tables.fixed(e.low)} to {tables.fixed(e.high)}" if e.low is not None else None for e in (low, high)]
        body.append((f"{_loss_name(lower)} below {_loss_name(upper)}", *shown, summary.below(low, high)))
    columns = (
        Column("claim", right=False),
        Column("95 % of the lower"),
        Column("95 % of the upper"),
        Column("intervals apart", right=False),
    )
    notes = (
        "yes: the interval of the lower row's mean ends before that of the upper begins. no: they overlap or the "
        "order is the other one. cannot tell: fewer than 2 seeds.",
    )
    return Table(f"Ordering ({name})", columns, tuple(body), notes)


def _calibration(name: str, rows: Sequence[Row]) -> Table:
    metrics = ("background_recall", "foreground_recall", "student_miou", "miou_bias", "background_bias")
    body: list[tuple[Value, ...]] = []
    for row in rows:
        values = [row.over_seeds(metric).mean for metric in metrics]
        gained = None if values[2] is None or values[3] is None else values[3] - values[2]
        apart = summary.paired(row.by_seed("teacher_miou"), row.by_seed())
        teacher = tables.mean_and_std(row.over_seeds("teacher_miou"))
        best = row.over_seeds("best_student_miou").mean
        shown = tables.difference(apart, 2)
        body.append((_loss_name(row.label), *values[:4], gained, values[4], teacher, shown, best))
    columns = (
        Column("losses", right=False),
        Column("background recall"),
        Column("foreground recall"),
        Column("mIoU"),
        Column("+bias"),
        Column("gained by it"),
        Column("the bias", 2),
        Column("teacher mIoU (n)"),
        Column("teacher - student"),
        Column("best epoch"),
    )
    notes = (
        "In %, means over seeds.",
        BIAS_NOTE,
        "best epoch: student mIoU of the epoch that is best on the validation set; that choice flatters it.",
    )
    return Table(f"Calibration and teacher ({name})", columns, tuple(body), notes)


def _table3_data(
    name: str, cells: Sequence[frame.Cell], rows: Sequence[Row], printed: paper.PaperTable, comparable: bool
) -> Table:
    """One plain row per table row. `difference` is against the row above (`difference_to`)."""
    body: list[dict[str, Value]] = []
    for index, row in enumerate(rows):
        step = summary.minus(row, rows[index - 1]) if index else summary.Estimate(0)
        body.append(
            {
                "group": name,
                "profile": profile(cells[0].point),
                "backbone": cells[0].stage.backbone,
                "losses": row.label,
                **_estimate_columns("miou", row.over_seeds()),
                "difference_to": rows[index - 1].label if index else None,
                **_estimate_columns("difference", step),
                **{f"paper_{network}": printed.value(network, row.label) for network in printed.miou},
                "paper_comparable": str(comparable).lower(),
                **{
                    metric: row.over_seeds(metric).mean
                    for metric in (
                        "background_recall",
                        "foreground_recall",
                        "miou_bias",
                        "background_bias",
                        "teacher_miou",
                        "best_student_miou",
                    )
                },
                **{status: row.count(status) for status in ("done", "running", "stopped", "failed", "missing")},
                "status": row.status,
            }
        )
    return Table("table3", tuple(map(Column, body[0])), tuple(tuple(row.values()) for row in body))


def _estimate_columns(name: str, value: summary.Estimate) -> dict[str, Value]:
    parts: dict[str, Value] = {"mean": value.mean, "std": value.std, "low": value.low, "high": value.high}
    return {f"{name}_n": value.n, **{f"{name}_{part}": number for part, number in parts.items()}}


# -- any other sweep -----------------------------------------------------------------------------------------------


def plain(asked: Asked) -> Report:
    """One row per grid point without its seed: the words that vary, the score, the status."""
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
        numbers.append((*words, *_estimate_columns("miou", score).values(), teacher.mean, row.status))
    heads = [Column(word, right=False) for word in varied]
    columns = (*heads, Column("n"), Column("mIoU (%)"), Column("std"), Column("teacher"), Column("status", right=False))
    name, title = asked.sweep.name, asked.sweep.description or asked.sweep.name
    plain_heads = (*heads, *map(Column, _estimate_columns("miou", summary.Estimate(0))), Column("teacher_miou"))
    notes = (f"Student, last epoch, protocol `{frame.PROTOCOL}`: mean and sample standard deviation over n seeds.",)
    stem = slug(asked.path.stem)
    return Report(
        name=stem,
        title=title,
        profiles=asked.profiles,
        header=header(asked),
        main=(Table(title, columns, tuple(body), notes),),
        gaps=tuple(gaps(name, rows, asked.command)),
        appendix=(runs_table({name: rows}),),
        data={
            stem: Table(name, (*plain_heads, Column("status")), tuple(numbers)),
            f"{stem}_runs": runs_data(data),
        },
    )
