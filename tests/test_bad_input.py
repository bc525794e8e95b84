"""What people get wrong: each is refused with exit code 2 and one line that names the thing and what to do.

One row for each: what is wrong, how to make it so (in a folder with a copy of `sweeps/`, a folder `photos` of four
clicked pictures, and a finished training in `runs`), the command, and what the line must hold.
"""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.__main__ import main as analysis
from seminar import catalogue as plans
from seminar import recipes, sweep
from tests.conftest import ROOT, seminar_here
from tests.records import finish

TOY = "profile=toy losses=pce epochs=1 data_train=4 data_val=2 --wandb disabled"
PHOTOS = (
    "profile=folder data_root=photos losses=pce epochs=1 crop=32 batch_size=2 backbone=small_resnet pretrained=none "
)
PHOTOS += "freeze=none --wandb disabled"
SWEEP = "seminar sweep sweeps/losses.yaml profile=toy losses=pce seed=0 --dry-run"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every row starts."""
    place = tmp_path_factory.mktemp("template")
    shutil.copytree(ROOT / "sweeps", place / "sweeps")
    (place / "photos" / "images").mkdir(parents=True)
    (place / "photos" / "masks").mkdir()
    for number, name in enumerate("abcd"):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 36, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / "photos" / "images" / f"{name}.png")
        Image.fromarray(np.zeros((24, 36), np.uint8)).save(place / "photos" / "masks" / f"{name}.png")
    rows = [f"{name},{x},5,{cls}" for name in "abcd" for x, cls in ((3, "background"), (20, "cat"))]
    (place / "photos" / "clicks.csv").write_text("\n".join(["image,x,y,class", *rows]) + "\n")
    (place / "photos" / "classes.txt").write_text("background\ncat\n")
    return place


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "here"
    shutil.copytree(template, place)
    monkeypatch.chdir(place)
    return place


def trained() -> str:
    """A finished training of the toy profile, planned and made up; returns its key."""
    (planned,) = recipes.suite(
        [sweep.load(Path("sweeps/losses.yaml"))], {"profile": ("toy",), "losses": ("pce",), "seed": (0,)}
    )
    plans.write(Path("runs"), [planned])
    finish(planned.cells[0].stage, 40.0)
    return planned.cells[0].stage.key


def text(path: str, content: str | bytes) -> Callable[[], None]:
    """Write a file."""

    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def clicks(row: str) -> Callable[[], None]:
    """Add a row to the clicks."""

    def add() -> None:
        path = Path("photos/clicks.csv")
        path.write_text(path.read_text() + row + "\n")

    return add


def mask(values: object, name: str = "a") -> Callable[[], None]:
    """Replace a mask by these values."""
    return lambda: Image.fromarray(np.array(values, np.uint8)).save(f"photos/masks/{name}.png")


def spoiled(name: str, change: Callable[[str], str]) -> Callable[[], None]:
    """Change a file of the finished training."""

    def spoil() -> None:
        path = Path("runs") / trained() / name
        path.write_text(change(path.read_text()))

    return spoil


def yaml(body: str, name: str = "mine") -> Callable[[], None]:
    return text(f"{name}.yaml", body)


def nothing() -> None: ...


def foreign_weights() -> None:
    torch.save({"conv.weight": torch.zeros(1)}, "w.pth")


MINE = "seminar sweep mine.yaml profile=toy --dry-run"
GRID = "method: grid\nparameters:\n  losses: {values: [pce]}\n"
ROWS: list[tuple[str, Callable[[], object], str, str]] = [
    # Settings.
    ("a setting that does not exist", nothing, f"seminar train {TOY} alhpa=0.9", "did you mean 'alpha'?"),
    ("a setting without effect", nothing, f"seminar train {TOY} alpha=0.9", "alpha=0.9: has no effect"),
    ("no value", nothing, f"seminar train {TOY} lr=", "'lr=': write name=value"),
    ("no name", nothing, f"seminar train {TOY} 0.9", "'0.9': write name=value"),
    ("a setting twice", nothing, f"seminar train {TOY} lr=0.1 lr=0.2", "'lr' is given twice"),
    ("two values in one training", nothing, f"seminar train {TOY} seed=0,1", "seed=0,1: one value each"),
    ("a number as a word", nothing, f"seminar train {TOY} lr=fast", "lr='fast'"),
    ("a negative rate", nothing, f"seminar train {TOY} lr=-1", "lr=-1"),
    ("an infinite rate", nothing, f"seminar train {TOY} lr=.inf", "lr=inf"),
    (
        "alpha above 1",
        nothing,
        f"seminar train {TOY} losses=pce+pcons alpha=1.5".replace("losses=pce ", ""),
        "alpha=1.5",
    ),
    ("an unknown loss", nothing, "seminar train profile=toy losses=pce+crff", "did you mean 'crf'?"),
    ("a loss twice", nothing, "seminar train profile=toy losses=pce+pce", "a term is named twice"),
    ("no loss left", nothing, f"seminar train {TOY} lambda_pce=0", "nothing to learn from"),
    ("an unknown profile", nothing, "seminar train profile=creature", "did you mean 'creatures'?"),
    ("an unknown data set", nothing, "seminar train profile=toy data=creature", "did you mean 'creatures'?"),
    ("an unknown network", nothing, "seminar train profile=toy backbone=resnet50", "choose from"),
    ("an unknown optimiser", nothing, "seminar train profile=toy optimizer=adam", "did you mean 'adamw'?"),
    ("an unknown metric", nothing, "seminar train profile=toy metrics=miou+dice", "metrics='dice'"),
    ("mIoU left out", nothing, "seminar train profile=toy metrics=boundary", "write metrics=miou+boundary"),
    ("a seed that is none", nothing, f"seminar train {TOY} seed=-1", "a seed is a whole number"),
    ("modules that are none", nothing, "seminar train profile=toy modules=1.5", "modules=1.5"),
    ("a chain without end", nothing, "seminar train profile=toy modules=51", "modules=51: K, the number"),
    ("a number without end", nothing, f"seminar train profile=toy epochs={'9' * 400}", "is not a plain number"),
    ("a crop that fits nowhere", nothing, f"seminar train {TOY} crop={10**17}", "less than or equal to 10000"),
    ("a scale that fits nowhere", nothing, f"seminar train {TOY} scale_max={10**17}", "less than or equal to 10"),
    ("images that fit nowhere", nothing, f"seminar train {TOY} data_size={10**17}", "less than or equal to 10000"),
    ("a device that is none", nothing, f"seminar train {TOY} device=gpu", "device='gpu'"),
    ("a batch of one", nothing, f"seminar train {TOY} batch_size=1", "batch_size=1"),
    ("a tiny crop", nothing, f"seminar train {TOY} crop=8", "crop=8"),
    ("weights for a network without", nothing, "seminar train profile=toy pretrained=imagenet", "no ImageNet weights"),
    (
        "weights that are missing",
        nothing,
        "seminar train profile=toy backbone=mobilenet_v2 pretrained=imagenet weights=no.pth",
        "weights=no.pth: No such file",
    ),
    # Sweep files.
    ("a sweep file that is missing", nothing, "seminar sweep nowhere.yaml", "nowhere.yaml: no such file"),
    ("no sweep file at all", nothing, "seminar sweep profile=toy", "no sweep file among these"),
    ("YAML that is none", yaml("method: [grid"), MINE, "mine.yaml: not valid YAML"),
    ("a list as a sweep", yaml("- a\n"), MINE, "expected a mapping"),
    ("an unknown key", yaml(GRID + "paramters: {}\n"), MINE, "did you mean 'parameters'?"),
    ("an unknown method", yaml(GRID.replace("grid", "gird")), MINE, "did you mean 'grid'?"),
    ("an unknown parameter", yaml(GRID.replace("losses", "lossess")), MINE, "did you mean 'losses'?"),
    ("a parameter without values", yaml("method: grid\nparameters:\n  losses: [pce]\n"), MINE, "either 'value' or"),
    ("a grid with trials", yaml(GRID + "run_cap: 3\n"), MINE, "run_cap: only for method random or bayes"),
    (
        "a search without ranges",
        yaml(GRID.replace("grid", "random") + "run_cap: 3\n"),
        MINE,
        "no parameter has a range",
    ),
    (
        "a search on the reported images",
        yaml("method: random\nrun_cap: 2\nparameters:\n  lr: {min: 0.1, max: 0.2}\n"),
        MINE,
        "needs split=tuning",
    ),
    (
        "bounds the wrong way round",
        yaml("method: random\nrun_cap: 2\nparameters:\n  lr: {min: 0.2, max: 0.1}\n"),
        MINE,
        "min must be below max",
    ),
    ("an alias", yaml("method: grid\nparameters:\n  lr: &a {value: 0.1}\n  alpha: *a\n"), MINE, "it has the alias *a"),
    ("a key that is a list", yaml("? [a, b]\n: 3\n" + GRID), MINE, "a key is a list or a mapping; write a name"),
    ("two sweeps of one name", yaml("name: losses\n" + GRID), f"{MINE} sweeps/losses.yaml", "'losses' as well; write"),
    ("an option that does not exist", nothing, f"{SWEEP} --wrokers 2", "--wrokers; see seminar --help"),
    ("workers in words", nothing, f"{SWEEP} --workers two", "invalid int value: 'two'; see seminar sweep --help"),
    ("an option that reports lack", nothing, "analysis --workers 2", "--workers; see python -m analysis --help"),
    ("no seeds", nothing, f"{SWEEP.replace(' seed=0', '')} --seeds 0", "at least 1"),
    ("seeds twice", nothing, f"{SWEEP} --seeds 3", "give one of the two"),
    ("a sampler for a grid", nothing, f"{SWEEP} --sampler tpe", "no file here is a search"),
    ("no trials", nothing, f"{SWEEP} --trials 0", "--trials 0: at least 1"),
    ("workers below 0", nothing, f"{SWEEP} --workers -1", "--workers -1"),
    # Databases.
    ("SQLite", nothing, f"{SWEEP} --storage sqlite:///a.db", "SQLite hands one trial to two workers"),
    ("a database that is none", nothing, f"{SWEEP} --storage here", "--storage: that is no URL"),
    ("another database", nothing, f"{SWEEP} --storage oracle://h/d", "'oracle' is none of"),
    ("a password with signs", nothing, f"{SWEEP} --storage postgresql://me:a@b/c@h/d", "write %40 for @, %2F for /"),
    # Folders of photos.
    (
        "a folder that is missing",
        nothing,
        f"seminar train {PHOTOS.replace('=photos', '=nowhere')}",
        "nowhere: not found",
    ),
    (
        "a click outside",
        clicks("a,400,5,cat"),
        f"seminar train {PHOTOS}",
        "a: click x=400 y=5 (cat) is outside the 36x24",
    ),
    (
        "a click on a picture that is missing",
        clicks("z,4,5,cat"),
        f"seminar train {PHOTOS}",
        "clicks.csv: no image goes by the name 'z'",
    ),
    ("a click of an unknown class", clicks("a,4,5,cta"), f"seminar train {PHOTOS}", "did you mean 'cat'?"),
    (
        "a click without a number",
        clicks("a,left,5,cat"),
        f"seminar train {PHOTOS}",
        "clicks.csv: line 10: expected image",
    ),
    (
        "a picture that is none",
        text("photos/images/a.png", b"GIF?"),
        f"seminar train {PHOTOS}",
        "no known image format",
    ),
    (
        "a picture that is cut off",
        lambda: text("photos/images/a.png", Path("photos/images/a.png").read_bytes()[:300])(),
        f"seminar train {PHOTOS}",
        "a.png: unreadable image",
    ),
    (
        "a picture with a line break in its name",
        lambda: shutil.copy("photos/images/a.png", "photos/images/a\nseminar: done.png"),
        f"seminar train {PHOTOS}",
        r"a\nseminar: done.png: the name holds a line break; rename it",
    ),
    (
        "a PostScript program",
        text("photos/images/a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 8\n"),
        f"seminar train {PHOTOS}",
        "no known image format",
    ),
    ("a mask of another size", mask(np.zeros((5, 5))), f"seminar train {PHOTOS}", "masks/a.png: has 5x5 pixels"),
    ("a value without a class", mask(np.full((24, 36), 9)), f"seminar train {PHOTOS}", "masks/a.png: value 9"),
    ("no clicks", lambda: Path("photos/clicks.csv").unlink(), f"seminar train {PHOTOS}", "photos: none of 4 images"),
    # Records, curves, plans and weights.
    (
        "a record of three fields",
        spoiled("record.json", lambda _: '{"key": "a", "recipe": 6, "stage": {}}'),
        SWEEP,
        "record.json: damaged",
    ),
    (
        "an edited score",
        spoiled("record.json", lambda t: t.replace('"miou": 40.0', '"miou": 99.0')),
        SWEEP,
        "the record says student mIoU 99.00",
    ),
    (
        "a record without its curve",
        spoiled("metrics.jsonl", lambda _: ""),
        SWEEP,
        "cannot be checked against its curve",
    ),
    (
        "a damaged plan",
        lambda: (trained(), Path("runs/plans/losses.json").write_text("{}")),
        "analysis table3 profile=toy losses=pce",
        "losses.json: damaged; delete it",
    ),
    ("a training that is none", trained, "seminar predict zzz photos", "'zzz': no training begins so"),
    (
        "weights that are missing in a training",
        trained,
        "seminar predict 'losses=pce profile=toy' photos",
        "student.pt: not there",
    ),
    ("an export of nothing", trained, "seminar export 'losses=pce profile=toy'", "student.pt: not there"),
    ("a report that is none", nothing, "analysis table33", "choose from"),
    ("a report of nothing", nothing, "analysis table3", "nothing of it is planned or trained"),
    ("a pull from nowhere", nothing, "seminar pull nowhere", "neither a folder nor a W&B project"),
    ("JSON that is none", nothing, "seminar cell '{losses'", "not JSON"),
    ("JSON that is nested too deep", nothing, f"seminar cell '{'[' * 100_000}'", "not JSON"),
    ("a list as a cell", nothing, "seminar cell '[1]'", "write an object"),
    (
        "a sheet among the pictures",
        nothing,
        "seminar data check photos --sheet photos/images/x.png",
        "would lie among the pictures",
    ),
    ("a folder that exists", nothing, "seminar data example photos", "photos: exists already"),
]


@pytest.mark.parametrize(("make", "command", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_bad_input_is_one_line(make: Callable[[], object], command: str, expected: str, here: Path) -> None:
    make()
    # An absolute path: this process remembers the data sets that it has opened.
    program, *arguments = shlex.split(command.replace("data_root=photos", f"data_root={here / 'photos'}"))
    out, errors = io.StringIO(), io.StringIO()
    if program == "analysis":
        with redirect_stdout(out), redirect_stderr(errors):
            try:
                code = analysis(arguments)
            except SystemExit as ended:  # by argparse
                code = ended.code  # type: ignore[assignment]
        assert code == 2
        lines = errors.getvalue().splitlines()
    else:
        if program != "seminar":
            arguments = ["train", program, *arguments]
        lines = seminar_here(*arguments, code=2).stderr.splitlines()
    (line,) = lines
    assert expected in line
    assert "Traceback" not in line
    assert len(line) < 1200


def test_the_table_is_long_and_names_each_thing_once() -> None:
    names = [row[0] for row in ROWS]
    assert len(names) == len(set(names)) >= 60
