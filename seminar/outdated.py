"""Finished trainings that another version of the code has made: their numbers do not belong into one mean with new
ones without anybody knowing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from seminar import train
from seminar.spec import Stage
from seminar.store import Store


def find(stages: Iterable[Stage], store: Store) -> dict[str, list[str]]:
    """Return the finished trainings among `stages` that are outdated, by key, with what has changed since then.

    A training is outdated if a part that it used (a loss, the data set, the network, ...) has another source now, if
    the ancillary that it learned from was trained again, and if it was made on top of an outdated one. Trainings of
    versions that kept no digests are not known to be outdated.
    """
    found: dict[str, list[str]] = {}
    for stage in {stage.key: stage for last in stages for stage in last.chain}.values():  # ancillaries come first
        record = store.record(stage.key)
        if record is None:
            continue
        now = train.versions(stage)
        reasons = [
            f"another version of {part}"
            for start in record.get("starts", ())
            for part, digest in start["parts"].items()
            if now.get(part) != digest
        ]
        if stage.ancillary is not None:
            before = store.record(stage.ancillary.key) or {}
            learned, there = record.get("ancillary_sha256"), before.get("weights_sha256", {}).get("student")
            if learned is not None and there is not None and learned != there:
                reasons.append("an ancillary that was trained again since")
            if stage.ancillary.key in found:
                reasons.append("an outdated ancillary")
        if reasons:
            found[stage.key] = list(dict.fromkeys(reasons))
    return found


def describe(found: Mapping[str, list[str]]) -> str:
    """Return one line on outdated trainings: how many, and why."""
    counts = Counter(reason for reasons in found.values() for reason in reasons)
    why = ", ".join(f"{reason} ({count})" for reason, count in counts.items())
    first = ", ".join(list(found)[:3]) + (", ..." if len(found) > 3 else "")
    many = f"{len(found)} finished training{'s were' if len(found) > 1 else ' was'}"
    return f"{many} made by {why}: {first}"
