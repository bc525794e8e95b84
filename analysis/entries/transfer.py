"""Do the steps of Table 3 hold on other data as well? The claims of a report beside those of the committed results on
other data sets and beside the paper's own gains: what a quick run on generated images is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import blocks, figures, frame, paper, reference, statistics, summary, tables
from analysis.entries.table3 import SHOWN, TABLE3
from analysis.exhibits import BEYOND, NotShown, Request, exhibit
from analysis.report import Report
from analysis.study import claimed
from analysis.summary import Row
from analysis.tables import Column, Table, Value
from seminar.catalogue import profile_of

TITLE = f"{BEYOND}: the steps of Table 3 on other data"


@dataclass(frozen=True)
class _DataSet:
    """Table 3 on one data set: its rows, and what is decided about each claim."""

    name: str
    rows: Sequence[Row]
    claimed: Sequence[blocks.Claimed]
    decisions: Sequence[statistics.Decision]

    @property
    def room(self) -> float | None:
        """Points between full supervision and clicks alone."""
        means = {row.label: row.over_seeds().mean for row in self.rows}
        full, clicks = means.get("ce"), means.get("pce")
        return None if full is None or clicks is None else full - clicks


@exhibit("transfer", TITLE, "losses.yaml")
def transfer(request: Request) -> Report:
    """The claims of Table 3 by data set: this one, those of the committed results, and the paper."""
    if request.changed:
        raise NotShown("the settings are not those of the profile, so there are no results on other data beside them")
    here: list[_DataSet] = []
    for profile in request.profiles:
        cells = [cell for cell in request.cells if profile_of(cell.point) == profile]
        data = frame.frame(request.source, cells)
        found = _data_set(profile, data)
        decided = blocks.decide([one.contrast for one in found.claimed], _same(found), request, cells)
        here.append(_DataSet(found.name, found.rows, found.claimed, decided))
    others = [
        _data_set(profile, data, request.margin)
        for profile, data in reference.trainings("table3").items()
        if profile not in map(blocks.slug, request.profiles)
    ]
    if not others:
        raise NotShown(f"there are no results on other data in {reference.REFERENCE}/")
    every = [*here, *others]
    published = paper.table("table3")
    printed = [published.gains(claim.lower, claim.upper) for claim in TABLE3.claims]
    panels = {one.name: [(line.text, found.change) for line, found in zip(one.claimed, one.decisions)] for one in every}
    quoted = {
        network: [(claim.text, gains[network]) for claim, gains in zip(TABLE3.claims, printed)]
        for network in printed[0]
    }
    return blocks.assemble(
        "transfer",
        TITLE,
        request,
        main=(_claims(every, request, printed), _sets(every)),
        more=(_agreement(every[0], every[1:]),),
        data={"transfer": _numbers(every)},
        figures={"transfer": figures.gains(panels, quoted, TITLE)},
    )


def _data_set(name: str, data: pd.DataFrame, margin: float = statistics.MARGIN) -> _DataSet:
    """Return Table 3 on one data set, from its trainings."""
    rows = summary.rows(data, by="losses")
    design = statistics.of_rows(rows, TABLE3.apart)
    lines = claimed(TABLE3.claims, design)
    decisions = statistics.decide([one.contrast for one in lines], [one.same for one in lines], margin)
    return _DataSet(name, rows, lines, decisions)


def _same(found: _DataSet) -> list[bool]:
    return [one.same for one in found.claimed]


def _claims(every: Sequence[_DataSet], request: Request, printed: Sequence[Mapping[str, float | None]]) -> Table:
    body: list[tuple[Value, ...]] = []
    for place, claim in enumerate(TABLE3.claims):
        for one in every:
            found = one.decisions[place]
            shown = tables.difference(found.change, 2)
            body.append((claim.text, one.name, shown, one.claimed[place].contrast.n, found.verdict))
        papers = (f"{network} {tables.fixed(gain, 2, sign=True)}" for network, gain in printed[place].items())
        body.append((claim.text, "VOC, the paper", ", ".join(papers), 1, None))
    columns = (
        Column("claim", right=False),
        Column("data", right=False),
        Column("mIoU gained"),
        Column("seeds"),
        Column("verdict", right=False),
    )
    notes = (
        f"{every[0].name}: the trainings of this report. The others: committed results, each with a network, an input "
        "size and a budget of its own, so sizes of gains do not compare; their directions may.",
        f"Verdicts by one analysis of each data set's whole table, Holm over the {len(TABLE3.claims)} claims of each; "
        f"equal: within {blocks.points(request.margin)}. The more data sets, the more chances for a wrong verdict.",
        "The paper has one run per number, so its gains have no interval.",
    )
    return Table("Each step, by data set", columns, tuple(body), notes)


def _sets(every: Sequence[_DataSet]) -> Table:
    body: list[tuple[Value, ...]] = []
    for one in every:
        runs = pd.concat([row.runs for row in one.rows])
        done = runs[runs["status"] == "done"]
        known = {row.label: tables.mean_and_std(row.over_seeds()) for row in one.rows}
        scores = [known.get(label) for label in ("pce", "ce")]
        commits = ", ".join(sorted({str(value)[:7] for value in done["commit"] if value and not pd.isna(value)}))
        body.append((one.name, len(done), *scores, one.room, commits or None))
    columns = (
        Column("data", right=False),
        Column("trainings", 0),
        *(Column(f"{SHOWN.get(label, label)}: mIoU (n)") for label in ("pce", "ce")),
        Column("room", 1),
        Column("commits", right=False),
    )
    return Table("The data sets", columns, tuple(body), ("room: points between full supervision and clicks alone.",))


def _agreement(first: _DataSet, others: Sequence[_DataSet]) -> Table:
    """Return how often the first data set has foretold the others."""
    body: list[tuple[Value, ...]] = []
    for other in others:
        pairs = [(one.verdict, two.verdict) for one, two in zip(first.decisions, other.decisions)]
        decided = [pair for pair in pairs if "inconclusive" not in pair]
        same = sum(one == two for one, two in decided)
        signs = [
            (one.change.mean > 0) == (two.change.mean > 0)
            for one, two in zip(first.decisions, other.decisions)
            if one.change.mean is not None and two.change.mean is not None
        ]
        body.append((other.name, len(pairs), len(decided), same, len(decided) - same, f"{sum(signs)} of {len(signs)}"))
    columns = (
        Column("data", right=False),
        *(Column(head, 0) for head in ("claims", "decided on both", "same verdict", "another verdict")),
        Column("same sign"),
    )
    notes = (
        "same sign: of all means, decided or not; by chance half of them agree.",
        "Few data sets and few claims: this shows what was found on these, not what to expect of the next.",
    )
    return Table(f"What {first.name} foretold", columns, tuple(body), notes)


def _numbers(every: Sequence[_DataSet]) -> Table:
    numbers = [
        {
            "data": one.name,
            "claim": line.text,
            **blocks.estimate_columns("gain", found.change, std=False),
            "verdict": found.verdict,
            "level": found.level,
        }
        for one in every
        for line, found in zip(one.claimed, one.decisions)
    ]
    return blocks.numbers_table(TITLE, pd.DataFrame(numbers, dtype=object), ("level",))
