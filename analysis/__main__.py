"""`python -m analysis`: rebuild tables and figures from records."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import exhibits, page, report
from seminar.spec import InputError
from seminar.store import write_atomic
from seminar.sweep import parse_words

_EXAMPLES = """\
examples:
  python -m analysis                            every exhibit, from runs/ to reports/creatures/
  python -m analysis table3 profile=voc --seeds 5
  python -m analysis sweeps/losses.yaml backbone=resnet101,mobilenet_v2
  python -m analysis my_sweep.yaml --out report

A word=value replaces or adds a word of the sweep file, as for `seminar sweep`: give the same words as for the training,
since they decide which trainings are looked up. What is not trained yet is shown as a dash, with the command that
trains it. Nothing is ever trained here."""


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(f"{entry.name} ({', '.join(entry.sweep_files)})" for entry in exhibits.registered().values())
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description=f"Rebuild tables and figures from the records of finished trainings. Exhibits: {names}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="EXHIBIT|SWEEP.yaml|word=value",
        help="exhibits by name or by sweep file (default: all), and words to put over the sweep files",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of trainings (default: runs)")
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write (default: reports/PROFILE, or below it if words differ)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="short for seed=0,1,...,N-1")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    return parser


def _page(built: exhibits.Built, folder: Path) -> Path:
    """Write the one page of all reports; returns its path."""
    path = folder / "index.html"
    title = f"Seminar Learning on {', '.join(built.reports[0].profiles)}"
    text = page.page(title, built.reports, exhibits.overview(built))
    write_atomic(path, lambda file: file.write(text.encode()))
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what was asked for; returns the exit status."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        words = parse_words([item for item in options.what if "=" in item], options.seeds)
        everything = all("=" in item for item in options.what)
        chosen = exhibits.find([item for item in options.what if "=" not in item])
        if not chosen:
            raise InputError(f"{exhibits.SWEEPS}/: no sweep file here; run this in the project's folder")
        built = exhibits.build_all(chosen, words, options.runs)
        if everything:
            for entry in exhibits.registered().values():
                if absent := exhibits.absent(entry):
                    files = ", ".join(f"sweeps/{file} is not there" for file in absent)
                    built.left_out.append(f"{entry.title}: {files}")
        lines: list[str] = []
        for one in built.reports:
            written = report.write(one, options.out or exhibits.folder(one, words))
            lines += [report.summary(one), *(f"wrote {path}" for path in written), ""]
        lines += [f"left out: {reason}" for reason in built.left_out]
        if everything:
            lines.append(f"wrote {_page(built, options.out or exhibits.folder(built.reports[0], words))}")
    except (InputError, OSError) as error:
        print(f"analysis: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if not options.quiet:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a sign shows "?" instead of failing
            sys.stdout.reconfigure(errors="replace")
        try:
            print("\n".join(lines).rstrip(), flush=True)
        except BrokenPipeError:  # the reader went away (`make report | head`); everything is written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
