"""One page that shows reports in a browser, offline: style and figures are inside it, there is no script.

`templates/` holds the page (`page.html`), its parts (`parts.html`) and its style (`page.css`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from analysis import tables
from analysis.report import Report
from analysis.tables import Table

RELOAD = 20
"""Seconds until a browser loads the page of a running sweep again."""
_IMAGES = {"svg": "image/svg+xml", "png": "image/png"}  # kinds of figures that a browser shows, best first


@dataclass(frozen=True)
class Section:
    """A titled block: bullet lines, where code stands between backticks, and tables.

    `opening`: it stands at the top of the page, below one figure and above the table of contents. Else it stands above
    the reports.
    """

    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    opening: bool = False


@dataclass(frozen=True)
class _Image:
    """A figure that a browser shows: the name of its file, and its content as an address."""

    file: str
    source: str


def page(
    title: str, reports: Sequence[Report], overview: Sequence[Section], seeds: Sequence[str] = (), running: bool = False
) -> str:
    """Return the page as HTML; its links to files resolve in the folder that the reports are written to.

    `seeds`: how far the sweeps are, a line each. `running`: one of them still runs, so a browser loads the page again
    every `RELOAD` seconds. The page opens with a figure: of the report that leads, else of the first that judges
    claims and has one, else of the first that has one. Equal input gives an equal page.
    """
    anchors = _anchors([*(section.title for section in overview), *(report.name for report in reports)])
    sections = list(zip(anchors, overview))
    chapters = list(zip(anchors[len(overview) :], reports))
    pictured = [(anchor, report) for anchor, report in chapters if _images(report)]
    pictured.sort(key=lambda pair: (not pair[1].leads, not pair[1].claims))
    anchor, first = pictured[0] if pictured else (None, None)
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            seeds=seeds,
            reload=RELOAD if running else None,
            image=_images(first)[0] if first else None,
            pictured=first,
            pictured_anchor=anchor,
            opening=[(anchor, section) for anchor, section in sections if section.opening],
            sections=[(anchor, section) for anchor, section in sections if not section.opening],
            reports=chapters,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": _code,
        "files": _files,
        "images": _images,
        "link": _link,
        "plain": lambda text: text.replace("`", ""),
        "shown": tables.shown,
        "zip": zip,
    }
    return environment


def _code(text: str) -> Markup:
    """Return the text escaped, with what stands between backticks as `<code>`."""
    code = Markup("<code>{}</code>").format
    shown = tables.marked(" ".join(text.split()), escape, code)
    return Markup(shown)  # noqa: S704 - `escape` and `Markup.format` have escaped both kinds of parts


def _anchors(names: Iterable[str]) -> list[str]:
    """Return an id for each name, no two alike."""
    taken = {"contents"}
    anchors: list[str] = []
    for name in names:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
        anchor, number = stem, 1
        while anchor in taken:
            number += 1
            anchor = f"{stem}-{number}"
        taken.add(anchor)
        anchors.append(anchor)
    return anchors


def _images(report: Report) -> list[_Image]:
    """Return the figures of the report that a browser can show."""
    found: list[_Image] = []
    for stem, kinds in report.figures.items():
        for kind in [kind for kind in _IMAGES if kind in kinds][:1]:
            data = b64encode(kinds[kind]).decode()
            found.append(_Image(f"{stem}.{kind}", f"data:{_IMAGES[kind]};base64,{data}"))
    return found


def _files(report: Report) -> list[str]:
    """Return the names of the files that `report.write` writes."""
    figures = [f"{stem}.{kind}" for stem, kinds in report.figures.items() for kind in kinds]
    return [f"{report.name}.md", f"{report.name}.tex", *(f"{stem}.csv" for stem in report.data), *figures]


def _link(name: str) -> str:
    """Return a relative address; `quote` also hides a colon, before which a browser would see a scheme."""
    return quote(name)
