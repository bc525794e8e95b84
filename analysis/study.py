"""A study: an exhibit that is one table of rows, a figure, the seeds, and claims about differences between rows.

Table 3, every ablation of the paper, and every sweep file without an entry of its own are studies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from analysis import blocks, figures, frame, paper, reference, statistics, summary, tables
from analysis.exhibits import EXHIBITS, NotShown, Request, exhibit
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar.catalogue import Cell
from seminar.spec import Scalar, Stage
from seminar.sweep import DEFAULT

Figure = Literal["rows", "curves", "axis", "two budgets"]
"""`rows`: the scores. `curves`: the scores and how they came about. `axis`: scores along an axis. `two budgets`: curves
of the ancillary and then of each row."""


@dataclass(frozen=True)
class Claim:
    """A claim about two rows, by label: `upper` gains on `lower`, or (`same`) nothing much changes."""

    text: str
    lower: str
    upper: str
    same: bool = False


@dataclass(frozen=True)
class Study:
    """An exhibit whose rows are the cells that share `row(cell)`.

    `settings`: those by which rows differ; cells that differ in another one are a group of their own.
    `against`: the label of the row that each other row is compared with; None: see `baseline_rows`. `pairs` comes
    first, and maps the label of a row to that of the row to compare it with. `paper_table`: the entry of paper.yaml
    with the same labels. With the figure `axis`, `axis` is its title, `point(stage)` a place on it and `line(stage)`
    the line it belongs to. `claims_title`: the title of the table of claims. `recalls`: also show recalls and the
    oracle bias, where the data set has a background. `extra_tables`: make further tables of a group's rows. `shown`:
    how the figure names a row.
    """

    name: str
    title: str
    sweep_file: str
    settings: tuple[str, ...]
    row: Callable[[Cell], str]
    against: str | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    """Rows that are known not to share the spread of the others; chosen before any number was seen."""
    claims: tuple[Claim, ...] = ()
    paper_table: str | None = None
    figure: Figure = "rows"
    axis: str = ""
    point: Callable[[Stage], str] = str
    line: Callable[[Stage], str] = lambda _: "student"
    notes: tuple[str, ...] = ()
    claims_title: str = "What the paper says"
    recalls: bool = False
    extra_tables: tuple[Callable[[Group, Request], Table], ...] = ()
    shown: Mapping[str, str] = field(default_factory=dict)
    decimals: int = 2
    """Of differences in the table."""
    logged: bool = False
    """Also draw everything that was logged while training."""
    leads: bool = False
    """The page of several reports opens with its figure."""

    @property
    def plain_title(self) -> str:
        return self.title.replace("`", "")


def register(study: Study) -> None:
    """Make a study known as an exhibit."""
    exhibit(study.name, study.title, study.sweep_file)(lambda request: build(study, request))


@dataclass(frozen=True)
class Group:
    """The rows of a study that are compared with each other.

    `profile_rows`: labels of rows that have the profile's own value. `baselines`: by the label of each row, that of the
    row it is compared with. `design`: the analysis of all rows together.
    """

    name: str
    cells: Sequence[Cell]
    rows: Sequence[Row]
    stages: Mapping[str, Stage]
    profile_rows: frozenset[str]
    baselines: Mapping[str, str]
    design: statistics.Design

    def change(self, row: Row) -> statistics.Contrast:
        """Return the difference of a row to its counterpart, by the analysis of all rows together."""
        other = self.baselines.get(row.label)
        return self.design.contrast(row.label, other) if other is not None else statistics.Contrast(0)

    def alone(self, row: Row) -> summary.Estimate:
        """Return the paired difference of a row to its counterpart, from these two rows alone."""
        other = next((other for other in self.rows if other.label == self.baselines.get(row.label)), None)
        return summary.minus(row, other) if other is not None else summary.Estimate(0)


def build(study: Study, request: Request) -> Report:
    """Return the report of a study. Raises `NotShown` where trainings are done and none could be scored."""
    published = paper.table(study.paper_table) if study.paper_table else None
    main: list[Table] = []
    claims: dict[str, Table] = {}
    measured: dict[str, Sequence[blocks.Claimed]] = {}
    more: list[Table] = []
    missing: list[str] = []
    drawn: dict[str, Mapping[str, bytes]] = {}
    numbers: list[dict[str, object]] = []
    by_group = blocks.groups(request.cells, *study.settings)
    groups = [_group(study, name, cells, request.source) for name, cells in by_group.items()]
    _refuse_unscored([row for group in groups for row in group.rows])
    for group in groups:
        why_not_comparable = blocks.not_comparable(group.cells, published, study.settings) if published else None
        lines = claimed(study.claims, group.design, published)
        main.append(_table(study, group, published, why_not_comparable, [line.contrast for line in lines]))
        if study.claims:
            measured[group.name] = lines
            claims[group.name] = blocks.claims_table(
                f"{study.claims_title} ({group.name})", lines, request, request.cells
            )
            more.append(blocks.alone_table(f"{study.claims_title}: two rows alone ({group.name})", lines))
        more += [make(group, request) for make in study.extra_tables]
        missing += blocks.gaps(group.name, group.rows)
        stem = blocks.stem(study.name, group.name, by_group)
        drawn[stem] = _draw(study, group, request.source, published, why_not_comparable)
        if study.logged:
            drawn[f"{stem}_logged"] = draw_logged(group, request.source, study.plain_title)
        numbers += _numbers(study, group, published, why_not_comparable)
    data = pd.DataFrame(numbers, dtype=object)
    settings = [name for group in groups for name in (*study.settings, *_varied(group.rows))]
    return blocks.assemble(
        study.name,
        study.title,
        request,
        missing,
        main=(*main, *reference.compare(request, study.name, {group.name: group.rows for group in groups})),
        claims=claims,
        more=tuple(more),
        appendix=(blocks.runs_table({group.name: group.rows for group in groups}),),
        data={
            study.name: blocks.numbers_table(study.name, data, settings),
            f"{study.name}_runs": blocks.runs_data({group.name: group.rows for group in groups}),
            **({f"{study.name}_claims": blocks.claims_data(measured, request, request.cells)} if measured else {}),
        },
        figures=drawn,
        leads=study.leads,
    )


def _refuse_unscored(rows: Sequence[Row]) -> None:
    done = pd.concat([row.runs[row.runs["status"] == "done"] for row in rows])
    if len(done) and done["student_miou"].isna().all():
        raise NotShown("no validation image has a mask, so nothing can be scored")


def _group(study: Study, name: str, cells: Sequence[Cell], source: frame.Source) -> Group:
    data = frame.frame(source, cells)
    data["row"] = [study.row(cell) for cell in cells]
    rows = summary.rows(data, by="row")
    stages = {study.row(cell): cell.stage for cell in cells}
    lines = list(dict.fromkeys(study.line(stage) for stage in stages.values()))
    rows.sort(key=lambda row: lines.index(study.line(stages[row.label])))
    own = frozenset(study.row(c) for c in cells for name in study.settings if c.point.get(name) == DEFAULT)
    if study.against is not None:
        others = {row.label: study.against for row in rows if row.label != study.against}
    else:
        profile = {name: value for cell in cells for name, value in cell.own.items()} | {"variant": DEFAULT}
        others = baseline_rows(rows, study.settings, profile)
    labels = {row.label for row in rows}
    pairs = {label: other for label, other in study.pairs.items() if {label, other} <= labels}
    design = statistics.of_rows(rows, study.apart, _ancillary(rows, study))
    return Group(name, cells, rows, stages, own, {**others, **pairs}, design)


def _ancillary(rows: Sequence[Row], study: Study) -> dict[str, dict[int, float]]:
    """Return the scores of the ancillary that all rows share, where a claim is about it; where they do not share one
    (more than one module) there is none to compare with."""
    if not any("ancillary" in (claim.lower, claim.upper) for claim in study.claims):
        return {}
    before: dict[int, set[float]] = {}
    for row in rows:
        for seed, score in row.by_seed("ancillary_miou").items():
            before.setdefault(seed, set()).update({score} if score == score else ())
    return {"ancillary": {seed: next(iter(values)) for seed, values in before.items() if len(values) == 1}}


def baseline_rows(rows: Sequence[Row], settings: Sequence[str], profile: Mapping[str, Scalar]) -> dict[str, str]:
    """Return the label of the row that makes sense as each row's counterpart.

    The two differ in one of the `settings`, the last one that allows it. In a list of loss terms or of variants the
    counterpart has the most of the row's parts and no others; of any other setting it has the value of the `profile`,
    or of the first row where no row has the profile's. A row without any is compared with the row above. For example
    `pce+crf+pcons` has the baseline `pce+crf` where `pce` and `pce+crf` are rows too, and `alpha=0.99` that of the
    profile, `alpha=0.9`.
    """
    result: dict[str, str] = {}
    for index, row in enumerate(rows):
        for name in reversed(settings):
            rest = [other for other in settings if other != name]
            alike = [other for other in rows if all(_equal(other, row, setting) for setting in rest)]
            found = _counterpart(row, alike, name, profile.get(name))
            if found is not None:
                result[row.label] = found.label
                break
        else:
            whole = [name for name in settings if name not in ("losses", "variant")]
            if index and not whole:
                result[row.label] = rows[index - 1].label
    return result


def _counterpart(row: Row, alike: Sequence[Row], name: str, own: Scalar | None) -> Row | None:
    if name in ("losses", "variant"):
        mine = _parts(row, name)
        fewer = [other for other in alike if _parts(other, name) < mine]
        most = max((len(_parts(other, name)) for other in fewer), default=0)
        return next((other for other in reversed(fewer) if len(_parts(other, name)) == most), None)
    value = row.setting(name)
    base = next((other for other in alike if own is not None and other.setting(name) == own), alike[0])
    return base if base is not row and base.setting(name) != value else None


def _parts(row: Row, name: str) -> frozenset[str]:
    value = str(row.setting(name) or DEFAULT)
    return frozenset() if value == DEFAULT else frozenset(value.replace("+", " ").split())


def _equal(one: Row, other: Row, name: str) -> bool:
    return bool(one.setting(name) == other.setting(name))


def _draw(
    study: Study, group: Group, source: frame.Source, published: paper.PaperTable | None, why_not_comparable: str | None
) -> Mapping[str, bytes]:
    title = f"{study.plain_title} ({group.name})"
    if study.figure == "axis":
        points = {label: (study.line(stage), study.point(stage)) for label, stage in group.stages.items()}
        return figures.scores_along_axis(group.rows, points, title, study.axis, group.profile_rows)
    if study.figure == "two budgets":
        curves = frame.curves(source, group.cells)
        before = frame.curves(source, frame.ancillaries(group.cells))
        return figures.two_budgets(group.rows, curves, before, title)
    if study.figure == "curves":
        network = published.network(group.cells[0].stage.backbone) if published and not why_not_comparable else None
        known = {} if published is None or network is None else published.miou[network]
        marks = {label: value for label, value in known.items() if value is not None}
        names = {row.label: study.shown.get(row.label, row.label) for row in group.rows}
        return figures.scores_and_curves(group.rows, frame.curves(source, group.cells), title, names, marks)
    return figures.dots(group.rows, title, study.shown)


def draw_logged(group: Group, source: frame.Source, title: str) -> Mapping[str, bytes]:
    """Return the figure of everything that the rows of a group logged while training."""
    curves = logged(group.rows, source)
    labels = [row.label for row in group.rows]
    return figures.facts(curves, labels, dict(zip(labels, labels)), f"{title} ({group.name})")


def logged(rows: Sequence[Row], source: frame.Source) -> pd.DataFrame:
    """Return what the finished trainings of rows logged: `row`, `seed`, `epoch`, and a column for each number."""
    found: list[dict[str, object]] = []
    for row in rows:
        for run in row.runs[row.runs["status"] == "done"].to_dict("records"):
            lines = {line["epoch"]: line for line in source.curve(run["key"])}
            found += [{**lines[epoch], "row": row.label, "seed": run["seed"]} for epoch in sorted(lines)]
    data = pd.DataFrame(found) if found else pd.DataFrame(columns=["row", "seed", "epoch"])
    return data.drop(columns=["step", "seconds"], errors="ignore")


def _table(
    study: Study,
    group: Group,
    published: paper.PaperTable | None,
    why_not_comparable: str | None,
    claims: Sequence[statistics.Contrast],
) -> Table:
    rows = group.rows
    # A column that no row can have is left out.
    own_rows = {key for row in rows for key in row.runs["key"]}
    apart = {s.ancillary.key for s in group.stages.values() if s.ancillary is not None} - own_rows
    others = {"ancillary_miou": "ancillary"} if apart else {}
    others |= {"teacher_miou": "teacher"} if any(row.runs["has_teacher"].any() for row in rows) else {}
    further = {name: name.removeprefix("student_") for row in rows for name in frame.extra_metric_columns(row.runs)}
    recalled = study.recalls and blocks.with_background(rows)
    targets = list(dict.fromkeys(group.baselines.values()))
    head = f"vs {targets[0]}" if len(targets) == 1 else "difference"
    body: list[tuple[Value, ...]] = []
    for row in rows:
        shown = study.shown.get(row.label, row.label)
        values: list[Value] = [
            f"{shown} (the profile's)" if row.label in group.profile_rows else shown,
            tables.mean_and_std(row.over_seeds()),
            tables.difference(group.change(row).estimate(), study.decimals),
        ]
        if published is not None:
            values.append(" / ".join(tables.fixed(published.value(network, row.label)) for network in published.miou))
        if recalled:
            recalls = [tables.fixed(row.over_seeds(f"{kind}_recall").mean, 0) for kind in ("background", "foreground")]
            values += ["/".join(recalls), row.over_seeds("miou_bias").mean]
        values += [row.over_seeds(metric).mean for metric in (*further, *others)]
        body.append((*values, row.status))
    columns = [Column("row", right=False), Column("mIoU (n)"), Column(head)]
    pairs = "; ".join(f"{study.shown.get(row, row)} to {other}" for row, other in group.baselines.items())
    fitted = "of two rows, with a level for each row and a shift for each seed fitted to the whole table"
    what = f"difference {fitted if group.design.shared else 'of the means of two rows'}"
    meaning = f"{head}: {what}{'' if len(targets) == 1 else f' ({pairs})'}. {blocks.INTERVAL_NOTE}"
    notes = [blocks.SCORE_NOTE, meaning]
    notes += blocks.design_notes(group.design, [group.change(row) for row in rows], claims, study.apart)
    if published is not None:
        columns.append(Column("paper"))
        compare = f"; it cannot be compared with the numbers here: {why_not_comparable}" if why_not_comparable else ""
        titles = " / ".join(published.titles.values())
        notes.append(f"paper: {titles}, one run each{compare}. {' '.join(published.conflicts)}".strip())
    if recalled:
        columns += [Column("bg/fg"), Column("+bias")]
        notes.append("bg/fg: recall of the background, and mean recall of the foreground classes, in %.")
        notes.append(blocks.BIAS_NOTE)
    columns += [Column(name.replace("_", " ")) for name in further.values()]
    columns += [*map(Column, others.values()), Column("status", right=False)]
    explained = {
        "ancillary": "ancillary: mIoU of the student whose pseudo-labels the row learns from.",
        "teacher": "teacher: mIoU of the row's own EMA teacher.",
    }
    notes += [explained[name] for name in others.values()]
    if others:
        notes.append(f"{tables.DASH}: a row that has none, or a number that is not there yet.")
    return Table(f"{study.title} ({group.name})", tuple(columns), tuple(body), (*notes, *study.notes))


def claimed(
    claims: Sequence[Claim], design: statistics.Design, published: paper.PaperTable | None = None
) -> list[blocks.Claimed]:
    """Return what was measured of claims about the rows of a table."""
    lines = []
    for claim in claims:
        contrast = design.contrast(claim.upper, claim.lower)
        alone = summary.paired(design.row(claim.upper), design.row(claim.lower))
        papers = published.gains(claim.lower, claim.upper) if published else {}
        lines.append(blocks.Claimed(claim.text, contrast, alone, claim.same, papers))
    return lines


def _numbers(
    study: Study, group: Group, published: paper.PaperTable | None, why_not_comparable: str | None
) -> list[dict[str, object]]:
    """Return one line for each row, for machines: the values of its settings, its score, and its difference."""
    lines: list[dict[str, object]] = []
    differing = [name for name in study.settings if name != "variant" and any(name in r.runs for r in group.rows)]
    means = ["background_recall", "foreground_recall", "miou_bias", "background_bias"]
    means += ["ancillary_miou", "teacher_miou", "best_student_miou"]
    for row in group.rows:
        further = [*means, *frame.extra_metric_columns(row.runs)]
        change = group.change(row)
        difference = blocks.estimate_columns("difference", change.estimate(), std=False)
        spread = {"spread": group.design.spread, "freedom": change.freedom or None, "sensitivity": change.half()}
        published_here = (
            {} if published is None else {f"paper_{n}": published.value(n, row.label) for n in published.miou}
        )
        comparable = {} if published is None else {"paper_comparable": str(not why_not_comparable).lower()}
        lines.append(
            {
                "group": group.name,
                "profile": group.cells[0].point.get("profile", ""),
                "backbone": group.cells[0].stage.backbone,
                "row": row.label,
                **{name: row.setting(name) for name in dict.fromkeys([*differing, *_varied(group.rows)])},
                **blocks.estimate_columns("miou", row.over_seeds()),
                "difference_to": group.baselines.get(row.label),
                **difference,
                **spread,
                **blocks.estimate_columns("alone", group.alone(row)),
                **published_here,
                **comparable,
                **{name: row.over_seeds(name).mean for name in further},
                **{status: row.count(status) for status in summary.STATUSES},
                "status": row.status,
            }
        )
    return lines


def _varied(rows: Sequence[Row]) -> list[str]:
    """Return the settings by which the rows of a group differ."""
    data = pd.concat([row.runs for row in rows], ignore_index=True)
    names = [name for name in frame.setting_columns(data) if name != "variant"]
    return [name for name in names if data[name].nunique(dropna=False) > 1]


def of_sweep(request: Request) -> Study:
    """Return the study of a sweep file that has no entry: rows by all that varies, and everything that was logged."""
    points = [cell.point for cell in request.cells]
    settings = [name for name in blocks.varied(points) if name not in ("seed", "profile", "backbone")]
    # The losses first: where several settings vary, rows with the same losses are compared with each other.
    settings.sort(key=lambda name: (name != "losses", name))

    def row(cell: Cell) -> str:
        return ", ".join(f"{n}={blocks.text(cell.point[n])}" for n in settings if n in cell.point) or request.sweep.name

    def point(stage: Stage) -> str:
        return blocks.text(stage.settings.get(settings[0], "none"))

    values = [cell.stage.settings.get(name) for cell in request.cells for name in settings]
    along = len(settings) == 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return Study(
        name=blocks.slug(request.path.stem),
        title=request.sweep.description or request.sweep.name,
        sweep_file=request.path.name,
        settings=tuple(settings),
        row=row,
        figure="axis" if along else "curves",
        axis=settings[0] if along else "",
        point=point,
        logged=True,
    )


def logged_report(name: str, study: Study, request: Request) -> Report:
    """Return the report of everything that the rows of a study logged; it needs no mask."""
    body: list[tuple[Value, ...]] = []
    drawn: dict[str, Mapping[str, bytes]] = {}
    parts: dict[str, Sequence[Row]] = {}
    missing: list[str] = []
    numbers: list[pd.DataFrame] = []
    by_group = blocks.groups(request.cells, *study.settings)
    for group_name, cells in by_group.items():
        group = _group(study, group_name, cells, request.source)
        curves = logged(group.rows, request.source)
        parts[group_name] = group.rows
        missing += [line for line in blocks.gaps(group_name, group.rows) if not line.endswith(blocks.UNSCORED)]
        names = {row.label: study.shown.get(row.label, row.label) for row in group.rows}
        stem = blocks.stem(name, group_name, by_group)
        drawn[stem] = figures.facts(curves, list(names), names, f"{EXHIBITS[name].title} ({group_name})")
        means = (
            curves.groupby(["row", "epoch"], sort=False)
            .mean(numeric_only=True)
            .reset_index()
            .drop(columns="seed", errors="ignore")
        )
        numbers.append(means.assign(group=group_name))
        last = means.groupby("row", sort=False).last()
        body += [
            (group_name, names[str(label)], str(quantity), None if pd.isna(value) else f"{value:.4g}")
            for label, line in last.iterrows()
            for quantity, value in line.items()
            if quantity not in ("epoch", "group") and not pd.isna(value)
        ]
    columns = (*(Column(head, right=False) for head in ("group", "row", "logged")), Column("after the last epoch"))
    notes = (
        "Means over the seeds. `loss_NAME` has no weight; `weight_NAME` is its weight in that epoch; `NAME_fact` is "
        "what a loss reports of itself; `agreement` is the share of pixels on which teacher and student agree, in %.",
    )
    data = pd.concat(numbers, ignore_index=True)
    first = ["group", "row", "epoch"]
    data = data[[*first, *(column for column in data.columns if column not in first)]]
    return blocks.assemble(
        name,
        EXHIBITS[name].title,
        request,
        missing,
        main=(Table(EXHIBITS[name].title, columns, tuple(body), notes),),
        appendix=(blocks.runs_table(parts),),
        data={name: blocks.numbers_table(name, data, data.columns)},
        figures=drawn,
    )
