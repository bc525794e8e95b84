"""Everything that is one table of rows, one dot or line plot, and the paper's claims about it: a `Study` each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from analysis import exhibits, figures, frame, paper, summary, tables
from analysis.exhibits import Asked, exhibit
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar.spec import Stage
from seminar.sweep import DEFAULT

MARGIN = 1.0
"""Points of mIoU within which two rows count as unchanged: the paper has one run per number, and calls less nothing."""


@dataclass(frozen=True)
class Claim:
    """What the paper says of two rows, by label: `upper` gains on `lower`, or (`same`) nothing much changes."""

    text: str
    lower: str
    upper: str
    same: bool = False


@dataclass(frozen=True)
class Study:
    """An exhibit whose rows are the cells that share `row(cell)`.

    `words`: those that the label of a row shows; cells that differ in another one are a group of their own.
    `reference`: the row that others are compared with, by label or, for `default`, the row that has the profile's own
    value. `printed`: the entry of paper.yaml with the same labels. `axis`: its title where rows are points on one,
    `point(stage)` then being the place on it and `line(stage)` the line it belongs to. `says`: the title of the claims.
    `curves`: drawn over the ancillary's and the row's own training.
    """

    name: str
    title: str
    sweep_file: str
    words: tuple[str, ...]
    row: Callable[[frame.Cell], str]
    reference: str
    claims: tuple[Claim, ...] = ()
    printed: str | None = None
    axis: str | None = None
    point: Callable[[Stage], str] = str
    line: Callable[[Stage], str] = lambda _: "student"
    notes: tuple[str, ...] = ()
    says: str = "What the paper says"
    curves: bool = False


def _term(stage: Stage, name: str) -> float:
    return next((term.weight for term in stage.losses if term.name == name), 0.0)


def _setting(stage: Stage, term: str, name: str) -> str:
    settings = {term.name: dict(term.settings) for term in stage.losses}
    return str(settings[term][name]) if term in settings else f"none (no {term})"


def _self_generation(stage: Stage) -> str:
    names = {"none": "student-student", "reset": "self-generation, reset", "unchange": "self-generation, unchange"}
    return names[stage.self_generation]


def _alpha(stage: Stage) -> str:
    return "no teacher" if stage.alpha is None else f"{stage.alpha:g}"


def _size(stage: Stage) -> str:
    return f"{stage.label}, {stage.click_size} px"


FULL = "pce+crf+pcons+pseudo"

STUDIES = (
    Study(
        name="fig4",
        title="Fig. 4: student-student learning against self-generation",
        sweep_file="self-generation.yaml",
        words=("self_generation",),
        row=lambda cell: _self_generation(cell.stage),
        reference="student-student",
        claims=(
            Claim("a second student beats self-generation with reset", "self-generation, reset", "student-student"),
            Claim("reset falls below the level before pseudo-labels", "self-generation, reset", "ancillary"),
            Claim("unchange stays flat", "ancillary", "self-generation, unchange", same=True),
        ),
        notes=("The paper prints curves without numbers. All rows share their ancillary and have equal updates.",),
        curves=True,
    ),
    Study(
        name="fig5a",
        title="Fig. 5a: the number of student-student modules",
        sweep_file="students.yaml",
        words=("modules",),
        row=lambda cell: f"K={cell.stage.modules}",
        reference="K=0",
        claims=(
            Claim("one module gains", "K=0", "K=1"),
            Claim("a second changes almost nothing", "K=1", "K=2", same=True),
            Claim("a third changes almost nothing", "K=2", "K=3", same=True),
        ),
        printed="fig5a",
        axis="K, number of student-student modules",
        point=lambda stage: str(stage.modules),
    ),
    Study(
        name="fig5b",
        title="Fig. 5b: EMA alpha",
        sweep_file="ema.yaml",
        words=("alpha",),
        row=lambda cell: f"alpha={_alpha(cell.stage)}",
        reference=DEFAULT,
        axis="alpha of the EMA teacher",
        point=_alpha,
        notes=("The paper prints this as a figure without numbers and finds alpha = 0.999 best on 52,920 steps.",),
    ),
    Study(
        name="fig5c",
        title="Fig. 5c: the weight of the consistency loss",
        sweep_file="pcons.yaml",
        words=("lambda_pcons",),
        row=lambda cell: f"lambda_pcons={_term(cell.stage, 'pcons'):g}",
        reference=DEFAULT,
        axis="lambda_pCons",
        point=lambda stage: f"{_term(stage, 'pcons'):g}",
        notes=("The paper prints this as a figure without numbers and finds lambda = 200 best.",),
    ),
    Study(
        name="supp_table1",
        title="Supplement, Table 1: scribbles",
        sweep_file="scribbles.yaml",
        words=("losses",),
        row=lambda cell: cell.stage.label,
        reference="pce+crf",
        claims=(Claim("a second student gains with scribbles, too", "pce+crf", "pce+crf+pseudo"),),
        printed="supp_table1",
    ),
    Study(
        name="supp_table2",
        title="Supplement, Table 2: the size of a click",
        sweep_file="clicks.yaml",
        words=("losses", "click_size"),
        row=lambda cell: _size(cell.stage),
        reference="pce, 1 px",
        claims=(
            Claim("larger clicks help pCE alone", "pce, 1 px", "pce, 5 px"),
            Claim("3 px make no difference to the full method", f"{FULL}, 1 px", f"{FULL}, 3 px", same=True),
            Claim("5 px make no difference to the full method", f"{FULL}, 1 px", f"{FULL}, 5 px", same=True),
        ),
        printed="supp_table2",
        axis="side of a click in pixels",
        point=lambda stage: str(stage.click_size),
        line=lambda stage: stage.label,
    ),
    Study(
        name="conventions",
        title="Beyond the paper: conventions on which it is silent",
        sweep_file="conventions.yaml",
        words=("variant",),
        row=lambda cell: str(cell.point["variant"]),
        reference=DEFAULT,
        notes=("One convention is changed at a time; `default` is the suite's choice at every one of them.",),
    ),
    Study(
        name="crf",
        title="Beyond the paper: does the accuracy of the CRF operator matter?",
        sweep_file="crf.yaml",
        words=("crf_operator",),
        row=lambda cell: f"operator {_setting(cell.stage, 'crf', 'operator')}",
        reference="operator exact",
        claims=(
            Claim("landmarks at 4 kappa change nothing", "operator exact", "operator 4.0", same=True),
            Claim("landmarks at 0.5 kappa change nothing", "operator exact", "operator 0.5", same=True),
        ),
        says="Does it matter?",
        notes=("Not a claim of the paper: the suite's own question. A number is the landmarks per kappa.",),
    ),
)


def build(study: Study, asked: Asked) -> Report:
    """The report of a study; cells that differ in more than its words are groups of their own."""
    printed = paper.table(study.printed) if study.printed else None
    parts: dict[str, list[Row]] = {}
    main: list[Table] = []
    claims: dict[str, Table] = {}
    missing: list[str] = []
    drawn: dict[str, Mapping[str, bytes]] = {}
    numbers: list[tuple[Value, ...]] = []
    by_group = exhibits.groups(asked.cells, *study.words)
    for name, cells in by_group.items():
        data = frame.frame(asked.source, cells)
        data["row"] = [study.row(cell) for cell in cells]
        rows = summary.rows(data, by="row")
        stages = {study.row(cell): cell.stage for cell in cells}
        lines = list(dict.fromkeys(study.line(stage) for stage in stages.values()))
        rows.sort(key=lambda row: lines.index(study.line(stages[row.label])))
        own = {study.row(c) for c in cells for word in study.words if c.point.get(word) == DEFAULT}
        reference = next(iter(own), rows[0].label) if study.reference == DEFAULT else study.reference
        parts[name] = rows
        reason = exhibits.not_comparable(cells, printed, study.words) if printed else None
        main.append(_table(study, name, rows, own, reference, printed, reason))
        if study.claims:
            claims[name] = _claims(study, name, rows, printed)
        missing += exhibits.gaps(name, rows)
        stem = exhibits.stem(study.name, name, by_group)
        title = f"{study.title} ({name})"
        if study.axis is not None:
            points = {label: (study.line(stage), study.point(stage)) for label, stage in stages.items()}
            drawn[stem] = figures.points(rows, points, title, study.axis, own)
        elif study.curves:
            curves = frame.curves(asked.source, cells)
            before = frame.curves(asked.source, frame.ancillaries(cells))
            drawn[stem] = figures.two_budgets(rows, curves, before, title)
        else:
            drawn[stem] = figures.dots(rows, title)
        numbers += [_numbers(name, row, rows, reference) for row in rows]
    heads = ("group", "row", *exhibits.estimate_columns("miou", summary.Estimate(0)), "difference_to")
    heads = (*heads, *exhibits.estimate_columns("difference", summary.Estimate(0)), "ancillary_miou", "teacher_miou")
    return exhibits.report(
        study.name,
        study.title,
        asked,
        missing,
        main=tuple(main),
        claims=claims,
        appendix=(exhibits.runs_table(parts),),
        data={
            study.name: Table(study.name, tuple(map(Column, (*heads, "status"))), tuple(numbers)),
            f"{study.name}_runs": exhibits.runs_data(frame.frame(asked.source, asked.cells)),
        },
        figures=drawn,
    )


def _reference(rows: Sequence[Row], row: Row, reference: str) -> summary.Estimate:
    found = {other.label: other for other in rows}
    if reference not in found or row.label == reference:
        return summary.Estimate(0)
    return summary.minus(row, found[reference])


def _table(
    study: Study,
    name: str,
    rows: Sequence[Row],
    own: set[str],
    reference: str,
    printed: paper.PaperTable | None,
    reason: str | None,
) -> Table:
    # A column that no row can have is left out.
    others = {"ancillary_miou": "ancillary"} if any((row.runs["modules"] > 0).any() for row in rows) else {}
    others |= {"teacher_miou": "teacher"} if any(row.runs["has_teacher"].any() for row in rows) else {}
    body: list[tuple[Value, ...]] = []
    for row in rows:
        values: list[Value] = [
            f"{row.label} (the profile's)" if row.label in own else row.label,
            tables.mean_and_std(row.over_seeds()),
            tables.difference(_reference(rows, row, reference), 2),
        ]
        if printed is not None:
            values.append(" / ".join(tables.fixed(printed.value(network, row.label)) for network in printed.miou))
        values += [row.over_seeds(metric).mean for metric in others]
        body.append((*values, row.status))
    columns = [Column("row", right=False), Column("mIoU (n)"), Column(f"to {reference}")]
    notes = [
        f"mIoU in %, mean ± sample standard deviation (seeds); student, last epoch, protocol `{frame.PROTOCOL}`.",
        f"to {reference}: mean paired difference. {exhibits.INTERVAL_NOTE}",
    ]
    meaning = {
        "ancillary": "ancillary: mIoU of the student whose pseudo-labels the row learns from.",
        "teacher": "teacher: mIoU of the row's own EMA teacher.",
    }
    notes += [meaning[name] for name in others.values()]
    if printed is not None:
        columns.append(Column("paper"))
        compare = f"; it cannot be compared with the numbers here: {reason}" if reason else ""
        titles = " / ".join(printed.titles.values())
        notes.append(f"paper: {titles}, one run each{compare}. {' '.join(printed.conflicts)}".strip())
    columns += [*map(Column, others.values()), Column("status", right=False)]
    return Table(f"{study.title} ({name})", tuple(columns), tuple(body), (*notes, *study.notes))


def _claims(study: Study, name: str, rows: Sequence[Row], printed: paper.PaperTable | None) -> Table:
    found = {row.label: row for row in rows}
    scores = {label: row.by_seed() for label, row in found.items()}
    # The ancillary that all rows share; where they do not (more than one module) there is none to compare with.
    before: dict[int, set[float]] = {}
    for row in rows:
        for seed, score in row.by_seed("ancillary_miou").items():
            before.setdefault(seed, set()).update({score} if score == score else ())
    scores["ancillary"] = {seed: next(iter(values)) for seed, values in before.items() if len(values) == 1}
    lines = []
    for claim in study.claims:
        change = summary.Estimate(0)
        if claim.lower in scores and claim.upper in scores:
            change = summary.paired(scores[claim.upper], scores[claim.lower])
        verdict = summary.unchanged(change, MARGIN) if claim.same else summary.verdict(change)
        papers = printed.gains(claim.lower, claim.upper) if printed else {}
        lines.append(exhibits.Claimed(claim.text, change, verdict, papers))
    return exhibits.claims_table(f"{study.says} ({name})", lines, MARGIN)


def _numbers(name: str, row: Row, rows: Sequence[Row], reference: str) -> tuple[Value, ...]:
    change = _reference(rows, row, reference)
    return (
        name,
        row.label,
        *exhibits.estimate_columns("miou", row.over_seeds()).values(),
        None if row.label == reference else reference,
        *exhibits.estimate_columns("difference", change).values(),
        row.over_seeds("ancillary_miou").mean,
        row.over_seeds("teacher_miou").mean,
        row.status,
    )


for _study in STUDIES:
    exhibit(_study.name, _study.title, _study.sweep_file)(partial(build, _study))
