"""Clicks as JSON: the plainest form of it, for programs that write clicks."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator

from seminar.data.labels import Drawn, Labels, Source, formats, number


@formats.register("json")
class Json:
    """`{image: [{"x", "y", "class"}, ...]}`."""

    single = False
    what = 'JSON: {"image": [{"x": 12.5, "y": 7, "class": "cat"}, ...]} (.json)'

    def knows(self, source: Source) -> bool:
        content = source.json
        return (
            isinstance(content, dict)
            and all(isinstance(clicks, list) for clicks in content.values())
            and not isinstance(content.get("shapes"), list)  # labelme
            and not {"images", "annotations"} <= content.keys()  # COCO
            and (source.meant or any(_is_click(click) for clicks in content.values() for click in clicks))
        )

    def read(self, source: Source) -> Iterator[Drawn]:
        content = source.json
        assert isinstance(content, dict)
        for name, clicks in content.items():
            found = Labels()
            for click in clicks:
                given = click if isinstance(click, dict) else {}
                x, y, cls = number(given.get("x")), number(given.get("y")), given.get("class", given.get("cls"))
                if x is None or y is None or not isinstance(cls, str | int) or isinstance(cls, bool):
                    source.wrong(f"{source.path}: {name}: expected x, y and class, got {reprlib.repr(click)}")
                else:
                    found.clicks.append((x, y, str(cls)))
            yield (name,), found


def _is_click(given: object) -> bool:
    """Return whether something has coordinates; lists of names, as of splits, have none."""
    return isinstance(given, dict) and {"x", "y"} <= given.keys()
