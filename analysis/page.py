"""One page that shows reports in a browser, offline: style and figures are inside it, there is no script."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from analysis import tables
from analysis.report import Report
from analysis.tables import Table

_IMAGES = {"svg": "image/svg+xml", "png": "image/png"}  # kinds of figures that a browser shows, best first

# Nothing may be loaded or run, whatever text a record holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1f2328; --soft: #59636e; --line: #dfe3e8; --rule: #818b98; --fill: #f5f6f8;
  --link: #0b57b0; --warn: #8a5a00; --warn-fill: #fdf7e7; --shade: rgb(31 35 40 / 0.16);
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --ink: #dde2e8; --soft: #9aa5b1; --line: #2f353d; --rule: #67717d; --fill: #1f242a;
    --link: #82b8f7; --warn: #e2b458; --warn-fill: #262117; --shade: rgb(0 0 0 / 0.7);
  }
}
* { box-sizing: border-box; }
html { text-size-adjust: 100%; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  overflow-wrap: break-word;
}
body > * { max-width: 69rem; margin-inline: auto; }
h1, h2, h3, p, ul { max-width: 44rem; margin: 0; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.6vw, 2.1rem); line-height: 1.2; letter-spacing: -0.01em; }
h2 { font-size: 1.35rem; line-height: 1.3; }
h3 { font-size: 1rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 0.2em; }
ul { padding-left: 1.15rem; }
li + li { margin-top: 0.3rem; }
code {
  padding: 0.1em 0.3em; border-radius: 0.25em; background: var(--fill); overflow-wrap: anywhere;
  font: 0.875em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
nav { margin-top: 1.5rem; }
nav h2 { font-size: 1rem; }
nav ul { margin-top: 0.4rem; padding: 0; list-style: none; }
nav small { margin-left: 0.35rem; color: var(--warn); }
main > section { margin-top: 2.5rem; padding-top: 1.75rem; border-top: 1px solid var(--line); }
main > section > * + * { margin-top: 1.25rem; }
main > section > .scroll + .scroll, main > section > ul + .scroll { margin-top: 1.75rem; }
summary { width: fit-content; cursor: pointer; color: var(--soft); }
summary:hover { color: var(--ink); }
details > summary + * { margin-top: 0.75rem; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }

/* A table that is too wide scrolls in its box; a shadow at an edge tells that there is more. */
.scroll {
  overflow-x: auto; container-type: inline-size;
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 0.5rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 0.5rem 100% no-repeat scroll;
}
table { border-spacing: 0; font-size: 0.9rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { padding-bottom: 0.5rem; font-size: 1rem; font-weight: 600; text-align: left; }
/* As wide as its text, up to the box: not squeezed by a narrow table, not out of sight above a wide one. */
caption span { position: sticky; left: 0; display: inline-block; width: max-content; max-width: min(44rem, 100cqi); }
th, td {
  padding: 0.4rem 0.75rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: baseline; white-space: nowrap;
}
th:first-child, td:first-child { padding-left: 0.25rem; }
th:last-child, td:last-child { padding-right: 0.25rem; }
.right { text-align: right; }
.long { min-width: 13rem; white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom-color: var(--rule); color: var(--soft); font-weight: 600; vertical-align: bottom; }
thead th { white-space: normal; }
tbody th { font-weight: 400; }
tbody tr:hover > * { background: var(--fill); }
.notes { margin-top: 0.75rem; color: var(--soft); font-size: 0.85rem; line-height: 1.5; }
td code, th code { overflow-wrap: inherit; }
details caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }

.gaps { max-width: 47rem; padding: 0.9rem 1.1rem; border-left: 3px solid var(--warn); background: var(--warn-fill); }
.gaps h3 { color: var(--warn); }
.gaps ul { margin-top: 0.4rem; }
figure { margin-inline: 0; }
img { display: block; max-width: 100%; height: auto; }
@media screen and (prefers-color-scheme: dark) {
  img { padding: 0.75rem; border-radius: 0.4rem; background: #fff; }
}
.files { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; padding: 0; list-style: none; font-size: 0.9rem; }
.files li { margin: 0; }

@media screen and (max-width: 44rem) {
  body { padding-top: 1.5rem; }
  th, td { padding-inline: 0.6rem; }
  /* The name of a row stays in sight while its numbers scroll. */
  tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); }
  tbody th.long { min-width: 8rem; }
}
@media print {
  :root { color-scheme: light; }
  @page { margin: 15mm; }
  html { font-size: 9.5pt; }
  body { padding: 0; }
  body > *, h1, h2, h3, p, ul { max-width: none; }
  nav { display: none; }
  main > section { margin-top: 1.5rem; padding-top: 1rem; }
  h2, h3, summary, caption { break-after: avoid; }
  tr, figure, li { break-inside: avoid; }
  thead { display: table-header-group; }
  details::details-content { display: block; block-size: auto; content-visibility: visible; }
  .scroll { overflow: visible; background: none; }
  table { font-size: 0.8rem; }
  th, td { padding: 0.15rem 0.35rem; }
  tbody :not(.right) { white-space: normal; }
  table:has(th:nth-child(13)) { font-size: 0.65rem; }
  table:has(th:nth-child(13)) thead th { overflow-wrap: anywhere; }
  .long { min-width: 0; }
  code { padding: 0; background: none; }
}
"""


@dataclass(frozen=True)
class Section:
    """A titled block above the reports: bullet lines, where code stands between backticks, and tables."""

    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def page(title: str, reports: Sequence[Report], overview: Sequence[Section]) -> str:
    """The page; its links to files resolve in the folder that the reports are written to.

    Equal input gives an equal page.
    """
    anchors = _anchors([*(section.title for section in overview), *(report.name for report in reports)])
    titles = [*(section.title for section in overview), *(report.title for report in reports)]
    gaps = [*(False for _ in overview), *(bool(report.gaps) for report in reports)]
    blocks = [*map(_section, overview), *map(_report, reports)]
    contents = [
        f'<li><a href="#{anchor}">{tables.escape_html(text)}</a>{" <small>has gaps</small>" if gap else ""}</li>'
        for anchor, text, gap in zip(anchors, titles, gaps)
    ]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title.replace('`', ''))}</title>",
        '<link rel="icon" href="data:,">',  # else a browser asks the server for one
        f"<style>\n{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<header>\n<h1>{tables.escape_html(title)}</h1>\n</header>",
        '<nav aria-labelledby="contents">',
        '<h2 id="contents">Contents</h2>',
        "<ul>",
        *contents,
        "</ul>",
        "</nav>",
        "<main>",
        *(
            f'<section id="{anchor}">\n<h2>{tables.escape_html(text)}</h2>\n{block}</section>'
            for anchor, text, block in zip(anchors, titles, blocks)
        ),
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _anchors(names: Iterable[str]) -> list[str]:
    """An id for each name, no two alike."""
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


def _section(section: Section) -> str:
    lines = _list(section.lines) if section.lines else ""
    return lines + "".join(map(tables.html, section.tables))


def _report(report: Report) -> str:
    parts = [f"<details>\n<summary>About these runs</summary>\n{_list(report.header)}</details>\n"]
    parts += map(tables.html, (*report.main, *report.claims.values()))
    if report.gaps:
        parts.append(f'<div class="gaps">\n<h3>Gaps</h3>\n{_list(report.gaps)}</div>\n')
    parts += [_figure(report.title, stem, kinds) for stem, kinds in report.figures.items()]
    parts += map(tables.html, report.more)
    parts += [
        f"<details>\n<summary>{tables.escape_html(table.title)}</summary>\n{tables.html(table)}</details>\n"
        for table in report.appendix
    ]
    links = [f'<li><a href="{_link(name)}">{escape(name)}</a></li>\n' for name in _files(report)]
    parts.append(f'<ul class="files" aria-label="Files">\n{"".join(links)}</ul>\n')
    return "".join(parts)


def _figure(title: str, stem: str, kinds: Mapping[str, bytes]) -> str:
    """The figure, as a link to its own file: on a phone its text is small."""
    for kind, media in _IMAGES.items():
        if kind in kinds:
            data = b64encode(kinds[kind]).decode()
            image = f'<img src="data:{media};base64,{data}" alt="{escape(title.replace("`", ""))}">'
            return f'<figure>\n<a href="{_link(f"{stem}.{kind}")}">{image}</a>\n</figure>\n'
    return ""


def _files(report: Report) -> list[str]:
    """The names of the files that `report.write` writes."""
    figures = [f"{stem}.{kind}" for stem, kinds in report.figures.items() for kind in kinds]
    return [f"{report.name}.md", f"{report.name}.tex", *(f"{stem}.csv" for stem in report.data), *figures]


def _link(name: str) -> str:
    """A relative address; `quote` also hides a colon, before which a browser would see a scheme."""
    return escape(quote(name))


def _list(lines: Iterable[str]) -> str:
    """Bullet lines, where code stands between backticks."""
    return "".join(["<ul>\n", *(f"<li>{tables.escape_html(line)}</li>\n" for line in lines), "</ul>\n"])
