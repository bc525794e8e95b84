"""A search (`method: random` or `bayes`): its trials, what the settings matter, and whether the best point pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from analysis import blocks, figures, frame, statistics, summary, tables
from analysis.exhibits import EXHIBITS, SWEEPS, Request, exhibit
from analysis.figures import Axis, Tried
from analysis.report import Report
from analysis.tables import Column, Table, Value
from seminar.spec import Scalar
from seminar.sweep import Range

if TYPE_CHECKING:
    from seminar.trials import Trial, Tuning

OWN = "the profile's own values"
BEST = "the best trial's"
_ENDED = {"done": "done", "pruned": "ended early", "failed": "failed"}


@exhibit("tune", "Beyond the paper: a search for alpha, lambda_pCons and lambda_CRF", "tune.yaml")
def tune(request: Request) -> Report:
    """The best point of a search beside the profile's own values, on images that the search has not seen."""
    found = request.search
    assert found is not None, "a search"
    trials = found.trials()
    best = found.best(request.source.record)
    name = blocks.slug(request.path.stem)
    known = request.path == SWEEPS / "tune.yaml"
    title = EXHIBITS["tune"].title if known else request.sweep.description or request.sweep.name
    tried = _tried(found, trials, request.source)
    rows = _rows(found, best, request.source)
    (group,) = blocks.groups([found.own])
    missing = blocks.gaps(group, rows)
    left = found.left(request.source.record)
    lost = found.lost(request.source.record)
    if left > 0:
        why = f", {len(lost)} of them because their record is gone" if lost else ""
        missing.insert(0, f"{left} of {request.sweep.run_cap} trials are to do{why}.")
    elif best is None:
        missing.insert(0, "No trial has a score.")
    own = next((trial for trial in trials if trial.key == found.own.stage.key and trial.state == "done"), None)
    marks = {OWN: own.number if own else None, BEST: best.number if best else None}
    tuned = {label: one.score for one in tried for label, number in marks.items() if one.number == number}
    points = {OWN: found.own.stage.settings, BEST: best.point if best else {}}
    change = summary.minus(rows[1], rows[0]) if len(rows) == 2 else summary.Estimate(0)
    lines = [
        _Line(row, points[row.label], change if row.label == BEST else summary.Estimate(0), tuned.get(row.label))
        for row in rows
    ]
    # With two rows alone the analysis of the whole table is the paired t interval.
    design = statistics.of_rows(rows)
    contrast = design.contrast(BEST, OWN)
    claim = blocks.Claimed(f"{BEST} point gains on {OWN}", contrast, change)
    reported = [*found.reported(), *(found.reported(best.point) if len(rows) == 2 and best else ())]
    ranked = sorted(tried, key=lambda one: (one.state != "done", -(one.score or 0.0), one.number))
    axes = [_axis(name, span) for name, span in request.sweep.space.items()]
    return blocks.assemble(
        name,
        title,
        request,
        missing,
        main=(_reported(found, lines, best, blocks.design_notes(design, [contrast])),),
        claims={group: blocks.claims_table(f"Does the search pay? ({group})", [claim], request, reported)},
        more=(_matters(found, tried), _ranking(found, ranked, trials)),
        appendix=(blocks.runs_table({group: rows}),),
        data={
            name: _reported_numbers(found, lines),
            f"{name}_trials": _trial_numbers(found, tried, trials),
            f"{name}_runs": blocks.runs_data({group: rows}),
        },
        figures={name: figures.search(tried, axes, marks, title)} if tried else {},
    )


def _tried(found: Tuning, trials: Sequence[Trial], source: frame.Source) -> list[Tried]:
    """Return the trials with their scores on the tuning split: after the last epoch, or where one was ended."""
    result: list[Tried] = []
    for trial in trials:
        score = None
        if trial.state == "done":
            record = source.record(trial.key)
            score = record["metrics"]["student"][frame.PROTOCOL]["miou"] if record is not None else None
        elif trial.key:
            lines = [line for line in source.curve(trial.key) if line["epoch"] <= trial.epoch]
            scores = [line["student_miou"] for line in lines if line.get("student_miou") is not None]
            score = scores[-1] if scores else None
        result.append(Tried(trial.number, trial.point, score, trial.state, trial.epoch, trial.error))
    return result


def _rows(found: Tuning, best: Trial | None, source: frame.Source) -> list[summary.Row]:
    """Return the profile's own values, and the best point where it is another, on the reporting split."""
    parts = [(OWN, found.reported())]
    if best is not None and best.key != found.own.stage.key:
        parts.append((BEST, found.reported(best.point)))
    data = frame.frame(source, [cell for _, cells in parts for cell in cells])
    data["row"] = [label for label, cells in parts for _ in cells]
    return summary.rows(data, by="row")


@dataclass(frozen=True)
class _Line:
    """A row on the reporting split: its point, its difference to the own values, its one score on the tuning split."""

    row: summary.Row
    point: Mapping[str, Scalar]
    change: summary.Estimate
    tuned: float | None

    @property
    def rest(self) -> tuple[Value, ...]:
        networks = (self.row.over_seeds(f"{network}_miou").mean for network in ("ancillary", "teacher"))
        return (*networks, self.tuned, self.row.status)


def _reported(found: Tuning, lines: Sequence[_Line], best: Trial | None, sensitivity: Sequence[str]) -> Table:
    body: list[tuple[Value, ...]] = [
        (
            line.row.label,
            *(_value(line.point.get(name)) for name in found.space),
            tables.mean_and_std(line.row.over_seeds()),
            tables.difference(line.change, 2),
            *line.rest,
        )
        for line in lines
    ]
    chosen = [Column(name) for name in found.space]
    columns = (
        *(Column("point", right=False), *chosen, Column("mIoU (n)"), Column("vs profile")),
        *(Column("ancillary"), Column("teacher"), Column("tuning split"), Column("status", right=False)),
    )
    notes = [
        f"mIoU in %, mean ± sample standard deviation (seeds); student, last epoch, protocol `{frame.PROTOCOL}`, on "
        "the reporting split, which the search has not seen.",
        f"vs profile: mean paired difference to {OWN}. {blocks.INTERVAL_NOTE}",
        *sensitivity,
        "tuning split: the score of the one trial there. It chose the point, so it flatters the best one.",
    ]
    if best is not None and best.key == found.own.stage.key:
        notes.append(f"No trial was better than {OWN}.")
    return Table("On the reporting split", columns, tuple(body), tuple(notes))


def _reported_numbers(found: Tuning, lines: Sequence[_Line]) -> Table:
    body: list[tuple[Value, ...]] = [
        (
            line.row.label,
            *(line.point.get(name) for name in found.space),
            *blocks.estimate_columns("miou", line.row.over_seeds()).values(),
            *blocks.estimate_columns("difference", line.change).values(),
            *line.rest,
        )
        for line in lines
    ]
    empty = summary.Estimate(0)
    heads = ("point", *found.space, *blocks.estimate_columns("miou", empty))
    heads = (*heads, *blocks.estimate_columns("difference", empty), "ancillary_miou", "teacher_miou")
    columns = tuple(Column(head, exact=head in found.space) for head in (*heads, "tuning_miou", "status"))
    return Table(found.sweep.name, columns, tuple(body))


def _trial_numbers(found: Tuning, tried: Sequence[Tried], trials: Sequence[Trial]) -> Table:
    """Return the trials for machines, in their order."""
    by_number = {trial.number: trial for trial in trials}
    heads = ("trial", *found.space, "miou", "epoch", "state", "error", "key", "elsewhere")
    body = tuple(
        (
            one.number + 1,
            *(one.point.get(name) for name in found.space),
            *(one.score, one.epoch, one.state, one.error or None, by_number[one.number].key or None),
            str(by_number[one.number].elsewhere).lower(),
        )
        for one in tried
    )
    return Table(found.sweep.name, tuple(Column(head, exact=head in found.space) for head in heads), body)


def _matters(found: Tuning, tried: Sequence[Tried]) -> Table:
    """Return what each setting matters, by two measures: they disagree about the tail."""
    shares = found.importances()
    done = [one for one in tried if one.state == "done" and one.score is not None]
    body: list[tuple[Value, ...]] = []
    for name, span in found.sweep.space.items():
        values = [one.point[name] for one in done]
        rho = None
        if len(done) > 2 and all(isinstance(value, int | float) for value in values) and len(set(values)) > 1:
            ranks = pd.DataFrame({"value": values, "score": [one.score for one in done]}).rank()
            rho = float(ranks["value"].corr(ranks["score"]))
        share = None if name not in shares else 100 * shares[name]
        body.append((name, _span(span), share, None if rho is None else tables.fixed(rho, 2, sign=True)))
    columns = (Column("setting", right=False), Column("searched", right=False), Column("share (%)", 0), Column("rho"))
    notes = (
        "share: importance by Optuna's PED-ANOVA, how much each setting sets the best tenth of the trials apart.",
        f"rho: Spearman's rank correlation with the score. Both over the {len(done)} trials that were not ended early, "
        "which are the better ones: what is bad for certain shows in the figure and not here.",
        "figure: contours are interpolated between these trials, each as if the other settings did not matter.",
    )
    return Table("What matters, on the tuning split", columns, tuple(body), notes)


def _ranking(found: Tuning, tried: Sequence[Tried], trials: Sequence[Trial]) -> Table:
    keys = {trial.number: trial.key for trial in trials}
    elsewhere = {trial.number for trial in trials if trial.elsewhere}
    body = tuple(
        (
            one.number + 1,
            *(_value(one.point.get(name)) for name in found.space),
            one.score,
            one.epoch,
            f"{_ENDED[one.state]}: {tables.quoted(one.error)}" if one.error else _ENDED[one.state],
            *(("elsewhere" if one.number in elsewhere else "search",) if elsewhere else ()),
            f"`{keys[one.number][:8]}`" if keys[one.number] else None,
        )
        for one in tried
    )
    columns = (
        *(Column("trial"), *map(Column, found.space), Column("mIoU (%)"), Column("epoch")),
        Column("ended", right=False),
        *((Column("chosen by", right=False),) if elsewhere else ()),
        Column("key", right=False),
    )
    notes = [
        "One training each (seed of the sweep file), so a score has the spread of a seed. The score of a trial that "
        "was ended early is that of its last evaluated epoch and stands below the others.",
    ]
    if elsewhere:
        notes.append(
            f"chosen by: {len(elsewhere)} of {len(trials)} points were chosen elsewhere, by W&B's own engine under "
            "`wandb agent` or by hand: finished trainings with the settings of this search on its tuning split."
        )
    return Table("Trials, on the tuning split", columns, body, tuple(notes))


def _value(value: Scalar | None) -> Value:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value) if value is not None else None


def _span(span: Range | tuple[Scalar, ...]) -> str:
    if not isinstance(span, Range):
        return ", ".join(map(str, span))
    return f"{span.low:g} to {span.high:g}" + (", logarithmic" if span.log else "")


def _axis(name: str, span: Range | tuple[Scalar, ...]) -> Axis:
    if isinstance(span, Range):
        return Axis(name, span.low, span.high, span.log)
    numbers = all(isinstance(value, int | float) for value in span)
    ordered = sorted(span, key=lambda value: float(value)) if numbers else list(span)
    return Axis(name, choices=tuple(ordered))
