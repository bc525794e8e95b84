"""Table 3: the loss terms."""

from __future__ import annotations

from analysis import blocks, study, summary, tables
from analysis.exhibits import Request, exhibit
from analysis.paper import FULL
from analysis.report import Report
from analysis.study import Claim, Group, Study, register
from analysis.tables import Column, Table, Value

ORDER = (("pce", "pce+crf+pcons"), ("pce+crf+pcons", "ce"))
"""pCE < pCE + CRF + pCons < full supervision."""
SHOWN = {"ce": "ce (full)"}


def order(group: Group, request: Request) -> Table:
    """Return whether the intervals of the rows that the paper orders lie apart."""
    found = {row.label: row for row in group.rows}
    body: list[tuple[Value, ...]] = []
    for lower, upper in ORDER:
        low, high = (found[label].over_seeds() if label in found else summary.Estimate(0) for label in (lower, upper))
        shown = [f"{tables.fixed(e.low)} to {tables.fixed(e.high)}" if e.low is not None else None for e in (low, high)]
        claim = f"{SHOWN.get(lower, lower)} below {SHOWN.get(upper, upper)}"
        body.append((claim, *shown, summary.below(low, high)))
    columns = (
        Column("claim", right=False),
        Column("95 % of the lower"),
        Column("95 % of the upper"),
        Column("intervals apart", right=False),
    )
    notes = (
        "yes: the interval of the lower row's mean ends before that of the upper begins. no: they overlap or the "
        "order is the other one. inconclusive: fewer than 2 seeds.",
    )
    return Table(f"Ordering ({group.name})", columns, tuple(body), notes)


def recalls_bias_and_teacher(group: Group, request: Request) -> Table:
    """Return a table of recalls, of mIoU with the oracle background bias, and of the teacher.

    Recalls and bias are left out where the data set has no background.
    """
    metrics = ("background_recall", "foreground_recall", "student_miou", "miou_bias", "background_bias")
    grounded = blocks.with_background(group.rows)
    body: list[tuple[Value, ...]] = []
    for row in group.rows:
        values = [row.over_seeds(metric).mean for metric in metrics]
        gained = None if values[2] is None or values[3] is None else values[3] - values[2]
        apart = summary.paired(row.by_seed("teacher_miou"), row.by_seed())
        teacher = tables.mean_and_std(row.over_seeds("teacher_miou"))
        best = row.over_seeds("best_student_miou").mean
        shown = tables.difference(apart, 2)
        own = (*values[:4], gained, values[4]) if grounded else (values[2],)
        body.append((SHOWN.get(row.label, row.label), *own, teacher, shown, best))
    of_background = (
        Column("background recall"),
        Column("foreground recall"),
        Column("mIoU"),
        Column("+bias"),
        Column("gained by it"),
        Column("the bias", 2),
    )
    columns = (
        Column("losses", right=False),
        *(of_background if grounded else (Column("mIoU"),)),
        Column("teacher mIoU (n)"),
        Column("teacher - student"),
        Column("best epoch"),
    )
    notes = (
        "In %, means over seeds.",
        blocks.BIAS_NOTE if grounded else "Every class of this data set is an object: there is no background to bias.",
        "best epoch: student mIoU of the epoch that is best on the validation set; that choice flatters it.",
    )
    what = "Background recall, oracle bias, and teacher" if grounded else "Teacher"
    return Table(f"{what} ({group.name})", columns, tuple(body), notes)


TABLE3 = Study(
    name="table3",
    title="Table 3: the contribution of each loss term",
    sweep_file="losses.yaml",
    settings=("losses",),
    row=lambda cell: cell.stage.label,
    pairs={"ce": FULL},
    apart=("ce",),
    claims=(
        Claim("CRF gains on pCE", "pce", "pce+crf"),
        Claim("pCons gains on pCE", "pce", "pce+pcons"),
        Claim("CRF gains on pCE + pCons", "pce+pcons", "pce+crf+pcons"),
        Claim("pseudo gains on pCE + CRF + pCons", "pce+crf+pcons", FULL),
    ),
    paper_table="table3",
    figure="curves",
    claims_title="The paper's steps",
    recalls=True,
    decimals=1,
    extra_tables=(order, recalls_bias_and_teacher),
    shown=SHOWN,
    leads=True,
)
register(TABLE3)


@exhibit("logged", "Beyond the paper: what each loss term did while training", "losses.yaml")
def logged(request: Request) -> Report:
    """Every number that was logged, over the epochs and after the last one, by row of Table 3."""
    return study.logged_report("logged", TABLE3, request)
