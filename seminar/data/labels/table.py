"""Tables of clicks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from seminar.data.labels import Drawn, Labels, Source, formats, number

COLUMNS = ("image", "x", "y", "class")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@formats.register("csv")
class Table:
    """A row for each click: `image,x,y,class`, in any order, beside any other columns."""

    single = False
    what = "a table with the columns image,x,y,class (.csv)"

    def knows(self, source: Source) -> bool:
        columns = {*source.header}
        other = {"axis-0", "region_attributes"} & columns  # tables of other tools
        return {*COLUMNS} <= columns or (source.meant and source.suffix == ".csv" and not other)

    def read(self, source: Source) -> Iterator[Drawn]:
        path = source.path
        missing = [name for name in COLUMNS if name not in source.header]
        if missing:
            first = source.text.partition("\n")[0].strip()
            source.wrong(f"{path}: no column {missing[0]!r}; the first line must be image,x,y,class, not {first!r}")
            return
        fields = len(source.header)
        drawn: dict[str, Labels] = {}
        commas: list[int] = []
        long: list[int] = []
        for line, row in source.rows():
            x, y = number(row["x"]), number(row["y"])
            if None in row:  # more fields than the first line has
                long.append(line)
                continue
            if any(_DECIMAL_COMMA.fullmatch((row[name] or "").strip()) for name in ("x", "y")):
                commas.append(line)
                continue
            image, cls = (row["image"] or "").strip(), (row["class"] or "").strip()
            if x is None or y is None or not image or not cls:
                source.wrong(f"{path}: line {line}: expected image, two numbers and a class")
                continue
            drawn.setdefault(image, Labels()).clicks.append((x, y, cls))
        for image, found in drawn.items():
            yield (image,), found
        for lines, why in (
            (commas, "a decimal comma; write decimals with a point (12.5)"),
            (
                long,
                f"more than the {fields} fields of the first line; write decimals with a point (12.5), and names that "
                f"hold {source.separator!r} in quotes",
            ),
        ):
            if lines:
                more = f" and {len(lines) - 1} more lines" if lines[1:] else ""
                source.wrong(f"{path}: line {lines[0]}{more}: {why}")
