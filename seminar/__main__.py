"""The command line: `seminar train`, `sweep`, `cell`, `report`, `pull`, `data`, `predict`, `export`, `status`."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from tqdm import tqdm

from seminar import pool
from seminar import sweep as sweeps
from seminar.spec import InputError, Scalar, Stage, unknown
from seminar.store import REPLACED, Interrupted, Record, StageFailed, Store, score, write_atomic
from seminar.text import brief, one_line_warnings, plain, printable, system_error, tolerate_encoding

if TYPE_CHECKING:  # both bring torch, which most commands can do without
    from seminar.catalogue import Cell, Planned
    from seminar.plan import Plan, SearchPlan
    from seminar.trials import Tuning
    from seminar.watch import Watch

EPILOG = """\
settings:
  A setting is one name=value: profile=voc losses=pce+crf lambda_crf=0.5 alpha=0.99 epochs=10 seed=3 device=cuda.
  In a sweep several values (seed=0,1,2) make the setting a dimension. Unknown names, bad values and settings without
  effect are refused, with the choices. seminar/README.md lists all settings.
"""


_SETTING = re.compile(r"[a-z0-9_]+=")
SHORT_MAX = 20_000
"""Short side in pixels beyond which no memory suffices."""
WANDB = "auto: online where you are logged in, else offline"
"""What `--wandb` means by default."""
LOOKED = "seminar data check"
"""How the text beside a contact sheet begins."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 something failed, 2 bad input, 130 interrupted."""
    tolerate_encoding()
    one_line_warnings()
    parser = _parser()
    # argparse ends a list of settings at the first option; settings that come after it are left over.
    options, rest = parser.parse_known_args(arguments)
    strange = [item for item in rest if item.startswith("-") or not hasattr(options, "settings")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if rest:
        options.settings += rest
    try:
        return int(options.run(options))
    except InputError as error:
        _say(error)
        return 2
    except (KeyboardInterrupt, Interrupted):
        _say(f"stopped{options.again}")
        return 130
    except (FloatingPointError, StageFailed) as error:
        _say(error)  # its cause and traceback are kept with the run
        return 1
    except BrokenPipeError:
        # The reader went away (`seminar status | head`), so there is nobody to report to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(system_error(error))
        return 2


def _say(text: object) -> None:
    rank = _rank()
    _tell(f"seminar{'' if rank == '0' else f' (process {rank})'}: {text}", file=sys.stderr)


def _tell(text: object, file: TextIO | None = None) -> None:
    """Print a text in which names of files, classes and others may stand; `file`: default stdout."""
    print(printable(text), file=file, flush=True)


def _rank() -> str:
    """Return which of the processes this is that torchrun has started."""
    return os.environ.get("RANK", "0") if "MASTER_ADDR" in os.environ else "0"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; argparse itself prints all options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"{self.prog}: {plain(message, 500)}; see {self.prog} --help\n"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="seminar", description="Seminar Learning: train, sweep and keep track of click-supervised segmentation."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help_text: str, example: str, group: Any = commands) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = group.add_parser(
            name,
            help=help_text,
            description=help_text,
            epilog=f"example:\n  {example}\n\n{EPILOG}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where trainings are kept")
        sub.set_defaults(run=run, again="")
        return sub

    one = command("train", _train, "Train one stage (and the chain it needs).", "seminar train losses=pce+crf seed=1")
    one.add_argument("settings", nargs="*", metavar="name=value")
    cell = command(
        "cell",
        _cell,
        "Train one cell of a sweep as one W&B run: what `wandb agent` starts.",
        """seminar cell '{"losses": "pce+crf", "seed": 1}'""",
    )
    cell.add_argument("json", metavar="JSON", help="the settings of the cell, as one JSON object")
    many = command(
        "sweep",
        _sweep,
        "Train every cell of one or several sweep files that is not trained yet.",
        "seminar sweep sweeps/losses.yaml sweeps/students.yaml seed=0,1,2,3,4 --workers 2",
    )
    many.add_argument("settings", nargs="+", metavar="FILE|name=value", help="sweep files (sweeps/*.yaml) and settings")
    many.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1")
    many.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes at once (default: one per core on CPU, one per GPU); 0: all in this process",
    )
    many.add_argument(
        "--executor",
        choices=[*pool.executors],
        help="who runs the workers: this process, processes here, tasks of a Slurm array (default: local)",
    )
    many.add_argument("--trials", type=int, metavar="N", help="trials of a search (default: run_cap of its file)")
    many.add_argument(
        "--sampler", metavar="NAME", help="what chooses the points of a search (default: random, or tpe for bayes)"
    )
    many.add_argument(
        "--pruner",
        metavar="NAME",
        help="what ends bad trials of a search early (default: what early_terminate of its file says)",
    )
    many.add_argument(
        "--storage",
        metavar="URL",
        help="a database for Optuna's study, shared by many machines: postgresql://USER@HOST/DATABASE or mysql://... "
        f"(default: ${pool.STORAGE}, where no other user of the machine sees a password; else a journal file in the "
        "folder of runs)",
    )
    many.add_argument("--dry-run", action="store_true", help="show the plan and its cost, train nothing")
    many.add_argument(
        "--report",
        action="store_true",
        help="write and print the report (`python -m analysis`) after each finished seed, and at the end; with "
        "--executor slurm only at the end",
    )
    many.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (default: reports/PROFILE)")
    many.add_argument(
        "--margin",
        metavar="POINTS",
        help="points of mIoU within which the report calls two rows equal (default: 1)",
    )
    many.add_argument(
        "--save-as",
        type=Path,
        metavar="FILE",
        help="write the one sweep file with these settings in it, for `wandb sweep FILE`, and train nothing",
    )
    for sub in (one, cell, many):
        versions = sub.add_mutually_exclusive_group()
        versions.add_argument(
            "--retrain",
            action="store_true",
            help="train again what another version of a loss, data set or network has made; the old trainings are kept "
            "in RUNS/replaced",
        )
        versions.add_argument("--keep", action="store_true", help="take such trainings as they are")
        sub.set_defaults(again="; the same command goes on from the last finished epoch")
        sub.add_argument(
            "--wandb",
            choices=("auto", "online", "offline", "disabled"),
            default="auto",
            help=WANDB,
        )
        sub.add_argument(
            "--artifacts",
            action="store_true",
            help="keep the weights in W&B as well, as model artifacts: `seminar pull` brings them back",
        )
    shown = command(
        "report",
        _report,
        "Send a report to W&B, as a run of job type report: its tables, figures and files. `python -m analysis --wandb "
        "online` does both.",
        "seminar report reports/creatures --wandb online",
    )
    shown.add_argument("files", nargs="+", type=Path, metavar="FILE|DIR")
    shown.add_argument("--name", help="what to call the run (default: the name of the first folder)")
    shown.add_argument("--wandb", choices=("auto", "online", "offline"), default="auto", help=WANDB)
    back = command(
        "pull",
        _pull,
        "Bring finished trainings back from W&B, to report them.",
        "seminar pull ENTITY/PROJECT --runs runs-wandb",
    )
    back.add_argument("source", metavar="ENTITY/PROJECT|DIR", help="a W&B project, or a folder of (offline) runs")
    about = "Look at a data set before training, or bring PASCAL VOC together."
    data = commands.add_parser("data", help=about, description=about).add_subparsers(required=True, metavar="WHAT")
    check = command(
        "check",
        _check,
        "What is wrong in a data set, what is there, and a sheet of pictures.",
        "seminar data check my_photos data_max_side=800",
        data,
    )
    check.add_argument("settings", nargs="+", metavar="DIR|name=value", help="a folder of your own, or profile=voc ...")
    check.add_argument(
        "--sheet",
        type=Path,
        default=Path("contact-sheet.png"),
        metavar="FILE",
        help="where to put the pictures; what is printed goes into a text file beside it",
    )
    bring = command(
        "import",
        _import,
        "Clicks, lines and areas from the files of other tools, as clicks.csv or (with lines and areas) as files of "
        "labelme. The data set `folder` reads the same files where they lie; this shows what is in them, and makes "
        "them easy to mend.",
        "seminar data import annotations.xml --images my_photos --out my_photos/clicks.csv\n"
        "  seminar data import project-1.json --images my_photos --out my_photos/labelme",
        data,
    )
    bring.add_argument("files", nargs="+", type=Path, metavar="FILE|DIR", help="what a tool has exported")
    bring.add_argument("--images", type=Path, required=True, metavar="DIR", help="the folder of the pictures")
    bring.add_argument(
        "--out",
        type=Path,
        default=Path("clicks.csv"),
        metavar="FILE.csv|DIR",
        help="a table for clicks alone, or a folder for files of labelme; nothing is overwritten",
    )
    bring.add_argument(
        "--unlabelled", type=int, choices=(0, 255), help="of label pictures (PNG): the value of pixels without a label"
    )
    example = command(
        "example",
        _example,
        "Write a small folder of clicked pictures, to try everything on.",
        "seminar data example my_photos",
        data,
    )
    example.add_argument("folder", type=Path, metavar="DIR", help="a folder that does not exist yet")
    voc = command(
        "voc",
        _voc,
        "PASCAL VOC 2012 with SBD, clicks and scribbles, as the paper trains on it: download what is not there (3.4 "
        "GB), merge the masks to 10,582 training and 1,449 validation images, and check all of it.",
        "seminar data voc --root data",
        data,
    )
    voc.add_argument(
        "--root",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the archives are or go, and VOCdevkit/VOC2012 below it (or a VOC2012 folder itself)",
    )
    voc.set_defaults(again="; the same command goes on with what is missing")
    voc.add_argument("--clicks", type=Path, metavar="DIR", help="a folder with the two click files")
    voc.add_argument("--scribbles", type=Path, metavar="DIR|ZIP", help="scribbles, a file <id>.xml or <id>.png each")
    voc.add_argument("--no-download", action="store_true", help="take only what is there")
    use = command(
        "predict",
        _predict,
        "Label pictures with a finished training: masks, overlays and the area of each class.",
        "seminar predict 3f2a my_photos --out labelled\n  seminar predict 'best of losses profile=folder' one.jpg",
    )
    naming = (
        "a key or its beginning, 'name=value ...', or 'best of SWEEP name=value ...' (sweeps/SWEEP.yaml, or a file)"
    )
    use.add_argument("training", metavar="RUN", help=naming)
    use.add_argument("pictures", nargs="+", type=Path, metavar="IMAGE|DIR")
    use.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR")
    use.add_argument("--teacher", action="store_true", help="take the teacher instead of the student")
    use.add_argument("--short", type=int, metavar="PIXELS", help="short side to look at (default: the training crop)")
    use.add_argument("--sliding", action="store_true", help="slide a window of the size of the crop over the picture")
    use.add_argument("--device", default="auto")
    take = command(
        "export",
        _export,
        "Hand a finished training on: a folder with its network (a torch program, a state dict, and with --onnx ONNX), "
        "a model card with scores and ten lines that load it without this package, and checksums.",
        "seminar export 3f2a --onnx\n  seminar export 'best of losses profile=folder data_root=my_photos' --onnx",
    )
    take.add_argument("training", metavar="RUN", help=naming)
    take.add_argument("--onnx", action="store_true", help="also ONNX, for onnxruntime and others")
    take.add_argument("--teacher", action="store_true", help="take the teacher instead of the student")
    take.add_argument("--out", type=Path, metavar="DIR", help="default: a folder named by the key")
    command("status", _status, "Show every training that was ever started here.", "seminar status --runs runs")
    return parser


def _train(options: argparse.Namespace) -> int:
    from seminar import recipes
    from seminar.tracking import WandbWatch

    cell = recipes.one(_one_each(options.settings))
    mirror, stopped = WandbWatch(options.wandb, options.runs, artifacts=_artifacts(options)), _signals()
    mirror.cell = cell
    store = Store(options.runs)
    settle = functools.partial(_settle, [cell.stage], store, options)
    return _ensure(cell, store, [_Bar(), mirror], stopped, mirror.record_written, settle)


def _artifacts(options: argparse.Namespace) -> bool:
    """Return whether W&B keeps the weights."""
    if options.artifacts and options.wandb == "disabled":
        raise InputError("--artifacts: W&B would keep the weights, and --wandb disabled turns it off; leave one out")
    return bool(options.artifacts)


def _one_each(arguments: list[str]) -> dict[str, Scalar]:
    """Parse the settings of one training."""
    settings = sweeps.parse_settings(arguments)
    for name, values in settings.items():
        if len(values) > 1:
            raise InputError(f"{name}={','.join(map(str, values))}: one value each; only sweeps take several")
    return {name: values[0] for name, values in settings.items()}


def _cell(options: argparse.Namespace) -> int:
    from seminar import parallel, recipes
    from seminar.tracking import CellRun

    cell, store = recipes.one(_json_settings(options.json)), Store(options.runs)
    leads = parallel.requested()[0] == 0
    run = CellRun(options.wandb if leads else "disabled", options.runs, artifacts=_artifacts(options))
    run.start(cell)
    stopped = _signals()  # after W&B, whose server stops a run by what looks like Ctrl-C
    try:
        # An agent works alone: nobody is there to be asked.
        settle = functools.partial(_settle, [cell.stage], store, options, ask=False)
        return _ensure(cell, store, [_Bar(), run], stopped, on_end=run.finish, settle=settle)
    except Interrupted:
        # Whoever is stopped by a signal must end by it: the agent counts every other end as a failure of the program,
        # and gives up after three.
        run.finish(None)
        signal.signal(stopped[0], signal.SIG_DFL)
        os.kill(os.getpid(), stopped[0])
        raise
    finally:
        run.finish(None)


def _ensure(
    cell: Cell,
    store: Store,
    watches: Sequence[Watch],
    stopped: list[int],
    on_record: Callable[[Stage], None] = lambda _: None,
    settle: Callable[[], None] = lambda: None,
    on_end: Callable[[Record], None] = lambda _: None,
) -> int:
    """Train a cell and its chain, with whatever other processes `torchrun` has started for it; `settle` comes first."""
    from seminar import checked, parallel, train
    from seminar.recipes import pick_device
    from seminar.watch import StopWhen

    if cell.stage.compile and parallel.requested()[1] > 1:
        raise InputError("compile=true: one process only; leave it out with torchrun")
    warnings.simplefilter("default", RuntimeWarning)
    stop = StopWhen(lambda: bool(stopped))
    reported: list[Stage] = []

    def wait(stage: Stage) -> None:
        if stopped:
            raise Interrupted
        if stage not in reported:
            _tell(f"waiting for another process that trains {stage.key}", file=sys.stderr)
            reported.append(stage)

    together = False  # during a training the other processes wait for no message

    def make(stage: Stage, folder: Path, ancillary: Path | None) -> Record:
        nonlocal together
        parallel.broadcast(stage.key)
        together = True
        body = train.train(stage, cell.host, folder, ancillary, [stop, *watches])
        together = False
        return body

    with parallel.joined(pick_device(cell.host.device)):
        if not parallel.leads():
            return train.follow(cell.stage, cell.host, store.root, [stop])
        try:
            settle()
            if store.record(cell.stage.key) is None:
                checked.check([(stage, cell.host) for stage in cell.stage.chain], store)
            record = store.ensure(cell.stage, make, on_wait=wait, on_record=on_record, cell=cell.facts)
        finally:
            if not together:
                parallel.broadcast(None)
    on_end(record)
    _tell(_result(cell.stage, record, store))
    return 0


def _settle(stages: Iterable[Stage], store: Store, options: argparse.Namespace, ask: bool = True) -> None:
    """Keep, or put aside to train them again, finished trainings that another version of the code has made.

    Raises `InputError` where there are such trainings, the command does not say which of the two, and `ask` is true;
    and for trainings whose weights others need and which are not there: of these none can be kept.
    """
    from seminar import outdated

    stages = list(stages)
    lost = outdated.weightless(stages, store)
    found = outdated.find(stages, store, lost if options.retrain else ())
    if lost and not options.retrain:
        many = (
            f"{len(lost)} finished trainings, from which others"
            if len(lost) > 1
            else "a finished training, from which others"
        )
        line = (
            f"{many} are to learn, without weights here (records that were pulled or copied alone?): "
            f"{outdated.shown(lost)}; bring their student.pt and teacher.pt, or train them again with --retrain (make: "
            "RETRAIN=1)"
        )
        if ask:
            raise InputError(line)
        _tell(line, file=sys.stderr)
    if not found:
        return
    what = outdated.describe(found)
    if options.retrain:
        for key in found:
            store.put_aside(key)
        _tell(f"{what}; put aside in {store.root / REPLACED}, to be trained again", file=sys.stderr)
    elif ask and not options.keep:
        raise InputError(
            f"{what}; --retrain (make: RETRAIN=1) trains them again, --keep (KEEP=1) takes them as they are"
        )
    else:
        _tell(f"{what}; kept as they are", file=sys.stderr)


def _signals() -> list[int]:
    """The signals that ask this process to stop, once they come; a second one ends it at once."""
    stopped: list[int] = []

    def take(number: int, _: object) -> None:
        stopped.append(number)
        signal.signal(number, signal.SIG_DFL)
        if _rank() == "0":  # a step that compiles takes minutes; no print, which this may have interrupted
            with suppress(OSError):  # nobody may be reading any more
                os.write(2, b"\nseminar: stopping after this step; once more ends it at once\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, take)
    return stopped


def _json_settings(text: str) -> dict[str, Scalar]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{brief(text)}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f'{brief(text)}: write an object, for example {{"losses": "pce", "seed": 0}}')
    for name, value in settings.items():
        if not sweeps.is_value(value):
            raise InputError(
                f"{plain(name)}={brief(value)}: must be one number of up to {sweeps.DIGITS} digits, one text, true "
                "or false"
            )
    return settings


def _result(stage: Stage, record: Record, store: Store) -> str:
    lines = [f"{stage.label} seed {stage.replicate}: {store.folder(stage.key)}"]
    for role, protocols in record["metrics"].items():
        for protocol, scores in protocols.items():
            miou = "none" if scores["miou"] is None else f"{scores['miou']:.2f} %"
            lines.append(f"  {role:<8} {protocol:<5} mIoU {miou}")
    return "\n".join([*lines, *(f"  note: {note}" for note in record.get("notes", ()))])


class _Bar:
    """A progress bar for one training; quiet when not on a terminal."""

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        self._bar = tqdm(desc=f"{stage.label} seed {stage.seed}", disable=not sys.stderr.isatty(), unit="step")

    def step(self, stage: Stage, done: int, total: int) -> None:
        if self._bar.total is None:
            self._bar.reset(total)
            self._bar.initial = done - 1
        self._bar.n = done - 1
        self._bar.update()

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        miou = line.get("student_miou")
        if miou is not None:
            self._bar.set_postfix_str(f"loss {line['loss']:.3f}, mIoU {miou:.1f} %")

    def end(self, stage: Stage, body: Record | None) -> None:
        self._bar.close()


def _sweep(options: argparse.Namespace) -> int:
    """Plan sweep files and train what is missing; returns the exit code.

    Outdated trainings are settled before planning, since what is put aside is to do again; plans are written before
    training, so that a report knows what is missing.
    """
    from seminar import catalogue, checked, growing, jobs, parallel, recipes

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # as clusters do before a job's time is up
    if parallel.requested()[1] > 1:
        raise InputError("torchrun is for one training: seminar train or seminar cell; a sweep has --workers")
    if options.retrain and options.dry_run:
        raise InputError("--retrain puts trainings aside, --dry-run changes nothing; leave out one of the two")
    if options.margin is not None:
        growing.margin(options.margin)  # the report refuses it as well, but only after the training
    artifacts = _artifacts(options)
    loaded, settings = _requested(options)
    storage = _storage(options)
    executor = pool.executor(options.executor, options.workers, storage)
    choices = _searchers(loaded, options)
    parts = recipes.suite(loaded, settings)
    if options.save_as is not None:
        return _save_sweep(options, settings)
    store = Store(options.runs)
    for reason in (reason for part in parts for reason in part.left_out):
        _tell(f"left out: {reason}")
    grids = [part for part in parts if not part.sweep.is_search and part.cells]
    tunings = _tunings(parts, settings, options.runs)
    _settle(_stages(grids, tunings, store), store, options, ask=not options.dry_run)
    plans = _plans(grids, store, executor)
    searches = _search_plans(tunings, choices, store, executor)
    hosts = {stage.key: cell.host for part in parts for cell in part.cells for stage in cell.stage.chain}
    checked.check_weights(
        [
            *((stage, hosts[stage.key]) for each in plans for stage in each.todo),
            *((stage, each.tuning.own.host) for each in searches if each.left for stage in each.tuning.own.stage.chain),
        ],
        download=not options.dry_run,
    )
    _write_plans([*parts, *(catalogue.Planned(each.sweep, each.reported()) for each in tunings)], options)
    if options.dry_run:
        return 0
    sent = [f"--wandb={options.wandb}"] if options.wandb in ("online", "offline") else []
    report = growing.GrowingReport(_report_arguments(options), sent) if options.report else None
    on_seed = (lambda: None) if report is None else report.grow
    call = jobs.Call(store, executor, options.wandb, storage, _worker_command(options), artifacts, on_seed)
    try:
        failed: list[str] = []
        for grid in plans:
            failed += jobs.run(grid, call)
        for search in searches:
            failed += jobs.run_search(search, call)
    except KeyboardInterrupt:
        if report is not None:
            report.finish()
        raise
    for line in failed:
        _say(line)
    status = 0 if report is None else report.finish()
    return 1 if failed else status


def _sweep_files(options: argparse.Namespace) -> list[str]:
    """Return the sweep files among the words of a command line; the others are settings."""
    return [item for item in options.settings if item.endswith((".yaml", ".yml")) and not _SETTING.match(item)]


def _save_sweep(options: argparse.Namespace, settings: Mapping[str, tuple[Scalar, ...]]) -> int:
    """Write a sweep file with the settings of the command line in it."""
    files = _sweep_files(options)
    if len(files) > 1:
        raise InputError(f"--save-as {options.save_as}: of one sweep file, and there are {len(files)}")
    if options.save_as.suffix not in (".yaml", ".yml"):  # by which `seminar sweep` knows a sweep file
        raise InputError(f"--save-as {options.save_as}: must end in .yaml")
    if options.save_as.is_dir():
        raise InputError(f"--save-as {options.save_as}: is a folder; name a file in it")
    if options.save_as.exists() and sweeps.WRITTEN not in options.save_as.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"--save-as {options.save_as}: exists, and this command did not write it; name another file")
    if not options.save_as.resolve().parent.is_dir():
        raise InputError(f"--save-as {options.save_as}: no such folder; make it first, or name another one")
    text = sweeps.rewrite(Path(files[0]), settings, options.trials)
    write_atomic(options.save_as, lambda file: file.write(text.encode()))
    _tell(f"wrote {options.save_as}; next: wandb sweep {shlex.quote(str(options.save_as))}")
    return 0


def _requested(options: argparse.Namespace) -> tuple[list[sweeps.Sweep], dict[str, tuple[Scalar, ...]]]:
    """Return the sweeps and the settings that a command line names."""
    files = _sweep_files(options)
    if not files:
        raise InputError(
            f"{' '.join(options.settings)}: no sweep file among these; name one, for example sweeps/losses.yaml"
        )
    settings = sweeps.parse_settings([item for item in options.settings if item not in files], options.seeds)
    if options.trials is not None and options.trials < 1:
        raise InputError(f"--trials {options.trials}: at least 1 is needed")
    loaded: dict[str, sweeps.Sweep] = {}
    for file in files:
        sweep = sweeps.load(Path(file)).capped(options.trials)
        if sweep.name in loaded:  # their plans and studies would be one
            raise InputError(f"{file}: a file before it has the name {brief(sweep.name)} as well; write another 'name'")
        loaded[sweep.name] = sweep
    return list(loaded.values()), settings


def _storage(options: argparse.Namespace) -> str | None:
    """Return the URL of the database, if one is given."""
    from seminar import search

    given = options.storage or os.environ.get(pool.STORAGE)
    if options.storage:
        # Records and W&B keep the command line, also that of worker processes.
        shown = search.without_password(options.storage)
        sys.argv[1:] = [item.replace(options.storage, shown) for item in sys.argv[1:]]
        options.storage = shown
    return search.storage_url(given) if given else None


def _searchers(loaded: Sequence[sweeps.Sweep], options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Return the sampler and the pruner of each search, by its name."""
    from seminar import search

    choices = {sweep.name: search.chosen(sweep, options.sampler, options.pruner) for sweep in loaded if sweep.is_search}
    for name in ("sampler", "pruner"):
        if getattr(options, name) is not None and not choices:
            raise InputError(f"--{name} {getattr(options, name)}: no file here is a search (method random or bayes)")
    return choices


def _tunings(parts: Sequence[Planned], settings: Mapping[str, tuple[Scalar, ...]], runs: Path) -> list[Tuning]:
    """Return the tuning jobs of the searches among `parts`; of several parts, those that cannot be searched are left
    out with the reason."""
    from seminar import recipes
    from seminar.trials import Tuning

    found = []
    for part in parts:
        if part.sweep.is_search and part.cells:
            try:
                found.append(Tuning.requested(part.sweep, part.cells[0], settings, runs, recipes.cells))
            except sweeps.LeftOut as error:
                if len(parts) == 1:
                    raise
                _tell(f"left out: {error}")
    return found


def _stages(grids: Sequence[Planned], tunings: Sequence[Tuning], store: Store) -> list[Stage]:
    """Return the stages of all cells, of finished trials, and of what searches report."""
    trials = [trial.key for tuning in tunings for trial in tuning.trials() if store.record(trial.key) is not None]
    cells = [cell for part in grids for cell in part.cells]
    cells += [cell for tuning in tunings for cell in tuning.reported()]
    return [*(cell.stage for cell in cells), *map(store.stage, trials)]


def _plans(grids: Sequence[Planned], store: Store, executor: pool.Executor) -> list[Plan]:
    """Plan all grids together, and print the plan; returns an empty list where there is no grid."""
    from seminar import cost, plan

    if not grids:
        return []
    cells = [cell for part in grids for cell in part.cells]
    sweep = sweeps.together([part.sweep for part in grids])
    found = plan.make_plan(
        sweep, cells, store, executor.workers, executor.elsewhere, cost.IMPORTED if executor.spawns else 0.0
    )
    _tell("\n".join(found.lines()))
    return [found]


def _search_plans(
    tunings: Sequence[Tuning], choices: Mapping[str, tuple[str, str]], store: Store, executor: pool.Executor
) -> list[SearchPlan]:
    """Plan each search with its sampler and pruner, `choices` by its name, and print the plans."""
    from seminar import cost, plan

    found, start = [], cost.IMPORTED if executor.spawns else 0.0
    for tuning in tunings:
        sampler, pruner = choices[tuning.sweep.name]
        found.append(plan.plan_search(tuning, sampler, pruner, store, executor.workers, executor.elsewhere, start))
        _tell("\n".join(found[-1].lines()))
    return found


def _write_plans(planned: Sequence[Planned], options: argparse.Namespace) -> None:
    """Write what was planned into the folder of runs."""
    from seminar import catalogue

    try:
        catalogue.write(options.runs, planned)
    except OSError:
        if not options.dry_run:  # a plan alone can be looked at where nothing may be written
            raise


def _worker_command(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the command line that does the work of this call's sweep as one worker, but for the database: its URL is
    in the environment."""
    given = {name: getattr(options, name) for name in ("seeds", "trials", "sampler", "pruner", "wandb")}
    given |= {"runs": options.runs.resolve(), "workers": 0}
    rest = [f"--{name}={value}" for name, value in given.items() if value is not None]
    rest += ["--artifacts"] if options.artifacts else []
    # Whether old trainings are kept was settled by the call that plans.
    return (sys.executable, "-m", "seminar", "sweep", *options.settings, *rest, "--keep")


def _report_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments of `python -m analysis` for the report of this call's sweep.

    With several sweep files everything that was planned is shown.
    """
    files = _sweep_files(options)
    given = {"runs": options.runs, "seeds": options.seeds, "out": options.out, "margin": options.margin}
    settings = [item for item in options.settings if item not in files or len(files) == 1]
    return [*settings, *(f"--{name}={value}" for name, value in given.items() if value is not None)]


def _pull(options: argparse.Namespace) -> int:
    from seminar.wandb_pull import pull

    found = pull(options.source, Store(options.runs))
    _tell(f"{len(found.new)} trainings are new in {options.runs}, {len(found.known)} were there already")
    if found.weights:
        _tell(f"the weights of {len(found.weights)} came with them")
    if found.unfinished:
        _tell(f"{found.unfinished} runs have no finished training (or are reports) and were left out")
    for reason in found.refused:
        _tell(f"left out: {reason}")
    for key in sorted(set(found.differs)):
        _tell(f"{key}: several runs of it differ; the one that finished first (or was here) counts")
    return 0


def _report(options: argparse.Namespace) -> int:
    from seminar.tracking import ReportRun

    files: list[Path] = []
    for path in options.files:
        inside = sorted(each for each in path.iterdir() if not each.name.startswith(".")) if path.is_dir() else [path]
        files += [each for each in inside if each.is_file()]
        if not path.exists():
            raise InputError(f"{path}: not there; `make report` writes reports")
    twice = [name for name, count in Counter(path.name for path in files).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: several of these files have this name; send them one by one")
    if not files:
        raise InputError(f"{' '.join(map(str, options.files))}: no file here; `make report` writes reports")
    _tell(ReportRun(options.wandb, options.runs).send(options.name or files[0].resolve().parent.name, files))
    return 0


def _check(options: argparse.Namespace) -> int:
    folders = [item for item in options.settings if "=" not in item]
    if len(folders) > 1:
        raise InputError(f"{' '.join(folders)}: one folder")
    settings = _one_each([item for item in options.settings if "=" in item])
    if folders:
        settings = {"profile": "folder", "data_root": folders[0], **settings}
    if "data_root" in settings:
        root = Path(str(settings["data_root"]))
        pictures = root / "images" if (root / "images").is_dir() else root
        if options.sheet.resolve().is_relative_to(pictures.resolve()):
            raise InputError(f"--sheet {options.sheet}: would lie among the pictures of {pictures}; name another place")
    return _look(settings, options.sheet)


def _look(settings: dict[str, Scalar], sheet: Path, notes: Sequence[str] = ()) -> int:
    """Print what is in a data set and draw its contact sheet, or print all that is wrong with it."""
    from seminar import inspection

    text = sheet.with_suffix(".txt")
    if sheet.suffix.lower() != ".png":
        raise InputError(f"--sheet {sheet}: must end in .png")
    if not sheet.parent.is_dir():
        raise InputError(f"--sheet {sheet}: no folder {sheet.parent}")
    if (sheet.exists() or text.exists()) and not (text.exists() and text.read_bytes().startswith(LOOKED.encode())):
        raise InputError(
            f"--sheet {sheet}: would overwrite it or {text.name}, which this command did not write; name another file"
        )
    found = inspection.contents(settings)
    for line in found.wrong:
        _say(line)
    if found.wrong:
        return 2
    lines = [*found.lines(), *(f"note: {note}" for note in (*notes, *found.doubts()))]
    _tell("\n".join(lines))
    picture = inspection.contact_sheet(found)
    given = " ".join(f"{name}={value}" for name, value in settings.items())
    whole = printable("\n".join([f"{LOOKED} {given}", "", *lines, ""]))
    write_atomic(text, lambda file: file.write(whole.encode()))
    write_atomic(sheet, lambda file: picture.save(file, "PNG"))
    _tell(f"wrote {sheet} and {text}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from seminar.data.convert import convert

    _tell("\n".join(convert(options.files, options.images, options.out, options.unlabelled)))
    return 0


def _example(options: argparse.Namespace) -> int:
    from seminar.data.example import write

    _tell(write(options.folder))
    return 0


def _voc(options: argparse.Namespace) -> int:
    from seminar.data.fetch_voc import fetch

    merged = fetch(options.root, clicks=options.clicks, scribbles=options.scribbles, download=not options.no_download)
    settings: dict[str, Scalar] = {"profile": "voc", "data_root": str(merged.root)}
    status = _look(settings, merged.root / "contact-sheet.png", merged.notes)
    commands = [f"make ablation-losses PROFILE=voc data_root={merged.root}"]
    if merged.scribbles is not None and status == 0:
        settings |= {"annotation": "scribbles", "data_scribbles": str(merged.scribbles)}
        status = _look(settings, merged.root / "contact-sheet-scribbles.png")
        commands.append(
            f"make ablation-scribbles PROFILE=voc data_root={merged.root} data_scribbles={merged.scribbles}"
        )
    if status == 0:
        _tell("\n".join(["ready:", *commands]))
    return status


def _predict(options: argparse.Namespace) -> int:
    from seminar import predict

    store = Store(options.runs)
    if options.short is not None and not 1 <= options.short <= SHORT_MAX:
        raise InputError(f"--short {options.short}: from 1 to {SHORT_MAX} pixels")
    key = _named(options.training, store)
    images = predict.pictures(options.pictures, options.out)
    net = predict.predictor(store, key, options.device, options.teacher, options.short, options.sliding)
    failed = list(predict.label(net, images, options.out))
    unread = predict.unreadable(options.pictures)
    for line in (*failed, *unread, *predict.linked(options.pictures)):
        _say(line)
    count = len(images) - len(failed)
    _tell(f"{count} picture{'' if count == 1 else 's'} labelled by {key} ({store.stage(key).title}) in {options.out}")
    return 1 if failed or unread else 0


def _export(options: argparse.Namespace) -> int:
    from seminar.export import export

    store = Store(options.runs)
    key = _named(options.training, store)
    _tell("\n".join(export(store, key, options.out, options.onnx, options.teacher)))
    return 0


def _named(text: str, store: Store) -> str:
    """Return the key of a training that is named by its key, its settings, or as the best of a sweep."""
    from seminar import recipes

    try:
        request = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{text!r}: {error}") from None
    if request[:2] != ["best", "of"]:
        if "=" not in text:
            return store.find(text)
        return recipes.one(_one_each(request)).stage.key
    if len(request) < 3 or "=" in request[2]:
        raise InputError(f"{text!r}: the best of which sweep? For example 'best of losses'")
    name, settings = request[2], request[3:]
    cells = recipes.cells(sweeps.load(_sweep_file(text, name)), sweeps.parse_settings(settings))
    scores: dict[str, float] = {}
    for cell in cells:
        miou = score(store.record(cell.stage.key))
        if miou is not None:
            scores[cell.stage.key] = miou
    if not scores:
        finished = list(dict.fromkeys(cell.stage.key for cell in cells if store.record(cell.stage.key) is not None))
        if len(finished) == 1:  # the best of one needs no score
            return finished[0]
        which = f"{len(finished)} of its {len(cells)}" if finished else f"none of its {len(cells)}"
        none = " and none has a score (no validation image has a mask); name one by its key" if finished else ""
        raise InputError(f"{text!r}: {which} trainings {'are' if finished else 'is'} finished in {store.root}{none}")
    return max(scores, key=lambda key: scores[key])


def _sweep_file(text: str, name: str) -> Path:
    """Return the file of a sweep that is named as a path or as one of `sweeps/`; `text`: the whole request."""
    here = Path("sweeps")
    for path in (here / f"{name}.yaml", here / name, Path(name)):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    known = [path.stem for path in here.glob("*.yaml")]
    if not known:
        raise InputError(f"{text!r}: no folder sweeps here; go where it is, or write 'best of FILE.yaml'")
    raise unknown("sweep", name, known)


def _status(options: argparse.Namespace) -> int:
    store = Store(options.runs)
    keys = store.keys()
    if not keys:
        _tell(f"no training was started in {options.runs}")
        return 0
    counts: Counter[str] = Counter()
    stages: dict[str, Stage] = {}
    damaged: dict[str, InputError] = {}
    for key in keys:
        try:
            stages[key] = store.stage(key)
        except InputError as error:
            damaged[key] = error
    differences = _differences(stages)
    _tell(f"{'key':<16}  {'status':<8} {'epochs':>9}  {'mIoU %':>6}  {'time':>7}  what")
    for key in keys:
        if key in stages:
            try:
                _tell(_status_line(store, key, stages[key], counts) + differences[key])
            except InputError as error:
                damaged[key] = error
        if key in damaged:
            counts["damaged"] += 1
            _tell(f"{key:<16}  damaged  {damaged[key]}")
    _tell(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return 0


def _differences(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return, for stages that would read alike, the settings in which they differ, as ` alpha=0.9 crop=64`."""
    alike: dict[str, list[str]] = {}
    for key, stage in stages.items():
        alike.setdefault(stage.title, []).append(key)
    result: dict[str, str] = {}
    for keys in alike.values():
        names = {name for key in keys for name in stages[key].settings}
        varied = {name for name in names if len({repr(stages[key].settings.get(name)) for key in keys}) > 1}
        for key in keys:
            shown = stages[key].settings.items()
            result[key] = "".join(f" {name}={value}" for name, value in shown if name in varied)
    return result


def _status_line(store: Store, key: str, stage: Stage, counts: Counter[str]) -> str:
    status = store.status(key)
    counts[status] += 1
    record, curve = store.record(key), store.curve(key)
    failure = store.failure(key) if status == "failed" else None
    miou = score(record)
    shown = "-" if miou is None else f"{miou:.2f}"
    seconds = f"{curve[-1]['seconds']:.0f} s" if curve else "-"
    what = stage.title
    if failure is not None:
        what += f": {' '.join(failure['error'].split())}"
    return f"{key:<16}  {status:<8} {len(curve):>4}/{stage.epochs:<4}  {shown:>6}  {seconds:>7}  {what}"


if __name__ == "__main__":
    sys.exit(main())
