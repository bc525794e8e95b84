"""Points of the image viewer napari."""

from __future__ import annotations

from collections.abc import Iterator

from seminar.data.labels import Drawn, Labels, Source, formats, number


@formats.register("napari")
class Napari:
    """Points of a layer as napari saves them: `index,axis-0,axis-1` and the properties of the points. The first axis
    goes down, so y comes before x; 0 is the middle of the first pixel. The file has the name of its image, which is
    shown as it is stored."""

    single = True
    what = "points of napari, with the class as a property (.csv, named like its image)"
    CLASS = ("class", "label", "category", "name")

    def knows(self, source: Source) -> bool:
        return "axis-0" in source.header

    def read(self, source: Source) -> Iterator[Drawn]:
        path, columns = source.path, source.header
        if "shape-type" in columns:
            source.wrong(f"{path}: shapes of napari, of which only points are read; save a layer of points")
            return
        if "axis-1" not in columns or "axis-2" in columns:
            source.wrong(
                f"{path}: points of a stack or volume; save those of one picture, with axis-0 and axis-1 alone"
            )
            return
        cls = next((name for name in self.CLASS if name in columns), None)
        if cls is None:
            source.wrong(
                f"{path}: no column is the class of a point ({', '.join(columns)}); give the layer a property class"
            )
            return
        found = Labels(upright=False)
        for line, row in source.rows():
            y, x = number(row["axis-0"]), number(row["axis-1"])
            name = (row[cls] or "").strip()
            if x is None or y is None or not name:
                source.wrong(f"{path}: line {line}: expected two numbers and a class")
            else:
                found.clicks.append((x + 0.5, y + 0.5, name))
        yield (path.stem,), found
