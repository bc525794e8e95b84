"""From records to files: the exhibits, end to end on made-up records."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import blocks, exhibits, figures, frame, summary
from analysis.__main__ import main
from seminar.catalogue import Catalogue
from seminar.spec import InputError, Part, Stage, Term
from seminar.store import Store
from tests.records import fail, finish, line, planned, write_sweep

LOSSES = ("pce", "pce+crf", "pce+pcons", "pce+crf+pcons", "pce+crf+pcons+pseudo", "ce")
MEAN = dict(zip(LOSSES, (44.0, 46.0, 47.0, 50.0, 51.0, 57.0)))


@pytest.fixture
def place(drawing_place, monkeypatch):
    """`drawing_place` with figures that cost no time."""
    monkeypatch.setattr(figures, "scores_and_curves", lambda *arguments: {"png": b"png", "pdf": b"pdf"})
    return drawing_place


@pytest.fixture
def drawing_place(tmp_path, monkeypatch):
    """An empty checkout with the sweep file of Table 3 for the smallest profile."""
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    write_sweep("losses", profile=["toy"], losses=list(LOSSES), seed=[0, 1, 2])
    return tmp_path


def fill(skip=()):
    for cell in planned():
        label, seed = cell.stage.label, cell.stage.replicate
        if (label, seed) not in skip:
            finish(cell.stage, MEAN[label] + seed * 0.5)


def table(path):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def build(name="table3", **settings):
    (entry,) = exhibits.find([name])
    return exhibits.build(entry, settings, Path("runs"))


def test_a_frame_has_a_row_per_cell_and_nan_for_what_is_missing(place):
    fill(skip={("ce", 1)})
    cells = planned()
    data = frame.frame(Store(Path("runs")), cells)
    assert len(data) == len(cells) == 18
    gap = data[(data["losses"] == "ce") & (data["seed"] == 1)].iloc[0]
    assert gap["status"] == "missing"
    assert gap[["student_miou", "background_recall", "miou_bias", "seconds"]].isna().all()
    last = data[(data["losses"] == "pce+crf+pcons+pseudo") & (data["seed"] == 2)].iloc[0]
    # The primary trains with another seed than its ancillary, but it is the sweep's seed on which rows are paired.
    assert (last["student_miou"], last["teacher_miou"], last["modules"]) == (52.0, 52.5, 1)
    assert data.loc[data["losses"] == "pce", "teacher_miou"].isna().all()
    measured = [name for name in data.select_dtypes("float") if frame.measured(name)]
    assert len(measured) > 10
    assert not (data[measured] == 0).any().any()


def test_a_record_without_scores_is_missing_numbers_not_zero(place):
    stage = planned()[0].stage
    finish(stage, None)
    data = frame.frame(Store(Path("runs")), planned()[:1])
    assert data["status"].tolist() == ["done"]
    assert data["student_miou"].isna().all()
    with pytest.raises(InputError, match="no validation image has a mask"):
        build()
    finish(planned()[1].stage, 1.0)
    assert any("without a `crop` score" in line for line in build().gaps)
    assert main(["--out", "out", "--quiet"]) == 0


def test_curves_take_the_later_line_of_an_epoch_and_skip_epochs_without_a_score(place):
    stage = planned()[0].stage
    finish(stage, 40.0)
    lines = [line(1, 1.0), line(1, 2.0), line(2), line(3, 40.0)]
    (Path("runs") / stage.key / "metrics.jsonl").write_text("".join(lines))
    data = frame.curves(Store(Path("runs")), planned()[:1])
    assert data[["epoch", "student_miou"]].to_numpy().tolist() == [[1, 2.0], [3, 40.0]]


def test_table3_shows_scores_differences_and_paper(place):
    fill()
    main_table = build().main[0]
    shown = {row[0]: row for row in main_table.rows}
    # Seeds add 0, 0.5, 1: mean + 0.5, sample std 0.5; differences are the same for every seed.
    assert shown["pce"][1:4] == ("44.5 ± 0.5 (3)", "–", "50.9 / 54.7")
    assert shown["pce+crf"][2] == "+2.0 [2.0, 2.0]"
    # Full supervision is known to have a spread of its own, so Welch: t(4) sqrt(2 x 0.25 / 3) = 2.776 x 0.408 = 1.13.
    assert shown["ce (full)"][1:3] == ("57.5 ± 0.5 (3)", "+6.0 [4.9, 7.1]")
    assert shown["pce"][5:] == (45.5, None, "3 done")
    assert shown["pce+pcons"][6] == 48.0
    assert any("cannot be compared" in note and "toy" in note for note in main_table.notes)


def test_table3_orders_and_judges(place):
    fill()
    report = build()
    (steps,), (_, order, _) = report.claims.values(), report.more
    assert [row[3] for row in steps.rows] == ["holds"] * 4
    assert steps.rows[0][4] == "MobileNet −2.10, R-101 +0.93"
    assert [row[3] for row in order.rows] == ["yes", "yes"]


def test_one_seed_cannot_tell(place):
    fill()
    report = build(seed=(0,))
    (steps,), (_, order, _) = report.claims.values(), report.more
    assert {row[3] for row in steps.rows} == {row[3] for row in order.rows} == {"inconclusive"}
    assert "1 seed" in steps.rows[0][1]


def test_gaps_are_dashes_with_their_cause_and_the_command(place, capsys):
    fill(skip={("pce+crf", 1), *(("pce+pcons", seed) for seed in range(3))})
    fail(next(c.stage for c in planned() if c.stage.label == "pce+crf" and c.stage.replicate == 1))
    assert main(["table3", "profile=toy"]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("| pce+pcons "))
    assert line.split("|")[2].strip() == "–"
    assert "3 missing" in line
    assert "2 done, 1 failed" in out
    assert "FloatingPointError: loss_pce is nan in epoch 3 \\| 'x'" in out
    assert "`make ablation-losses PROFILE=toy`" in out
    assert max(map(len, out.splitlines())) <= 120
    data = {row["losses"]: row for row in table("reports/toy/table3.csv")}
    assert (data["pce+pcons"]["miou_mean"], data["pce+pcons"]["missing"]) == ("", "3")
    assert (data["pce+crf"]["miou_mean"], data["pce+crf"]["miou_n"]) == ("46.5", "2")
    assert len(table("reports/toy/table3_runs.csv")) == 18


def uneven(**scores):
    """Table 3 with pCE + CRF at these differences to pCE by seed; every other row is 0.5 above it."""
    for cell in planned():
        label, seed = cell.stage.label, cell.stage.replicate
        wobble = (0.3, -0.3, 0.1)[seed] * (-1) ** LOSSES.index(label)
        above = scores["crf"] if label == "pce+crf" else 9 * (label == "ce")
        finish(cell.stage, 40 + seed + wobble + above)


def test_sensitivity_and_spread_stand_under_the_table(place):
    uneven(crf=3.0)
    notes = "\n".join(build().main[0].notes)
    # Residuals without full supervision: wobbles +-(.3, -.3, .1), less their mean in a row: a = (.2667, -.3333,
    # .0667), and three of five rows have +a, two -a. Less the mean of a seed, a / 5: .8 a and -1.2 a. |a|^2 =
    # .18667, so the squares sum to (3 x .64 + 2 x 1.44) x .18667 = .896; by 4 x 2 degrees of freedom: .3347.
    assert "(spread of one training 0.33, 8 degrees of freedom)" in notes
    # t(8) = 2.306 times .3347 sqrt(2 / 3) = .63. Holm's first step of four: t(8) at 1.25 % = 3.206: .88.
    # Full supervision, by Welch: variances of seed and wobble together.
    assert "; 0.9 for the clearest of the 4 claims" in notes
    assert "taken as one" in notes
    assert "ce: known to have another spread, so compared by Welch's interval." in notes
    rows = build().data["table3"]
    names = [column.name for column in rows.columns]
    crf = dict(zip(names, rows.rows[1]))
    # pCE has +a and pCE + CRF -a: the difference of their means is 3 less twice the mean wobble, .1 / 3.
    assert crf["difference_mean"] == pytest.approx(3 - 2 * 0.1 / 3)
    assert crf["sensitivity"] == pytest.approx(2.306 * 0.3347 * (2 / 3) ** 0.5, abs=1e-3)
    assert crf["difference_high"] - crf["difference_mean"] == pytest.approx(crf["sensitivity"])
    assert (crf["freedom"], crf["alone_n"]) == (8, 3)
    # Two rows alone: differences 3 - .6, 3 + .6, 3 - .2.
    assert crf["alone_std"] == pytest.approx(
        (((-0.6 + 0.2 / 3) ** 2 + (0.6 + 0.2 / 3) ** 2 + (-0.2 + 0.2 / 3) ** 2) / 2) ** 0.5
    )


def test_an_inconclusive_claim_says_what_it_would_take(place):
    uneven(crf=0.55)
    (claims,) = build().claims.values()
    assert claims.rows[0][3] == "inconclusive"
    (line,) = (note for note in claims.notes if note.startswith('To decide "CRF gains on pCE": '))
    found = re.fullmatch(
        r".*: about (\d+) more seeds? \((.+)\): `make ablation-losses PROFILE=toy SEEDS=(\d+)`\.", line
    )
    assert found is not None, line
    more, cost, seeds = int(found[1]), found[2], int(found[3])
    assert seeds == 3 + more
    # A seed of Table 3 is 6 trainings (the ancillary is one of them), each of 30 s.
    assert cost == f"{3 * more:.1f} min"
    assert len([note for note in claims.notes if note.startswith("To decide: with a chance of 80 %")]) == 1


def test_seeds_that_do_not_begin_at_0_go_on_from_the_last(place):
    planned(seed=(5, 6))
    (entry,) = exhibits.find(["table3"])
    (request,) = exhibits.build_all([entry], {"seed": (5, 6)}, Catalogue(Store(Path("runs")))).requests
    assert request.command_for([5, 6, 7]) == "make ablation-losses PROFILE=toy seed=5,6,7"
    assert request.command_for([0, 1, 2]) == "make ablation-losses PROFILE=toy SEEDS=3"


def test_the_margin_can_be_chosen(place, capsys):
    uneven(crf=0.7)
    assert main(["table3", "profile=toy", "--margin", "3", "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "equal within 3 points" in out
    assert "equal: within 3 points of 0 on both sides" in out
    with pytest.raises(SystemExit) as stopped:
        main(["table3", "--margin", "0"])
    assert stopped.value.code == 2
    assert "'0': points of mIoU between 0 and 100" in capsys.readouterr().err


def test_words_and_seeds_are_part_of_the_command(place):
    planned(profile=("toy",), alpha=(0.9,), seed=(0, 1), losses=("pce+pcons",))
    report = build(profile=("toy",), alpha=(0.9,), seed=(0, 1), losses=("pce+pcons",))
    assert "make ablation-losses PROFILE=toy alpha=0.9 losses=pce+pcons SEEDS=2" in report.gaps[-1]


def test_further_seeds_that_are_done_are_reported_where_none_are_named(place):
    """The sweep file has seeds 0 to 2 here; 3 is done beyond them, 4 lacks one row, 5 is planned alone."""
    fill()
    for cell in planned(seed=(3, 4, 5)):
        if cell.stage.replicate == 3 or (cell.stage.replicate == 4 and cell.stage.label != "ce"):
            finish(cell.stage, 40.0 + cell.stage.replicate)
    (table3,) = build().main
    assert {row[-1] for row in table3.rows} == {"4 done"}
    assert "make ablation-losses PROFILE=toy SEEDS=4" in build().header[-1]
    assert {row[-1] for row in build(seed=(0, 1)).main[0].rows} == {"2 done"}


def test_seeds_of_the_file_that_were_not_planned_are_not_missed_where_none_are_named(place):
    for cell in planned(seed=(0, 1)):
        finish(cell.stage, 40.0 + cell.stage.replicate)
    assert {row[-1] for row in build().main[0].rows} == {"2 done"}
    shutil.rmtree("runs/plans")
    assert {row[-1] for row in build().main[0].rows} == {"2 done"}
    assert "seed 2: not planned here" in " ".join(build().gaps)


def test_values_that_vary_beside_the_losses_make_separate_tables(place):
    planned(alpha=(0.9, 0.5), losses=("pce+pcons", "pce"))
    report = build(alpha=(0.9, 0.5), losses=("pce+pcons", "pce"))
    title = "Table 3: the contribution of each loss term"
    assert [t.title for t in report.main] == [f"{title} (toy, small_resnet, alpha={a})" for a in (0.9, 0.5)]
    assert len(report.figures) == 2


def test_mixed_origins_are_named_beside_the_verdicts(place):
    fill()
    stages = [cell.stage for cell in planned()]
    finish(stages[0], 44.0, commit="def")

    def notes():
        (claims,) = build().claims.values()
        return claims.notes

    many = len({stage.key for last in stages for stage in last.chain})
    assert notes()[0] == (
        f"These trainings come from 2 commits (abc: {many - 1}, def: 1): rows can differ for that alone."
    )
    path = Path("runs") / stages[0].key / "record.json"
    record = json.loads(path.read_text())
    record["environment"] |= {"torch": "2.12.0", "cpu": "other chip"}
    path.write_text(json.dumps(record))
    assert f"2 kinds of processor (chip: {many - 1}, other chip: 1)" in " ".join(notes())
    assert f"2 versions of PyTorch (2.11.0: {many - 1}, 2.12.0: 1)" in " ".join(notes())


def test_of_thousands_of_runs_the_first_are_listed(place, monkeypatch):
    fill()
    monkeypatch.setattr(blocks, "RUNS_SHOWN", 4)
    (appendix,) = build().appendix
    every = len(build().data["table3_runs"].rows)
    assert every > 4
    assert len(appendix.rows) == 4
    assert appendix.notes == (f"Of {every} runs the first 4 are listed.",)


def test_versions_of_a_loss_are_never_averaged_silently(place):
    fill()
    (claims,) = build().claims.values()
    assert not any("version" in note or "commits" in note for note in claims.notes)
    paths = sorted(Path("runs").glob("*/record.json"))
    using = [path for path in paths if "pce" in json.loads(path.read_text())["stage"]["losses"][0]["name"]]
    for number, path in enumerate(using):
        record = json.loads(path.read_text())
        digest = "aaaa" if number else "bbbb"
        record["starts"] = [{"commit": "abc", "parts": {"loss pce": digest, "data creatures": "cccc"}}]
        path.write_text(json.dumps(record))
    (claims,) = build().claims.values()
    mixed = f"mix versions of the code of loss pce (aaaa: {len(using) - 1}, bbbb: 1); --retrain (make: RETRAIN=1)"
    assert any(mixed in note for note in claims.notes)
    others = len(paths) - len(using)
    assert f"{others} of these trainings did not record which version of the code made them." in claims.notes


def test_a_training_that_went_on_at_another_commit_says_so(place):
    fill()
    path = next(Path("runs").glob("*/record.json"))
    record = json.loads(path.read_text())
    record["starts"] = [{"commit": "abc", "parts": {}}, {"commit": "def", "parts": {}}]
    path.write_text(json.dumps(record))
    assert main(["table3", "--out", "out", "--quiet"]) == 0
    assert "abc then def" in {row["commit"] for row in table("out/table3_runs.csv")}


def test_nothing_trained_yet_can_be_shown(drawing_place):
    planned()
    report = build()
    assert all(row[1] == "–" for row in report.main[0].rows)
    assert report.figures["table3"]["png"].startswith(b"\x89PNG")


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(drawing_place):
    fill(skip={("ce", 2)})
    for folder in ("one", "two"):
        assert main(["table3", "--out", folder, "--quiet"]) == 0
    files = sorted(path.name for path in Path("one").iterdir())
    kinds = ("csv", "md", "pdf", "png", "tex")
    assert files == sorted([f"table3.{kind}" for kind in kinds] + ["table3_claims.csv", "table3_runs.csv"])
    for name in files:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name
    assert b"CreationDate" not in Path("one/table3.pdf").read_bytes()


def test_a_sweep_without_an_exhibit_gets_a_plain_table(place, capsys):
    write_sweep("mine", profile=["toy"], losses=["pce"], click_size=[1, 3], seed=[0, 1])
    for cell in planned("mine"):
        finish(cell.stage, 40.0 + cell.stage.click_size + 2 * cell.stage.replicate)
    assert main(["sweeps/mine.yaml", "--out", "out"]) == 0
    assert "about mine" in capsys.readouterr().out
    rows = table("out/mine.csv")
    # 41 and 43; 43 and 45: means 42 and 44.
    assert [(row["click_size"], row["miou_mean"], row["miou_n"]) for row in rows] == [
        ("1", "42.0", "2"),
        ("3", "44.0", "2"),
    ]


def test_no_name_builds_everything(place, capsys):
    write_sweep("mine", profile=["toy"], losses=["pce"], click_size=[1, 3], seed=[0])
    planned()
    planned("mine")
    written = ["table3", "fig3", "fig6", "logged"]
    of_losses = [*written, "transfer"]
    assert [entry.name for entry in exhibits.find([])] == [*of_losses, "mine"]
    assert [entry.name for entry in exhibits.find(["sweeps/losses.yaml", "table3"])] == of_losses
    assert main(["--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "left out: Table 2: levels of supervision: sweeps/supervision.yaml is not there" in out
    assert "left out: Beyond the paper: the steps of Table 3 on other data: there are no results on other data" in out
    text = Path("out/index.html").read_text()
    for name in (*written, "mine"):
        assert f'href="{name}.csv"' in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel3"], "exhibit 'tabel3': choose from conventions, crf, "),
        (["no.yaml"], "no such file"),
        (["alpa=0.9"], "did you mean 'alpha'?"),
        (["table3", "seed=1", "--seeds", "2"], "seed= is given as well"),
        (["table3", "--seeds", "0"], "at least 1"),
        (["table3", "profile=moon"], "profile='moon'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(place, capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_seeds_option(place):
    planned(seed=(0, 1))
    assert main(["table3", "--seeds", "2", "--out", "out", "--quiet"]) == 0
    assert len(table("out/table3_runs.csv")) == 6 * 2


class Plain:
    """A cell for which no profile is needed."""

    def __init__(self, point, backbone="resnet101"):
        known = {"epochs": 60, "seed": 0, "backbone": backbone, "optimizer": Part(name="sgd")}
        known["annotation_settings"] = ()
        fields = dict.fromkeys(Stage.model_fields) | known
        losses = (Term(name="ce", weight=1.0),)
        self.point = point
        self.stage = Stage.model_construct(**{**fields, "data": Part(name="voc"), "losses": losses})


def test_the_paper_is_compared_with_only_for_its_own_setting():
    from analysis import paper

    printed = paper.table("table3")
    own = {"profile": "voc", "losses": "ce", "seed": 0}
    assert blocks.not_comparable([Plain(own)], printed, ["losses"]) is None
    assert "other data" in blocks.not_comparable([Plain({**own, "profile": "voc-mini"})], printed, ["losses"])
    assert "changed here: epochs" in blocks.not_comparable([Plain({**own, "epochs": 5})], printed, ["losses"])
    assert "does not print this for" in blocks.not_comparable([Plain(own, "small_resnet")], printed, ["losses"])


@pytest.mark.slow
def test_the_figure_marks_the_paper_only_when_given(drawing_place):
    fill()
    source, cells = Store(Path("runs")), planned()
    rows, curves = summary.rows(frame.frame(source, cells)), frame.curves(source, cells)
    without = figures.scores_and_curves(rows, curves, "title", {})
    marked = figures.scores_and_curves(rows, curves, "title", {}, {"pce": 54.7})
    assert without["png"] != marked["png"]


def test_importing_chooses_no_backend_and_loads_no_torch():
    code = (
        "import sys, analysis.exhibits, analysis.__main__; print([m in sys.modules for m in ('torch', 'matplotlib')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[False, False]"
