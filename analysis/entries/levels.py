"""Tables 1 and 2: methods that learn from clicks, and levels of supervision with what they cost to annotate. Published
rows and our re-runs stand side by side, and are never compared: other data, networks and budgets."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import blocks, figures, frame, paper, statistics, summary, tables
from analysis.entries.rivals import label
from analysis.exhibits import EXHIBITS, Request, exhibit
from analysis.paper import FULL, PLAIN
from analysis.report import Report
from analysis.study import Claim, Group, Study, claimed, register
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar.spec import Stage

CANNOT = (
    "Rows of the paper and of this suite compare only on profile `voc`: other data, networks and budgets elsewhere."
)


def published(group: Group, request: Request) -> Table:
    """Return the published click-level methods, each beside its re-run in this group."""
    entries = [*paper.rows("table1"), *(row for row in paper.rows("later") if row["learns"] == "points")]
    return beside(f"Published, and re-run here ({group.name})", entries, group.rows)


def later_scribbles(group: Group, request: Request) -> Table:
    """Return later published methods that learn from scribbles."""
    entries = [row for row in paper.rows("later") if row["learns"] == "scribbles"]
    return beside("Later methods that learn from scribbles, as published", entries, group.rows)


def beside(title: str, entries: Sequence[dict[str, Value]], rows: Sequence[Row]) -> Table:
    """Return published rows; `losses` of an entry names the row that is its re-run."""
    known = {row.label: row for row in rows}
    body: list[tuple[Value, ...]] = []
    for entry in entries:
        rerun = known.get(str(entry.get("losses")))
        body.append(
            (
                *(entry.get(name) for name in ("method", "year", "network", "labels", "size")),
                tables.fixed(float(entry["miou"] or 0), 2),
                entry.get("source", "the paper, Table 1"),
                rerun.label if rerun is not None else None,
                tables.mean_and_std(rerun.over_seeds()) if rerun is not None else None,
            )
        )
    columns = (
        Column("method", right=False),
        Column("year", 0),
        *(Column(name, right=False) for name in ("network", "labels")),
        Column("click (px)", 0),
        Column("published mIoU"),
        Column("quoted from", right=False),
        Column("re-run as", right=False),
        Column("re-run mIoU (n)"),
    )
    notes = ("Published: as printed for VOC val, one run each, not re-run by us.", CANNOT)
    return Table(title, columns, tuple(body), notes)


register(
    Study(
        name="table1",
        title="Table 1: methods that learn from clicks",
        sweep_file="methods.yaml",
        settings=("variant",),
        row=label,
        against=PLAIN,
        shown={
            PLAIN: "pCE alone",
            "pce+imagelevel": "What's the Point, no prior",
            "pce annotation=grown": "ScribbleSup-like (grown)",
            "pce+ncut": "Normalised cut",
            "pce+crf": "Regularized Loss",
            "pce+gatedcrf": "Gated CRF",
            "pce+tree": "Tree energy (colours)",
            FULL: "Seminar Learning",
        },
        claims=tuple(
            Claim(f"Seminar Learning beats {name}", other, FULL)
            for other, name in (
                ("pce+imagelevel", "What's the Point"),
                ("pce annotation=grown", "grown labels"),
                ("pce+crf", "Regularized Loss"),
                ("pce+gatedcrf", "Gated CRF"),
                ("pce+ncut", "the normalised cut"),
                ("pce+tree", "the tree energy"),
            )
        ),
        claims_title="What Table 1 says, under one trainer",
        recalls=True,
        decimals=1,
        extra_tables=(published,),
        notes=(
            "Every row is trained here, by one trainer, on the same clicks and network; the published rows are below.",
            "The objectness prior of What's the Point is left out: no public source of it works offline.",
        ),
    )
)

LEVELS = ("image tags", "clicks", "scribbles", "boxes", "dense masks")
DENSE = "dense masks"
CLAIMS = (
    Claim("clicks beat image tags", "image tags", "clicks"),
    Claim("scribbles beat clicks", "clicks", "scribbles"),
    Claim("boxes beat clicks", "clicks", "boxes"),
    Claim("dense masks beat boxes", "boxes", DENSE),
)


def _level(stage: Stage) -> str:
    return "image tags" if stage.label == "imagelevel" else stage.annotation or DENSE


@exhibit("table2", "Table 2: levels of supervision", "supervision.yaml")
def table2(request: Request) -> Report:
    """mIoU by what was annotated, re-run beside the quoted rows, and the seconds that annotating an image takes."""
    quoted = {row["level"]: row for row in paper.rows("table2")}
    seconds = {level: float(row["seconds"]) for level, row in quoted.items()}
    main: list[Table] = []
    numbers: list[tuple[Value, ...]] = []
    parts: dict[str, list[Row]] = {}
    missing: list[str] = []
    ours: dict[str, list[figures.Mark]] = {}
    lines: dict[str, list[blocks.Claimed]] = {}
    for name, cells in blocks.groups(request.cells, "variant").items():
        data = frame.frame(request.source, cells)
        data["row"] = [_level(cell.stage) for cell in cells]
        rows = sorted(summary.rows(data, by="row"), key=_place)
        parts[name] = rows
        design = statistics.of_rows(rows, apart=(DENSE,))
        changes = {row.label: design.contrast(row.label, "clicks") for row in rows if row.label != "clicks"}
        lines[name] = claimed(CLAIMS, design)
        missing += blocks.gaps(name, rows)
        body: list[tuple[Value, ...]] = []
        for row in rows:
            score, losses = row.over_seeds(), str(row.runs["losses"].iloc[0])
            row_of_paper = quoted.get(row.label, {})
            change = changes.get(row.label, statistics.Contrast(0)).estimate()
            body.append(
                (
                    row.label,
                    row_of_paper.get("seconds"),
                    row_of_paper.get("method"),
                    tables.fixed(row_of_paper.get("miou")),
                    losses,
                    tables.mean_and_std(score),
                    tables.difference(change, 1),
                    row.status,
                )
            )
            numbers.append(
                (
                    name,
                    row.label,
                    row_of_paper.get("seconds"),
                    losses,
                    *blocks.estimate_columns("miou", score).values(),
                    *blocks.estimate_columns("difference", change).values(),
                )
            )
            if row.label in seconds and score.mean is not None:
                ours.setdefault(f"ours ({name})", []).append((row.label, seconds[row.label], score))
        columns = (
            Column("annotated", right=False),
            Column("seconds per image"),
            Column("quoted method", right=False),
            Column("quoted mIoU"),
            Column("re-run: losses", right=False),
            Column("mIoU (n)"),
            Column("vs clicks"),
            Column("status", right=False),
        )
        of_all = blocks.design_notes(
            design, list(changes.values()), [line.contrast for line in lines[name]], apart=(DENSE,)
        )
        main.append(Table(f"{EXHIBITS['table2'].title} ({name})", columns, tuple(body), (*_notes(quoted), *of_all)))
    estimates = [f"{what}_{part}" for what in ("miou", "difference") for part in ("n", "mean", "std", "low", "high")]
    heads = ("group", "annotated", "seconds", "losses", *estimates)
    marks = [
        (f"{row['method']}, {level}", seconds[level], summary.Estimate(1, row["miou"])) for level, row in quoted.items()
    ]
    return blocks.assemble(
        "table2",
        EXHIBITS["table2"].title,
        request,
        missing,
        main=tuple(main),
        claims={
            name: blocks.claims_table(f"The suite's own questions ({name})", found, request, request.cells)
            for name, found in lines.items()
        },
        more=tuple(blocks.alone_table(f"Two rows alone ({name})", found) for name, found in lines.items()),
        appendix=(blocks.runs_table(parts),),
        data={
            "table2": Table(EXHIBITS["table2"].title, tuple(Column(head) for head in heads), tuple(numbers)),
            "table2_claims": blocks.claims_data(lines, request, request.cells),
            "table2_runs": blocks.runs_data(parts),
        },
        figures={"table2": figures.cost(marks, ours, EXHIBITS["table2"].title)},
    )


def _place(row: Row) -> int:
    return LEVELS.index(row.label) if row.label in LEVELS else len(LEVELS)


def _notes(quoted: dict[str, dict[str, Value]]) -> tuple[str, ...]:
    return (
        "Seconds per image are the paper's, for VOC photos. "
        + " ".join(f"{level}: {row['note']}." for level, row in quoted.items() if row.get("note")),
        f"Quoted: VOC val, each by another system. {CANNOT}",
        "Re-run: the simplest kind of each level under one trainer and network. image tags: the image-level loss "
        "alone, with the classes that are clicked in a crop, a little more than the tags of whole images. boxes: "
        "outside is background, the rest is grown before training.",
        "vs clicks: difference to the row of clicks, with a level for each row and a shift for each seed fitted to the "
        f"whole table. {blocks.INTERVAL_NOTE}",
        blocks.SCORE_NOTE,
    )
