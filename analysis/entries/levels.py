"""Tables 1 and 2: click-level methods, and levels of supervision with what they cost to annotate."""

from __future__ import annotations

from analysis import blocks, figures, frame, paper, summary, tables
from analysis.exhibits import EXHIBITS, Request, exhibit
from analysis.report import Report
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar.spec import Stage

METHODS = {
    "pce+crf": "Regularized Loss (pCE + CRF), our re-run",
    "pce+crf+pcons+pseudo": "Seminar Learning, our re-run",
}
"""Loss combination -> the method of Table 1 that it is."""

CANNOT = (
    "Rows of the paper and of this suite compare only on profile `voc`: other data, networks and budgets elsewhere."
)


@exhibit("table1", "Table 1: methods that learn from clicks", "losses.yaml")
def table1(request: Request) -> Report:
    """The published rows as published, ours beside them."""
    body: list[tuple[Value, ...]] = [
        (row["method"], row["network"], row["labels"], row["size"], tables.fixed(row["miou"], 2), "published, VOC val")
        for row in paper.rows("table1")
    ]
    parts: dict[str, list[Row]] = {}
    missing: list[str] = []
    for name, cells in blocks.groups(request.cells, "losses").items():
        chosen = [cell for cell in cells if cell.stage.label in METHODS]
        rows = summary.rows(frame.frame(request.source, chosen))
        stages = {cell.stage.label: cell.stage for cell in chosen}
        parts[name] = rows
        missing += blocks.gaps(name, rows)
        for row in rows:
            stage = stages[row.label]
            labels = f"{stage.annotation} of data {stage.data.name}"
            score = tables.mean_and_std(row.over_seeds(), 2)
            body.append(
                (METHODS[row.label], stage.backbone, labels, stage.click_size, score, f"{name}, crop {stage.crop}")
            )
    columns = [Column(text, right=False) for text in ("method", "network", "labels")]
    columns += [Column("click (px)"), Column("mIoU (n)"), Column("measured on", right=False)]
    notes = (
        f"Ours: student, last epoch, protocol `{frame.PROTOCOL}`, mean ± sample standard deviation (seeds).",
        CANNOT,
    )
    table = Table(EXHIBITS["table1"].title, tuple(columns), tuple(body), notes)
    return blocks.assemble(
        "table1",
        EXHIBITS["table1"].title,
        request,
        missing,
        main=(table,),
        appendix=(blocks.runs_table(parts),),
        data={"table1": table},
    )


def _level(stage: Stage) -> str:
    return stage.annotation or "dense masks"


@exhibit("table2", "Table 2: levels of supervision", "supervision.yaml")
def table2(request: Request) -> Report:
    """mIoU by what was annotated, and the seconds per image that annotating takes."""
    published = paper.rows("table2")
    seconds = {row["level"]: float(row["seconds"]) for row in published}
    body: list[tuple[Value, ...]] = [
        (row["level"], row["seconds"], row["method"], tables.fixed(row["miou"]), "published, VOC val")
        for row in published
    ]
    parts: dict[str, list[Row]] = {}
    missing: list[str] = []
    marks: dict[str, list[tuple[str, float, summary.Estimate]]] = {
        "published (VOC)": [
            (f"{row['method']}, {row['level']}", float(row["seconds"]), summary.Estimate(1, row["miou"]))
            for row in published
        ]
    }
    for name, cells in blocks.groups(request.cells, "variant").items():
        data = frame.frame(request.source, cells)
        data["row"] = [_level(cell.stage) for cell in cells]
        rows = summary.rows(data, by="row")
        parts[name] = rows
        missing += blocks.gaps(name, rows)
        for row in rows:
            score, label = row.over_seeds(), str(row.runs["losses"].iloc[0])
            body.append((row.label, seconds.get(row.label), label, tables.mean_and_std(score), name))
            if row.label in seconds and score.mean is not None:
                marks.setdefault(f"ours ({name})", []).append((row.label, seconds[row.label], score))
    columns = (
        Column("annotated", right=False),
        Column("seconds per image"),
        Column("method or losses", right=False),
        Column("mIoU (n)"),
        Column("measured on", right=False),
    )
    notes = (
        "Seconds per image are the paper's, for VOC photos; it gives none for dense masks.",
        f"Ours: student, last epoch, protocol `{frame.PROTOCOL}`, mean ± sample standard deviation (seeds).",
        CANNOT,
    )
    table = Table(EXHIBITS["table2"].title, columns, tuple(body), notes)
    return blocks.assemble(
        "table2",
        EXHIBITS["table2"].title,
        request,
        missing,
        main=(table,),
        appendix=(blocks.runs_table(parts),),
        data={"table2": table},
        figures={"table2": figures.cost(marks.pop("published (VOC)"), marks, EXHIBITS["table2"].title)},
    )
