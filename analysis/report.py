"""A report as a value: what an exhibit built, and the files that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path

from analysis import tables
from analysis.tables import Table
from seminar.store import write_atomic


@dataclass(frozen=True)
class Report:
    """What one exhibit reports.

    `main`, `claims` (by group: what is claimed, and whether it holds here) and `gaps` (what is missing, and the command
    that trains it) are shown in the terminal. `header` (facts about the runs), `more` and `appendix` stand in the
    Markdown file and on the page as well. The LaTeX file has `main`, `claims` and `more`. `data`: one CSV file each.
    `figures`: file stem -> kind -> content. `leads`: the page of several reports opens with its figure.
    """

    name: str
    title: str
    profiles: tuple[str, ...]
    header: tuple[str, ...]
    main: tuple[Table, ...]
    claims: Mapping[str, Table] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    more: tuple[Table, ...] = ()
    appendix: tuple[Table, ...] = ()
    data: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    leads: bool = False


def summary(report: Report) -> str:
    """Return what fits a terminal: the title, the main tables, the claims and the gaps."""
    parts = [
        f"# {tables.escape_markdown(report.title)}\n",
        *map(tables.markdown, (*report.main, *report.claims.values())),
    ]
    if report.gaps:
        parts.append("**Gaps**\n\n" + _list(report.gaps))
    return "\n".join(parts)


def document(report: Report) -> str:
    """Return the whole report in Markdown."""
    parts = [f"# {tables.escape_markdown(report.title)}\n", _list(report.header)]
    parts += map(tables.markdown, (*report.main, *report.claims.values()))
    if report.gaps:
        parts.append("**Gaps**\n\n" + _list(report.gaps))
    parts += [f"![{tables.escape_markdown(report.title)}]({stem}.png)\n" for stem in report.figures]
    parts += [*map(tables.markdown, report.more), *map(tables.markdown, report.appendix)]
    return "\n".join(parts)


def _list(lines: tuple[str, ...]) -> str:
    return "".join(f"{tables.bullet(line)}\n" for line in lines)


def write(report: Report, folder: Path) -> list[Path]:
    """Write every file of the report into `folder`, each of them whole or not at all; return the paths."""
    files: dict[str, bytes] = {
        f"{report.name}.md": document(report).encode(),
        f"{report.name}.tex": "\n".join(
            map(tables.latex, (*report.main, *report.claims.values(), *report.more))
        ).encode(),
    }
    files |= {f"{stem}.csv": tables.comma_separated(table).encode() for stem, table in report.data.items()}
    files |= {f"{stem}.{kind}": content for stem, kinds in report.figures.items() for kind, content in kinds.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, methodcaller("write", content))
    return [folder / name for name in files]
