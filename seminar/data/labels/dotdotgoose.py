"""Files of the counting tool DotDotGoose (American Museum of Natural History)."""

from __future__ import annotations

from collections.abc import Iterator

from seminar.data.labels import Drawn, Labels, Source, formats, number
from seminar.text import brief


@formats.register("dotdotgoose")
class DotDotGoose:
    """Points by picture and class. A picture is shown as it is stored, whatever its EXIF data say."""

    single = False
    what = "DotDotGoose (.pnt)"

    def knows(self, source: Source) -> bool:
        content = source.json
        return isinstance(content, dict) and isinstance(content.get("points"), dict) and "classes" in content

    def read(self, source: Source) -> Iterator[Drawn]:
        content = source.json
        assert isinstance(content, dict)
        for image, classes in content["points"].items():
            found = Labels(upright=False)
            if not isinstance(classes, dict):
                source.wrong(f"{source.path}: {image}: expected points by class, got {brief(classes)}")
                continue
            for name, points in classes.items():
                if not isinstance(points, list):
                    source.wrong(f"{source.path}: {image}: {name}: expected a list of points, got {brief(points)}")
                    continue
                for point in points:
                    given = point if isinstance(point, dict) else {}
                    x, y = number(given.get("x")), number(given.get("y"))
                    if x is None or y is None:
                        source.wrong(f"{source.path}: {image}: {name}: expected x and y, got {brief(point)}")
                    else:
                        found.clicks.append((x, y, str(name)))
            yield (image,), found
