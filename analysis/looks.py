"""How the number of seeds of a sweep was chosen by `SEEDS=auto`: what was planned, where it stopped, and why.

Reports read it, since whoever looks several times must share the allowed error among the looks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from seminar import schema
from seminar.spec import Scalar
from seminar.store import write_json
from seminar.sweep import Sweep
from seminar.text import file_name


@dataclass(frozen=True)
class Looks:
    """`planned`: numbers of seeds after which claims were to be judged. `seeds`: how many there are. `why`: the reason
    to stop there."""

    planned: tuple[int, ...]
    seeds: int
    why: str


_LOOKS = TypeAdapter(Looks)


def path(runs: Path, sweep: Sweep, settings: Mapping[str, Sequence[Scalar]], host: Collection[str]) -> Path:
    """Return the file for a sweep with these settings; those of `host` and the seeds make no difference."""
    profiles = sweep.parameters.get("profile", ())
    changed = [f"{name}={','.join(map(str, settings[name]))}" for name in sorted(settings.keys() - {"profile", "seed"})]
    others = [text for text in changed if text.partition("=")[0] not in host]
    return runs / "looks" / f"{file_name(' '.join([sweep.name, *map(str, profiles), *others]))}.json"


def read(place: Path) -> Looks | None:
    """Return what a file says; None where there is none. Raises `InputError` for a damaged one."""
    found = schema.read(place, _LOOKS, "delete it, and run the sweep with SEEDS=auto again")
    return None if found is None else _LOOKS.validate_python(found)


def write(place: Path, looks: Looks) -> None:
    """Write the file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, asdict(looks))
