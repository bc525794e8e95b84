"""`python -m analysis`: rebuild tables and figures from plans and records."""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from analysis import exhibits, overview, page, reference, report, statistics, tables
from seminar import growing, schema
from seminar.catalogue import Catalogue
from seminar.spec import InputError
from seminar.store import Store, write_atomic, write_json
from seminar.sweep import parse_settings
from seminar.text import plain, printable, tolerate_encoding

_EXAMPLES = """\
examples:
  python -m analysis                            every exhibit that was planned, from runs/ to reports/creatures/
  python -m analysis sweeps/losses.yaml profile=voc --seeds 5
  python -m analysis sweeps/losses.yaml backbone=resnet101,mobilenet_v2
  python -m analysis table3 --out somewhere     this exhibit alone
  python -m analysis my_sweep.yaml

A name=value gives a setting of the sweep file another value, as for `seminar sweep`: give the same settings as for the
training, since they decide which trainings are looked up. What is not trained yet is shown as a dash, with the command
that trains it. Nothing is ever trained here, and only what the trainings logged is read: no data set, no weights, no
GPU, no network.

Without --out the whole folder of reports is rebuilt, so that it is always of one set of records."""
_FILES = ".files.json"
"""The names of the files that the last call wrote into a folder of reports."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; argparse itself prints all options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"analysis: {plain(message, 500)}; see {self.prog} --help\n"))


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(f"{entry.name} ({', '.join(entry.sweep_files)})" for entry in exhibits.registered().values())
    parser = _Parser(
        prog="python -m analysis",
        description=f"Rebuild tables and figures from the records of finished trainings. Exhibits: {names}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="EXHIBIT|SWEEP.yaml|name=value",
        help="exhibits by name or by sweep file (default: all that were planned), and settings",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of trainings (default: runs)")
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write (default: reports/PROFILE, or a folder below it if settings were changed)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="short for seed=0,1,...,N-1")
    parser.add_argument(
        "--wandb",
        choices=("auto", "online", "offline"),
        help="send tables and figures to W&B as well, as a run of job type report (as `seminar report` does; auto: "
        "online where you are logged in, else offline); this alone may need a network",
    )
    parser.add_argument(
        "--margin",
        default=f"{statistics.MARGIN:g}",
        metavar="POINTS",
        help=f"points of mIoU within which two rows count as equal (default: {statistics.MARGIN:g})",
    )
    parser.add_argument(
        "--running",
        action="store_true",
        help="the sweep still runs: the page says so and loads itself again, and only the table is printed",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what was requested; returns the exit status."""
    tolerate_encoding()
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    try:
        margin = growing.margin(options.margin)
    except InputError as error:
        parser.error(str(error))
    try:
        settings = parse_settings([item for item in options.what if "=" in item], options.seeds)
        names = [item for item in options.what if "=" not in item]
        lines, written = _build(names, settings, options.runs, options.out, margin, options.running)
    except (InputError, OSError) as error:
        print(printable(f"analysis: {' '.join(str(error).split())}"), file=sys.stderr)
        return 2
    if not options.quiet:
        try:
            print(printable("\n".join(lines).rstrip()), flush=True)
        except BrokenPipeError:  # the reader went away (`make report | head`); everything is written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if options.wandb is None else _send(written, options)


def _send(written: Sequence[Path], options: argparse.Namespace) -> int:
    """Send what was written to W&B; returns the exit status. Another program does so: nothing here needs W&B."""
    name = f"report {written[0].parent.name}"
    given = (f"--runs={options.runs}", f"--wandb={options.wandb}", f"--name={name}")
    command = [sys.executable, "-m", "seminar", "report", *given, "--", *map(str, written)]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL if options.quiet else None).returncode


def _build(
    names: Sequence[str], settings: exhibits.Settings, runs: Path, out: Path | None, margin: float, running: bool
) -> tuple[list[str], list[Path]]:
    """Build reports and write them; returns what to print, and the files."""
    catalogue = Catalogue(Store(runs))
    chosen = exhibits.find(names)
    if not chosen:
        raise InputError(f"{exhibits.SWEEPS}/: no sweep file here; run this in the project's folder")
    left_out: list[str] = []
    extra: list[exhibits.Exhibit] = []
    if not names:
        left_out += [f"{entry.title}: {_absent(entry)}" for entry in exhibits.registered().values() if _absent(entry)]
        found = [entry for entry in chosen if exhibits.planned(catalogue, entry)]
        left_out += [f"{e.title}: not planned in {runs}/; `{exhibits.command(e)}`" for e in chosen if e not in found]
        chosen = found
    elif out is None:
        others = [entry for entry in exhibits.find([]) if exhibits.planned(catalogue, entry)]
        extra = [entry for entry in others if entry.name not in {one.name for one in chosen}]
    itself = out is not None and out.resolve().is_relative_to(reference.REFERENCE.resolve())
    built = exhibits.build_all([*chosen, *extra], settings, catalogue, itself, len(extra), margin)
    built.left_out.extend(left_out)
    folder = out or exhibits.folder(built, settings)
    requested = {entry.name for entry in chosen}
    lines: list[str] = []
    written: list[Path] = []
    for one in built.reports:
        files = report.write(one, folder)
        written += files
        if one.name in requested:
            lines += [report.summary(one), *(f"wrote {path}" for path in files), ""]
    lines += [f"left out: {reason}" for reason in built.left_out]
    if not names or out is None:
        written.append(_page(built, folder, running))
        _forget(folder, [path.name for path in written])
        lines.append(f"wrote {written[-1]}")
    if running:
        lines = [*_first_table(built, requested), *overview.seeds(built), f"the page grows: {written[-1]}"]
    return lines, written


def _first_table(built: exhibits.Built, requested: Collection[str]) -> list[str]:
    """Return the first table of the first requested report that judges claims, else of the first one."""
    found = [one for one in built.reports if one.name in requested and one.main]
    return [
        tables.markdown(replace(one.main[0], notes=())) for one in sorted(found, key=lambda one: not one.claims)[:1]
    ]


def _absent(entry: exhibits.Exhibit) -> str:
    return ", ".join(f"sweeps/{file} is not there" for file in exhibits.absent(entry))


def _page(built: exhibits.Built, folder: Path, running: bool) -> Path:
    """Write the one page of all reports; returns its path."""
    path = folder / "index.html"
    title = f"Seminar Learning on {', '.join(built.reports[0].profiles)}"
    text = page.page(title, built.reports, overview.overview(built), overview.seeds(built), running)
    write_atomic(path, lambda file: file.write(text.encode()))
    return path


def _forget(folder: Path, written: Sequence[str]) -> None:
    """Remove what the last call wrote into the folder and this one did not: it is of other records."""
    path = folder / _FILES
    try:
        before = schema.parse(path.read_bytes())
    except (OSError, ValueError):
        before = []
    for name in before if isinstance(before, list) else []:
        if isinstance(name, str) and name not in written and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    write_json(path, sorted(written))


if __name__ == "__main__":
    # A report keeps what it has read until it is written: a search for garbage finds little, and looks at all of it.
    gc.disable()
    sys.exit(main())
