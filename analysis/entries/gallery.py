"""Pictures: what the networks say of the sample images (Figs. 1, 3, 6 and S1), and the pipeline itself (Fig. 2)."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import blocks, figures, tables
from analysis.exhibits import EXHIBITS, Request, exhibit
from analysis.report import Report
from analysis.tables import Column, Table, Value
from seminar import schema
from seminar.spec import InputError, Stage

Labels = NDArray[np.uint8]
VOID = 254
"""Labels from here on are void or padding."""
RULE = (
    "The images are not picked by hand: of the sample images, which lie evenly spaced in the validation set, those on "
    "which the last column before the truth scores worst, median and best (mean IoU over the classes of the truth)."
)


@dataclass(frozen=True)
class Samples:
    """The predictions that one training kept: by number of the sample and name (`image`, `truth`, `student` ...)."""

    arrays: Mapping[str, NDArray[np.generic]]

    @property
    def count(self) -> int:
        return sum(name.endswith("_image") for name in self.arrays)

    def __call__(self, number: int, name: str) -> NDArray[np.generic]:
        return self.arrays[f"{number}_{name}"]


def read(runs: Path, stage: Stage, when: str) -> Samples | None:
    """Return the samples of a finished training; None if it has none."""
    path = runs / stage.key / "samples" / f"{when}.npz"
    if not path.exists() or not (runs / stage.key / "record.json").exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Samples({name: arrays[name] for name in arrays})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path}: damaged; move the folder {path.parent.parent} away to train it again") from None


def image_iou(labels: Labels, truth: Labels) -> float | None:
    """Return the mean IoU in % over the classes of `truth` (H, W); void pixels count nowhere. None: nothing else is in
    it."""
    known = truth < VOID
    found = []
    for cls in np.unique(truth[known]):
        mine, true = (labels == cls) & known, (truth == cls) & known
        found.append(float((mine & true).sum() / (mine | true).sum()))
    return 100 * float(np.mean(found)) if found else None


def chosen(samples: Samples, name: str) -> dict[str, int]:
    """Return the numbers of the `worst`, `median` and `best` sample of network `name`, each once; ties go to the
    earlier one. Without a mask in any: of the `first`, `middle` and `last`."""
    scores = [image_iou(samples(n, name), samples(n, "truth")) for n in range(samples.count)]  # type: ignore[arg-type]
    order = sorted(range(samples.count), key=lambda n: (scores[n] or 0.0, n))
    if len(order) == 1:
        return {"only": order[0]}
    low, middle, high = ("first", "middle", "last") if scores == [None] * len(scores) else ("worst", "median", "best")
    between = {middle: order[len(order) // 2]} if len(order) > 2 else {}  # the middle of two is one of them
    return {low: order[0], **between, high: order[-1]}


def _classes(request: Request, stage: Stage) -> dict[str, Any]:
    """Return the names of the classes of a finished training, by index, and which of them is the background."""
    record = request.source.record(stage.key) or {}
    return {"classes": record.get("classes", ()), "background": schema.background(record)}


def _pictures(
    name: str,
    request: Request,
    missing: Sequence[str],
    what: str,
    body: Sequence[tuple[Value, ...]],
    drawn: Mapping[str, Mapping[str, bytes]],
) -> Report:
    """Return the report of an exhibit of pictures; `body`: group, image, sample, `what` the picture is of, and its
    IoU."""
    heads = [Column("group", right=False), Column("image", right=False), Column("sample"), Column(what, right=False)]
    table = Table("Mean IoU of the pictures (%)", (*heads, Column("IoU (%)")), tuple(body), (RULE,))
    title = EXHIBITS[name].title
    return blocks.assemble(name, title, request, missing, main=(table,), data={name: table}, figures=drawn)


@exhibit("fig6", "Figs. 1, 6 and S1: the same images under each loss combination", "losses.yaml")
def fig6(request: Request) -> Report:
    """Clicks, predictions of each row of Table 3, ground truth; the first seed."""
    drawn: dict[str, Mapping[str, bytes]] = {}
    missing: list[str] = []
    body: list[tuple[Value, ...]] = []
    by_group = blocks.groups(request.cells, "losses")
    for name, cells in by_group.items():
        seed = min(cell.stage.replicate for cell in cells)
        stages = {cell.stage.label: cell.stage for cell in cells if cell.stage.replicate == seed}
        samples = {label: read(request.runs, stage, "final") for label, stage in stages.items()}
        there = {label: found for label, found in samples.items() if found is not None}
        missing += [f"{name}: {label}, seed {seed}: no predictions yet." for label in samples.keys() - there.keys()]
        last = next((label for label in ("pce+crf+pcons+pseudo", *reversed(there)) if label in there), None)
        if last is None:
            continue
        # The full method beside the truth, full supervision (where it is) before it.
        labels = [label for label in there if label != last] + [last]
        rows = []
        for kind, number in chosen(there[last], "student").items():
            truth = there[last](number, "truth")
            panels: list[tuple[str, NDArray[np.generic]]] = [("clicks", there[last](number, "image"))]
            scores = {label: image_iou(there[label](number, "student"), truth) for label in labels}  # type: ignore[arg-type]
            for label in labels:
                percent = "" if scores[label] is None else f"\n{scores[label]:.0f} %"
                panels.append((label + percent, there[label](number, "student")))
            panels.append(("ground truth", truth))
            rows.append((kind, panels, there[last](number, "clicks")))
            body += [(name, kind, number, label, value) for label, value in scores.items()]
        title = f"{EXHIBITS['fig6'].title}\n{name}, seed {seed}"
        classes = _classes(request, stages[last])
        drawn[blocks.stem("fig6", name, by_group)] = figures.gallery(rows, title, **classes)
    return _pictures("fig6", request, sorted(missing), "losses", body, drawn)


@exhibit("fig3", "Fig. 3: two students disagree early, and the second learns from it", "losses.yaml")
def fig3(request: Request) -> Report:
    """Early predictions of the primary student and teacher beside the ancillary's, and where they disagree."""
    drawn: dict[str, Mapping[str, bytes]] = {}
    missing: list[str] = []
    body: list[tuple[Value, ...]] = []
    by_group = blocks.groups(request.cells, "losses")
    for name, cells in by_group.items():
        primaries = [cell.stage for cell in cells if cell.stage.ancillary is not None]
        if not primaries:
            continue
        stage = min(primaries, key=lambda stage: stage.replicate)
        early, final = (read(request.runs, stage, when) for when in ("early", "final"))
        if early is None or final is None:
            missing.append(f"{name}: {stage.label}, seed {stage.replicate}: no predictions yet.")
            continue
        rows = []
        roles = [role for role in ("ancillary", "student", "teacher") if f"0_{role}" in early.arrays]
        for kind, number in chosen(final, "student").items():
            truth = final(number, "truth")
            panels: list[tuple[str, NDArray[np.generic]]] = [("clicks", final(number, "image"))]
            for role in roles:
                title = "ancillary student" if role == "ancillary" else f"primary {role}, early"
                panels.append((title, early(number, role)))
            # White where they disagree.
            apart = (early(number, "ancillary") != early(number, "student")).astype(np.uint8) * 255
            panels += [("they disagree", np.repeat(apart[..., None], 3, axis=2))]
            panels += [("primary student, final", final(number, "student")), ("ground truth", truth)]
            rows.append((kind, panels, final(number, "clicks")))
            for role in roles:
                body.append((name, kind, number, f"{role}, early", image_iou(early(number, role), truth)))  # type: ignore[arg-type]
            body.append((name, kind, number, "student, final", image_iou(final(number, "student"), truth)))  # type: ignore[arg-type]
        when = f"early: after a sixth of {stage.epochs} epochs, as the paper's tenth of 60"
        title = f"{EXHIBITS['fig3'].title}\n{name}, seed {stage.replicate}\n{when}"
        classes = _classes(request, stage)
        drawn[blocks.stem("fig3", name, by_group)] = figures.gallery(rows, title, **classes)
    return _pictures("fig3", request, missing, "network", body, drawn)


@exhibit("fig2", "Fig. 2: the pipeline", "students.yaml")
def fig2(request: Request) -> Report:
    """The chain of students with one module, drawn from the stage itself; needs no training."""
    whole = [cell.stage for cell in request.cells if cell.stage.modules == 1] or [request.cells[0].stage]
    stage = min(whole, key=lambda stage: stage.replicate)
    body: list[tuple[Value, ...]] = []
    for number, member in enumerate(stage.chain):
        role = "ancillary" if number < len(stage.chain) - 1 else "primary"
        teacher = None if member.alpha is None else f"EMA, alpha = {member.alpha:g}"
        weights = ", ".join(
            f"{term.name} {tables.fixed(term.weight, 3).rstrip('0').rstrip('.')}" for term in member.losses
        )
        learns = member.annotation or "dense masks"
        body.append((role, member.label, weights, teacher, learns, member.epochs, f"`{member.key}`"))
    columns = [Column(text, right=False) for text in ("student", "losses", "weights", "teacher", "learns from")]
    columns += [Column("epochs"), Column("key", right=False)]
    table = Table("The chain of trainings", tuple(columns), tuple(body))
    return blocks.assemble(
        "fig2",
        EXHIBITS["fig2"].title,
        request,
        main=(table,),
        data={"fig2": table},
        figures={"fig2": figures.pipeline(stage, EXHIBITS["fig2"].title)},
    )
