"""A table as a value, and one function per format that renders it.

Text may hold code between backticks; every renderer shows it as code and escapes the rest.
"""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from analysis.summary import Estimate
from seminar.text import printable, spreadsheet

Value = str | int | float | None
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Column:
    """`name` heads the column; numbers are shown with `decimals` places (CSV: 4) and flushed right. `exact`: numbers
    are settings, which a CSV file must not round."""

    name: str
    decimals: int = 1
    right: bool = True
    exact: bool = False


@dataclass(frozen=True)
class Table:
    """A title, columns, rows of values (None = missing, shown as a dash) and notes below it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row has {len(row)} values for {len(self.columns)} columns")


# -- values to text ------------------------------------------------------------------------------------------------


def fixed(value: float | None, decimals: int = 1, sign: bool = False) -> str:
    """Return a number with a real minus sign; a dash for None and NaN. Never `-0.0`."""
    if value is None or math.isnan(value):
        return DASH
    text = f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", MINUS)


def mean_and_std(value: Estimate, decimals: int = 1) -> str:
    """Return `49.5 ± 1.4 (3)`; `49.5 (1)` for one seed, which has no spread; a dash for none."""
    if value.mean is None:
        return DASH
    spread = "" if value.std is None else f" ± {fixed(value.std, decimals)}"
    return f"{fixed(value.mean, decimals)}{spread} ({value.n})"


def difference(value: Estimate, decimals: int = 1) -> str:
    """Return `+2.2 [−0.5, 4.9]`; `+2.2 (1 seed)` where no interval exists; a dash where no seed is common."""
    if value.mean is None:
        return DASH
    if value.low is None or value.high is None:
        return f"{fixed(value.mean, decimals, sign=True)} (1 seed)"
    return f"{fixed(value.mean, decimals, sign=True)} [{fixed(value.low, decimals)}, {fixed(value.high, decimals)}]"


def quoted(text: str) -> str:
    """Return foreign text (an error message) as one line without backticks, which would open code."""
    return printable(" ".join(text.replace("`", "'").split()))


def shown(value: Value, column: Column) -> str:
    """Return the text of a cell."""
    if value is None:
        return DASH
    if isinstance(value, float):
        return fixed(value, column.decimals)
    return str(value).replace("-", MINUS) if isinstance(value, int) else value


def marked(text: str, plain: Callable[[str], str], code: Callable[[str], str]) -> str:
    """Return the text with `plain` applied outside and `code` inside backticks."""
    parts = printable(text).split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick opens nothing
        parts[-2:] = ["'".join(parts[-2:])]
    return "".join(code(part) if index % 2 else plain(part) for index, part in enumerate(parts))


# -- Markdown ------------------------------------------------------------------------------------------------------


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, also inside a table cell; code between backticks stays code."""

    def plain(part: str) -> str:
        # "[" stays: intervals must be readable in a terminal, and without "](" it makes no link.
        part = re.sub(r"([\\|*<~$])|\](?=\()", lambda match: "\\" + match[0], part)
        # An underscore inside a word is not emphasis.
        return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", part)

    return marked(" ".join(text.split()), plain, lambda part: f"`{part.replace('|', chr(92) + '|')}`")


def markdown(table: Table) -> str:
    """Return the table in Markdown, its columns padded so that it also reads well in a terminal."""
    heads = [escape_markdown(column.name) for column in table.columns]
    body = [[escape_markdown(shown(v, c)) for v, c in zip(row, table.columns)] for row in table.rows]
    widths = [max(3, *(len(line[i]) for line in [heads, *body])) for i in range(len(heads))]

    def line(texts: list[str]) -> str:
        padded = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(texts, widths, table.columns)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if c.right else "-" * w for w, c in zip(widths, table.columns)]
    lines = [f"**{escape_markdown(table.title)}**", "", line(heads), f"| {' | '.join(rule)} |", *map(line, body)]
    if table.notes:
        lines += ["", *map(bullet, table.notes)]
    return "\n".join(lines) + "\n"


def bullet(text: str, width: int = 118) -> str:
    """Return a Markdown list item in lines of at most `width` characters; code is never broken."""
    # Spaces inside code must not be broken at, or a command could not be copied.
    kept = marked(escape_markdown(text), str, lambda part: f"`{part.replace(' ', chr(0))}`")
    lines = textwrap.wrap(
        kept, width, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace(chr(0), " ")


# -- CSV -----------------------------------------------------------------------------------------------------------


def comma_separated(table: Table) -> str:
    """Return columns and rows as CSV: numbers with up to 4 decimals and a plain minus, nothing for missing, text that
    no spreadsheet takes for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([spreadsheet(column.name) for column in table.columns])
    for row in table.rows:
        writer.writerow([_plain(value, column.exact) for value, column in zip(row, table.columns)])
    return text.getvalue()


def _plain(value: Value, exact: bool) -> Value:
    if isinstance(value, str):
        return spreadsheet(value)
    if isinstance(value, float) and not exact:
        return None if math.isnan(value) else round(value, 4) + 0.0
    return value


# -- LaTeX ---------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",  # \textquotedbl is missing in LaTeX's default encoding
    "±": r"$\pm$",
    MINUS: r"$-$",
    DASH: "--",
}


def escape_latex(text: str) -> str:
    """Return text that LaTeX shows as it is; code between backticks becomes typewriter."""

    def plain(part: str) -> str:
        return "".join(_LATEX.get(char, char) for char in part)

    return marked(" ".join(text.split()), plain, lambda part: rf"\texttt{{{plain(part)}}}")


def latex(table: Table) -> str:
    """Return a `table` environment, as wide as the text at most. It needs `\\usepackage{booktabs, graphicx}`."""

    def line(texts: list[str]) -> str:
        # A line that begins with "[" would be read as the optional argument of the "\\" before it.
        joined = " & ".join(texts)
        return f"    {'{}' if joined.startswith('[') else ''}{joined} \\\\"

    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.title)}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in table.columns)}}}",
        r"    \toprule",
        line([escape_latex(column.name) for column in table.columns]),
        r"    \midrule",
        *(line([escape_latex(shown(v, c)) for v, c in zip(row, table.columns)]) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}}",
    ]
    if table.notes:
        notes = r" \par ".join(escape_latex(note) for note in table.notes)
        lines.append(rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"
