"""`python -m analysis.auto`: add seeds to a sweep until every claim is decided (`make ablation-NAME SEEDS=auto`).

After 2, 4, 8 and 16 seeds the claims are judged. Looking that often would find something by chance: each look has its
share of the allowed error (`statistics.share`). Training is left to `seminar sweep`, nothing here does it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from analysis import exhibits, looks, statistics
from analysis.exhibits import Settings
from analysis.looks import Looks
from seminar import growing
from seminar import sweep as sweeps
from seminar.catalogue import Catalogue
from seminar.spec import InputError
from seminar.store import Store
from seminar.sweep import parse_settings
from seminar.text import printable, tolerate_encoding


def _planned(text: str) -> tuple[int, ...]:
    try:
        found = tuple(map(int, text.split(",")))
    except ValueError:
        found = ()
    if not found or found[0] < 2 or list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r}: growing numbers of seeds from 2 on, as 2,4,8,16")
    return found


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: minutes, as 60")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.auto", description=__doc__)
    parser.add_argument("sweep", type=Path, metavar="SWEEP.yaml")
    parser.add_argument("settings", nargs="*", metavar="name=value")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--looks", type=_planned, default=statistics.LOOKS, help="default: 2,4,8,16")
    parser.add_argument("--minutes", type=_minutes, help="start no look that would end later than this")
    parser.add_argument("--margin", default=f"{statistics.MARGIN:g}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and look; what stands behind `--` is passed on to `seminar sweep`. Returns the exit status."""
    tolerate_encoding()
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    options = _parser().parse_intermixed_args(given[:cut])
    try:
        return _run(options, given[cut + 1 :])
    except InputError as error:
        print(printable(f"analysis: {' '.join(str(error).split())}"), file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, passed_on: Sequence[str]) -> int:
    margin = growing.margin(options.margin)
    settings = parse_settings(options.settings)
    if "seed" in settings:
        raise InputError("seed= is given as well; SEEDS=auto chooses the seeds")
    sweep = sweeps.load(options.sweep)
    if sweep.is_search:
        raise InputError(f"{options.sweep}: a search is judged once; give the number of its seeds, as SEEDS=4")
    if "--dry-run" in passed_on:
        return _train(options, options.looks[-1], passed_on)
    started, before, status = time.monotonic(), 0, 0
    for look in options.looks:
        here = time.monotonic()
        status = _train(options, look, passed_on)
        if status > 1:
            return status
        a_seed = (time.monotonic() - here) / (look - before)
        following = next((other for other in options.looks if other > look), None)
        place = looks.path(options.runs, sweep.override(settings), settings, Catalogue(Store(options.runs)).host)
        # Judged only after it is written, since the levels depend on it; true as well if this is interrupted.
        looks.write(place, Looks(options.looks, look, "it was interrupted"))
        judged, left = _undecided(options.sweep, settings, options.runs, margin)
        if not judged:
            place.unlink()
            raise InputError(f"{options.sweep}: nothing is claimed about it; give a number of seeds, as SEEDS=4")
        minutes = (time.monotonic() - started + a_seed * ((following or look) - look)) / 60
        if not left:
            why = "every claim is decided"
        elif following is None:
            why = f"the last planned look, with {left} of {judged} claims not decided"
        elif options.minutes is not None and minutes > options.minutes:
            why = f"the next look would not fit {options.minutes:g} minutes, with {left} of {judged} claims not decided"
        else:
            print(f"{look} seeds: {left} of {judged} claims are not decided; going on to {following}", flush=True)
            before = look
            continue
        looks.write(place, Looks(options.looks, look, why))
        print(f"stopped after {look} seeds: {why}", flush=True)
        break
    return status


def _train(options: argparse.Namespace, seeds: int, passed_on: Sequence[str]) -> int:
    what = [str(options.sweep), *options.settings, "--seeds", str(seeds), "--runs", str(options.runs), *passed_on]
    return subprocess.run([sys.executable, "-m", "seminar", "sweep", *what], check=False).returncode


def _undecided(path: Path, settings: Settings, runs: Path, margin: float) -> tuple[int, int]:
    """Return how many claims the exhibits of a sweep judge, and how many of them are not decided."""
    built = exhibits.build_all(exhibits.find([str(path)]), settings, Catalogue(Store(runs)), margin=margin)
    verdicts: list[object] = []
    for report in built.reports:
        for table in report.claims.values():
            names = [column.name for column in table.columns]
            # A claim about a row that the settings leave out has no seeds, and never will.
            verdicts += [row[names.index("verdict")] for row in table.rows if row[names.index("seeds")]]
    return len(verdicts), verdicts.count("inconclusive")


if __name__ == "__main__":
    sys.exit(main())
