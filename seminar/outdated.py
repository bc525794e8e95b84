"""Finished trainings that another version of the code has made: their numbers do not belong into one mean with new
ones without anybody knowing. And those that others cannot learn from, since their weights are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from seminar import train
from seminar.spec import Stage
from seminar.store import Store


def weightless(stages: Iterable[Stage], store: Store) -> list[str]:
    """Return the keys of finished trainings without their weights, as `seminar pull` and a copy of records alone leave
    them, that unfinished ones among `stages` are to learn from."""
    needed = [stage for last in stages for stage in last.chain if store.record(stage.key) is None]
    before = {stage.ancillary.key: stage.ancillary for stage in needed if stage.ancillary is not None}
    roles = {key: ("student", "teacher") if stage.has_teacher else ("student",) for key, stage in before.items()}
    return [
        key
        for key, files in roles.items()
        if store.record(key) is not None and not all((store.folder(key) / f"{role}.pt").exists() for role in files)
    ]


def find(stages: Iterable[Stage], store: Store, lost: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the finished trainings among `stages` that are outdated, by key, with what has changed since then.

    A training is outdated if a part that it used (a loss, the data set, the network, ...) has another source now, if
    the ancillary that it learned from was trained again, and if it was made on top of an outdated one. Trainings of
    versions that kept no digests are not known to be outdated. `lost`: keys that count as outdated as well, since their
    weights are gone.
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
        if stage.key in lost:
            reasons.append("a training whose weights are gone")
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
    many = f"{len(found)} finished training{'s were' if len(found) > 1 else ' was'}"
    return f"{many} made by {why}: {shown(found)}"


def shown(keys: Collection[str]) -> str:
    """Return the first keys, as text."""
    return ", ".join(list(keys)[:3]) + (", ..." if len(keys) > 3 else "")
