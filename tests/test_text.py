"""Names and texts of others: as paths, on terminals, in spreadsheets, in figures; and passwords."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import tables
from analysis.__main__ import main as analysis
from analysis.tables import Column, Table
from seminar import crf, pool, presets, recipes, search
from seminar.catalogue import Cell
from seminar.display import Display
from seminar.jobs import Call
from seminar.spec import InputError
from seminar.store import Store
from seminar.text import brief, file_name, one_line_warnings, printable, spreadsheet
from tests.conftest import ROOT, seminar_here
from tests.records import finish

KNOWN = sorted({*recipes.known_settings(), "profile", "variant", "split"})
ORDERS = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe"
NAMES = [
    "../../../x",
    "a/b",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a\\b",
    "x" * 400,
    "con\x00trol",
    ORDERS,
    "caf\u00e9",
    "a b",
]


def test_every_name_is_a_file_name_of_its_own(tmp_path: Path) -> None:
    found = [file_name(name) for name in NAMES]
    assert len(set(found)) == len(NAMES)
    for name in found:
        (tmp_path / name).write_text("")
        assert (tmp_path / name).parent == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(found)
    assert file_name("sweep_7-b") == "sweep_7-b"


def test_signs_that_are_orders_are_written_out() -> None:
    assert printable(ORDERS) == r"\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe"
    assert printable("caf\u00e9 \u6c34 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \N{FAMILY}\nmore") == (
        "caf\u00e9 \u6c34 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \N{FAMILY}\nmore"
    )
    assert printable("\udcff") == r"\udcff", "of a file name that is not in UTF-8"
    assert len(brief("x" * 10**6)) < 300


@pytest.mark.parametrize("name", ["../../../x", "a/b", ORDERS])
@pytest.mark.parametrize("method", ["grid", "random"])
def test_a_sweep_may_have_any_name_and_stays_in_its_folder(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "one" / "two" / "three"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    content = {"name": name, "method": method, "parameters": {"profile": {"value": "toy"}, "seed": {"value": 0}}}
    content["parameters"] |= {"losses": {"value": "pce"}, "epochs": {"value": 1}, "data_train": {"value": 4}}  # type: ignore[index]
    if method == "random":
        content |= {"run_cap": 1}
        content["parameters"] |= {"lr": {"min": 0.01, "max": 0.1}, "split": {"value": "tuning"}}  # type: ignore[index]
    Path("mine.yaml").write_text(json.dumps(content))
    said = seminar_here("sweep", "mine.yaml", "--seeds", "1", "--workers", "0", "--wandb", "disabled")
    assert analysis(["mine.yaml", "--seeds", "1"]) == 0
    assert not set(said.stdout + said.stderr) & set("\x1b\x07\r\x9b\u202e")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(place)]
    assert not outside
    for path in place.rglob("*.md"):
        assert not set(path.read_text()) & set("\x1b\x07\r\x9b\u202e"), path


def test_texts_of_records_give_no_orders_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: Callable[..., Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = cell(losses="pce").stage.model_copy(update={"backbone": f"net{ORDERS}"})
    finish(stage, 40.0)
    failed = cell(losses="pce", seed=1).stage
    folder = Path("runs") / failed.key
    folder.mkdir()
    (folder / "stage.json").write_text(failed.canonical())
    (folder / "failure.json").write_text(json.dumps({"error": f"a loss\n{ORDERS}"}))
    shown = seminar_here("status").stdout
    assert r"net\x1b]0;owned" in shown
    assert not set(shown) & set("\x1b\x07\r\x9b\u202e")
    assert len(shown.splitlines()) == 4
    assert analysis([f"profile={ORDERS}"]) == 2
    assert not set(capsys.readouterr().err) & set("\x1b\x07\r\x9b\u202e")
    assert Store(Path("runs")).record(stage.key) is not None


def test_progress_gives_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display({}, 1, 1)
    for event in (("begin", 0, "k", ORDERS, 0.0), ("failed", 0, "k", f"name{ORDERS}", f"error{ORDERS}")):
        display.show(event)
    display.close()
    shown = capsys.readouterr().err + "".join(display.failed)
    assert r"name\x1b]0;owned" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")


def test_tables_hold_no_orders_and_no_formulas() -> None:
    cells = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", ORDERS, "pce+crf", "a=b"]
    table = Table(f"t{ORDERS}", (Column("=head", right=False), Column("n")), tuple((text, -1.5) for text in cells))
    text = tables.comma_separated(table)
    rows = list(csv.reader(text.splitlines()))
    assert all(not value.startswith(("=", "+", "@", "\t", "\r")) for row in rows for value in row)
    assert [row[1] for row in rows[1:]] == ["-1.5"] * len(cells), "numbers stay numbers"
    assert [row[0] for row in rows[-2:]] == ["pce+crf", "a=b"]
    assert spreadsheet("-2+3") == "'-2+3"
    for wide in ("\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "\n=1"):
        assert spreadsheet(wide) == f"'{wide}"
    signs = tables.latex(Table('a "b" c', (Column("$x$ ~~y~~"),), ()))
    assert r"a \char34{}b\char34{} c" in signs, "in every encoding of fonts"
    assert r"\$x\$" in signs
    assert r"\$x\$ \~\~y\~\~" in tables.markdown(Table("t", (Column("$x$ ~~y~~"),), ()))
    for made in (text, tables.markdown(table), tables.latex(table)):
        assert not set(made) & set("\x1b\x07\r\x9b\u202e")


def test_settings_are_read_back_from_a_csv_as_they_are(tmp_path: Path) -> None:
    columns = (Column("losses", right=False), Column("alpha", exact=True), Column("lr", exact=True))
    table = Table("t", columns, (("pce+crf", 0.97, -1e-7), ("pce", 0.9, 3)))
    (tmp_path / "t.csv").write_text(tables.comma_separated(table))
    read = pd.read_csv(tmp_path / "t.csv")
    assert read["losses"].tolist() == ["pce+crf", "pce"]
    assert read["alpha"].tolist() == [0.97, 0.9]
    assert read["lr"].tolist() == [-1e-7, 3.0]


def test_a_dollar_in_a_name_is_no_formula() -> None:
    from analysis.figures.style import saved, set_up

    @saved
    def draw(figure, title):  # type: ignore[no-untyped-def]
        set_up(figure, 3, 2, title)
        axes = figure.subplots()
        axes.set_title(r"$\frac{$")
        axes.plot([0, 1], [0, 1], label="cost $ of $$ \\")
        axes.legend()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(f"100 $ and {ORDERS}")["png"].startswith(b"\x89PNG")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)
ONE = "parameters: {seed: {value: 0}}\n"
SWEEPS = {
    "aliases": ("name: x\nmethod: grid\nparameters:\n  seed: &s {value: 0}\n  epochs: *s\n", "it has the alias *s"),
    "a billion laughs": (f"name: x\nmethod: grid\n{LAUGHS}parameters: {{seed: {{values: *i}}}}\n", "has the alias *a"),
    "deep": ("name: " + "[" * 1500 + "]" * 1500, "it is nested too deep"),
    "long": ("#" * 2_000_000, "2,000,000 signs, more than the 1,000,000 of any sweep file"),
    "a long value": (
        f"method: grid\nparameters: {{seed: {{values: [[{'1, ' * 10_000}]]}}}}\n",
        "must be one number of up to 18 digits, one text, true or false",
    ),
    "a long list where a number belongs": (f"method: random\nrun_cap: [{'1, ' * 10_000}]\n{ONE}", "run_cap=[1, 1"),
    "a long list as a bound": (
        f"method: random\nrun_cap: 2\nparameters: {{lr: {{min: [{'1, ' * 10_000}], max: 2}}}}\n",
        "has the bound [1, 1",
    ),
    "a long number": (
        f"method: grid\nparameters: {{epochs: {{value: {'9' * 400}}}}}\n",
        "must be one number of up to 18 digits",
    ),
    "a long text": (f"method: grid\nparameters: {{losses: {{value: {'x+' * 10_000}y}}}}\n", "losses='x+x"),
    "a long date for a path": (
        f"method: grid\nparameters: {{data_root: {{value: 0x{'1' * 1000}}}}}\n",
        "write it in quotes",
    ),
    "a name that is none": (
        "name: [a]\nmethod: grid\nparameters: {seed: {value: 0}}\n",
        "name=['a']: must be text; put it in quotes",
    ),
}


@pytest.mark.parametrize("kind", SWEEPS)
def test_a_sweep_file_cannot_fill_memory_or_screen(kind: str, tmp_path: Path) -> None:
    content, message = SWEEPS[kind]
    (tmp_path / "mine.yaml").write_text(content)
    errors = seminar_here("sweep", str(tmp_path / "mine.yaml"), "profile=toy", "--dry-run", code=2).stderr
    assert message in errors
    assert len(errors) < 600
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", ["a\nsweep b: done", "a\r\n\tsweep b: done", "a\n\nsweep b: done"])
def test_a_name_cannot_add_lines_to_what_is_printed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"name": name, "description": name, "method": "grid", "parameters": {"seed": {"value": 0}}}
    Path("mine.yaml").write_text(json.dumps(content))
    given = ["profile=toy", "losses=pce", "--dry-run"]
    (*_, first, _, _, _) = seminar_here("sweep", "mine.yaml", *given).stdout.splitlines()
    assert first == "sweep a sweep b: done: a sweep b: done"
    content["parameters"]["alpha"] = {"value": f"0.9{name}"}  # type: ignore[index]
    Path("mine.yaml").write_text(json.dumps(content))
    (line,) = seminar_here("sweep", "mine.yaml", *given, code=2).stderr.splitlines()
    assert "has no effect" in line


@pytest.mark.parametrize("setting", KNOWN)
def test_no_value_of_any_setting_fills_the_screen(setting: str) -> None:
    """Nor does it end in a traceback, before there is a training."""
    for value in ("x" * 5000, "a\nb", "\ud800", 10**17, -(10**17), 1e308, float("inf"), True, "../../x"):
        message = ""
        try:
            recipes.one({"profile": "toy", "losses": "pce+pseudo", setting: value})
        except (InputError, OSError) as error:
            message = str(error)
        assert len(message) < 1500
        assert "\n" not in message


PROFILES = {
    "none": ("[", "not valid YAML"),
    "a list": ("- a", "write one setting a line"),
    "aliases": ("a: &a 1\nb: *a", "it has the alias *a"),
    "a setting twice": ("lr: 0.1\nlr: 0.2", "the key 'lr' stands twice"),
    "a list as a value": ("lr: [0.1]", "lr=[0.1]: must be one number"),
    "tuning that is none": ("tuning: 3", "tuning=3: write settings below it"),
    "a list in tuning": ("tuning: {lr: [0.1]}", "lr=[0.1]: must be one number"),
    "like none": ("like: creature", "like='creature'"),
    "like itself": ("like: mine", "like='mine'"),
}


@pytest.mark.parametrize("kind", PROFILES)
def test_a_profile_that_cannot_be_used_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = PROFILES[kind]
    (tmp_path / "mine.yaml").write_text(content)
    monkeypatch.setattr(presets, "_folder", lambda: tmp_path)
    (line,) = seminar_here("train", "profile=mine", code=2).stderr.splitlines()
    assert f"profile {tmp_path / 'mine.yaml'}: " in line
    assert message in line


@pytest.mark.parametrize("setting", [f"alpha={'[' * 1500}", f"alpha={'9' * 5000}x", f"{'z' * 5000}=1", "lr=*a"])
def test_a_setting_cannot_fill_the_screen(setting: str) -> None:
    errors = seminar_here("train", "profile=toy", setting, code=2).stderr
    assert len(errors) < 3000  # the choices of a setting
    assert len(errors.splitlines()) == 1


PASSWORDS = [
    "qq9@zz8/ww7",
    "qq9@zz8",
    "qq9/ww7",
    "qq9@zz8?ww7",
    "qq9@zz8#ww7",
    "s#c?r=et",
    "se:cr:et",
    "se'cr\"et",
    "$HOME",
    "$(id)",
    "%40%2F",
    "back\\slash",
]


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_part_of_a_password_is_shown(password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql://me:{password}@localhost:1/db"
    monkeypatch.setenv(pool.STORAGE, url)
    for given in (["--storage", url], []):
        line = ["sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "losses=pce", "seed=0"]
        said = seminar_here(*line, "--runs", str(tmp_path), "--wandb", "disabled", *given, code=2)
        shown = said.stdout + said.stderr
        for part in (password, *re.split("[@/?]", password)):
            assert part not in shown, shown
    for part in (password, *re.split("[@/?]", password)):
        assert part not in search.without_password(url)
    options = f"postgresql://me@localhost:1/db?password={password}"
    assert password not in search.without_password(options)
    store, executor = Store(tmp_path), pool.executor("inline", None, url)
    for holder in (Call(store, executor, "disabled", url), search.StudyLocation("a", tmp_path, url)):
        assert password not in repr(holder)


@pytest.mark.parametrize("password", [*PASSWORDS, "blank and\ttab", "a;b|c&d", "`id`", "#x"])
def test_make_hands_a_password_on_as_it_is(password: str) -> None:
    """Through its environment; what make itself expands is written twice (`$$`) by whoever calls it."""
    url = f"postgresql://me:{password}@host/db"
    rule = "show:\n\t@printenv SEMINAR_STORAGE\n"
    line = ["make", "--no-print-directory", "-s", "-f", "Makefile", "-f", "-", "show", f"STORAGE={url}"]
    done = subprocess.run(line, input=rule, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout == url + "\n"


def test_a_warning_of_the_package_is_one_line_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    one_line_warnings()
    assert warnings.formatwarning("no\nroom", RuntimeWarning, crf.__file__, 3) == "seminar: warning: no room\n"
    for kind, file in ((RuntimeWarning, pd.__file__), (UserWarning, crf.__file__)):
        assert f"{kind.__name__}: no" in warnings.formatwarning("no", kind, file, 3)
