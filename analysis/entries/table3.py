"""Table 3: the loss terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis import figures, frame, paper, summary, tables
from analysis.exhibits import (
    BIAS_NOTE,
    EXHIBITS,
    INTERVAL_NOTE,
    Asked,
    Claimed,
    claims_table,
    estimate_columns,
    exhibit,
    gaps,
    groups,
    not_comparable,
    profile,
    report,
    runs_data,
    runs_table,
    stem,
)
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value

STEPS = (
    ("CRF gains on pCE", "pce", "pce+crf"),
    ("pCons gains on pCE", "pce", "pce+pcons"),
    ("CRF gains on pCE + pCons", "pce+pcons", "pce+crf+pcons"),
    ("pseudo gains on pCE + CRF + pCons", "pce+crf+pcons", "pce+crf+pcons+pseudo"),
)
"""The steps that the paper argues with: what is added, the row without it, the row with it."""

ORDER = (("pce", "pce+crf+pcons"), ("pce+crf+pcons", "ce"))
"""pCE < pCE + CRF + pCons < full supervision."""


@exhibit("table3", "Table 3: the contribution of each loss term", "losses.yaml")
def table3(asked: Asked) -> Report:
    """Loss combinations: scores, what each step brings, and what of it is background calibration."""
    printed = paper.table("table3")
    parts: dict[str, list[Row]] = {}
    main: list[Table] = []
    claims: dict[str, Table] = {}
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
        claims[name] = _steps(name, rows, printed)
        more += [_order(name, rows), _calibration(name, rows)]
        missing += gaps(name, rows)
        drawn[stem("table3", name, by_group)] = figures.scores_and_curves(
            rows,
            frame.curves(asked.source, cells),
            f"Table 3: loss terms ({name})",
            {row.label: _loss_name(row.label) for row in rows},
            {} if reason or network is None else {k: v for k, v in printed.miou[network].items() if v is not None},
        )
        data.append(_table3_data(name, cells, rows, printed, comparable=not reason))
    return report(
        "table3",
        EXHIBITS["table3"].title,
        asked,
        missing,
        main=tuple(main),
        claims=claims,
        more=tuple(more),
        appendix=(runs_table(parts),),
        data={
            "table3": Table("table3", data[0].columns, tuple(row for table in data for row in table.rows)),
            "table3_runs": runs_data(frame.frame(asked.source, asked.cells)),
        },
        figures=drawn,
    )


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
    lines = []
    for step, without, with_ in STEPS:
        change = summary.Estimate(0)
        if without in found and with_ in found:
            change = summary.minus(found[with_], found[without])
        lines.append(Claimed(step, change, summary.verdict(change), printed.gains(without, with_)))
    return claims_table(f"The paper's steps ({name})", lines)


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
                **estimate_columns("miou", row.over_seeds()),
                "difference_to": rows[index - 1].label if index else None,
                **estimate_columns("difference", step),
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
