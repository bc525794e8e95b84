"""Every loss for clicks, like for like: one trainer, the same clicks and network, each row another loss."""

from __future__ import annotations

from analysis import blocks, tables
from analysis.exhibits import Request
from analysis.paper import ANCILLARY, FULL, PLAIN
from analysis.study import Claim, Group, Study, register
from analysis.tables import Column, Table, Value
from seminar.catalogue import Cell
from seminar.sweep import DEFAULT

WORDS = {"holds": "better", "reversed": "worse", "equal": "equal", "inconclusive": "inconclusive"}


def label(cell: Cell) -> str:
    """Return the losses of a cell, and the settings that its row changes beside them."""
    variant = str(cell.point.get("variant", DEFAULT))
    return cell.stage.label if variant == DEFAULT else variant.removeprefix("losses=")


def against(group: Group, request: Request) -> Table:
    """Return the difference of each row to pCE, and to the two students of the paper, with what a step costs."""
    rows, design = group.rows, group.design
    known = {row.label: row for row in rows}
    others = [(name, known[name]) for name in (PLAIN, ANCILLARY, FULL) if name in known]
    pairs = [(row.label, name) for row in rows for name, _ in others if row.label != name]
    contrasts = [design.contrast(*pair) for pair in pairs]
    decided = dict(zip(pairs, blocks.decide(contrasts, [False] * len(pairs), request, group.cells)))
    body: list[tuple[Value, ...]] = []
    for row in rows:
        values: list[Value] = [row.label, tables.mean_and_std(row.over_seeds())]
        for name, _ in others:
            found = decided.get((row.label, name))
            known_change = found is not None and found.change.mean is not None
            words = f"{tables.difference(found.change, 2)} {WORDS[found.verdict]}" if found else ""
            values.append(words if known_change else tables.DASH)
        done = row.runs[row.runs["status"] == "done"]
        step = float((1000 * done["seconds"] / done["steps"]).median()) if len(done) else None
        memory = float(done["peak_memory_mb"].median()) if done["peak_memory_mb"].notna().any() else None
        body.append((*values, step, memory))
    heads = (Column("losses", right=False), Column("mIoU (n)"))
    compared = (Column(f"to {name}") for name, _ in others)
    notes = (
        f"Differences by the analysis of the whole table. Their intervals are so wide (Holm) that any of the "
        f"{len(pairs)} words of this table is wrong in about one table of 20. better, worse: the whole "
        f"interval is above or below 0; equal: it lies within {blocks.points(request.margin)} of 0.",
        *blocks.design_notes(design, contrasts),
        "ms a step: median over the trainings of their seconds (evaluation included) by their steps; what ran beside "
        "them counts as well. MB: the whole process on a CPU, its tensors on a GPU.",
        "A row without a weight of its own has the profile's, which was chosen on tuning images; `lambda_` in a row is "
        "the published weight, or for pcons_loss=kl one that was chosen there as well.",
    )
    columns = (*heads, *compared, Column("ms a step", 0), Column("MB", 0))
    return Table(f"Beside the paper's students ({group.name})", columns, tuple(body), notes)


register(
    Study(
        name="rivals",
        title="Beyond the paper: losses for clicks, like for like",
        sweep_file="rivals.yaml",
        settings=("variant",),
        row=label,
        against=PLAIN,
        claims=(
            Claim("the paper's ancillary beats pCE", PLAIN, ANCILLARY),
            Claim("the whole method beats its ancillary", ANCILLARY, FULL),
            Claim("the dense CRF beats the Potts model", "pce+potts", "pce+crf"),
            Claim("the dense CRF beats its window", "pce+gatedcrf", "pce+crf"),
            Claim("the dense CRF beats the normalised cut", "pce+ncut", "pce+crf"),
            Claim("the dense CRF beats the tree of colours", "pce+tree", "pce+crf"),
            Claim("strong views beat identical ones", "pce+pcons", "pce+pcons strong_view=both"),
            Claim(
                "the squared difference beats the divergence", "pce+pcons pcons_loss=kl lambda_pcons=30", "pce+pcons"
            ),
        ),
        claims_title="The suite's own questions",
        notes=("Not a table of the paper: every row is trained here, on the same clicks, by the same trainer.",),
        extra_tables=(against,),
        recalls=True,
        decimals=1,
        logged=True,
    )
)

HARD = "hard (the paper's)"
ALONE = "no second student"


def rule(cell: Cell) -> str:
    """Return by which rule the last student of a cell learns from the one before it."""
    settings = next((dict(term.settings) for term in cell.stage.losses if term.name == "softpseudo"), None)
    if settings is None and cell.stage.pseudo_from == "teacher":
        return "hard, of the teacher"
    if settings is None:
        return HARD if cell.stage.ancillary is not None else ALONE
    threshold = [f"above {settings['threshold']:g}"] if settings["threshold"] else []
    clicks = [f"clicks {settings['clicks']}"] if settings["clicks"] != "keep" else []
    return ", ".join([str(settings["kind"]), *threshold, *clicks])


register(
    Study(
        name="pseudo",
        title="Beyond the paper: rules for learning from another student",
        sweep_file="pseudo.yaml",
        settings=("variant",),
        row=rule,
        against=HARD,
        # A second student spread half as much as a first one in every earlier run with 8 seeds.
        apart=(ALONE,),
        claims=(
            Claim("a second student gains", ALONE, HARD),
            Claim("soft pseudo-labels beat hard ones", HARD, "soft"),
            Claim("collision cross-entropy beats hard ones", HARD, "collision"),
            Claim("leaving unsure pixels out helps", HARD, "hard, above 0.7"),
            Claim("clicks in place of pseudo-labels help", HARD, "hard, clicks overwrite"),
            Claim("the teacher writes better labels than the student", HARD, "hard, of the teacher"),
        ),
        claims_title="The suite's own questions",
        notes=("Not a table of the paper: Eq. 6 learns from the arg-max of every pixel.",),
        recalls=True,
        decimals=1,
        logged=True,
    )
)
