"""The command line as a person meets it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from seminar import recipes, sweep
from seminar.__main__ import main
from tests.conftest import ROOT, seminar_here

LOSSES = str(ROOT / "sweeps" / "losses.yaml")


def test_train_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["profile=toy", "losses=pce+pcons", "seed=3", "--runs", str(tmp_path), "--wandb", "disabled"]
    assert main(["train", *settings]) == 0
    first = capsys.readouterr()
    assert "pce+pcons seed 3" in first.out
    assert "teacher  crop  mIoU" in first.out
    assert first.err == "", "quiet when not on a terminal"
    assert main(["train", *settings]) == 0
    assert capsys.readouterr().out == first.out
    assert main(["status", "--runs", str(tmp_path)]) == 0
    status = capsys.readouterr().out
    assert "2/2" in status
    assert "1 done" in status
    (next(tmp_path.glob("*/stage.json"))).write_text("{")
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert "1 damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "losses=pce+crff"], "did you mean 'crf'"),
        (["train", "profile=toy", "seed=0,1"], "one value each"),
        (["train", "alpha"], "write name=value"),
        (["train", "profile=toy", "device=tpu"], "device='tpu'"),
        (["sweep", "sweeps/none.yaml"], "no such file"),
        (["sweep", LOSSES, "--seeds", "0"], "--seeds 0"),
        (["sweep", LOSSES, "seed=1", "--seeds", "2"], "seed= is given as well"),
        (["sweep", LOSSES, "--workers", "-1"], "--workers -1"),
        (
            ["sweep", LOSSES, "profile=toy", "losses=pce", "--report", "--margin", "200"],
            "--margin '200': points of mIoU",
        ),
        (["sweep", LOSSES, "--workers", "0", "--executor", "local"], "--workers 0"),
        (["sweep", LOSSES, "profile=voc"], "data/VOCdevkit/VOC2012"),
        (["train", "profile=toy", "pretrained=imagenet"], "small_resnet"),
        (["train", "profile=toy", "backbone=mobilenet_v2", "pretrained=imagenet", "weights=no.pth"], "no.pth"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--runs", str(tmp_path / "runs"), "--wandb", "disabled"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("seminar: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "runs").exists(), "nothing half-written"


def test_a_diverging_training_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "profile=toy", "losses=pce", "lr=1e30", "--runs", str(tmp_path), "--wandb", "disabled"]) == 1
    errors = capsys.readouterr().err
    assert "diverged" in errors
    assert errors.count("\n") == 1


def test_runs_that_is_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("")
    for command in (["train", "profile=toy", "losses=pce", "--wandb", "disabled"], ["status"]):
        code = main([*command, "--runs", str(tmp_path / "runs")])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert code == 2 or "no training was started" in captured.out


@pytest.mark.parametrize("command", [[], ["train"], ["sweep"], ["status"]])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert ("name=value" in text or "profile=" in text) if command else ("sweep" in text and "status" in text)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_passes_words_on(tmp_path: Path) -> None:
    def dry(*arguments: str) -> str:
        ready = [f"READY={tmp_path}/ready", f"BIN={tmp_path}"]
        (tmp_path / "ready").touch()
        result = subprocess.run(
            ["make", "-n", *ready, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return result.stdout

    text = dry("ablation-losses", "PROFILE=toy", "SEEDS=2", "WORKERS=3", "RUNS=elsewhere", "alpha=0.9,0.99")
    assert "seminar sweep sweeps/losses.yaml profile='toy' alpha='0.9,0.99' --runs 'elsewhere' --seeds '2'" in text
    assert "--workers '3'" in text
    assert "--report" in text
    assert "--report --out 'here'" in dry("ablation-losses", "OUT=here")
    assert "--artifacts" not in text
    looking = dry("ablation-losses", "SEEDS=auto", "LOOKS=2,4", "MINUTES=9", "MARGIN=2", "alpha=0.9")
    assert "-m analysis.auto sweeps/losses.yaml" in looking
    assert "--looks '2,4' --minutes '9' --margin '2' -- --wandb" in looking
    assert "--seeds" not in looking
    with pytest.raises(subprocess.CalledProcessError) as refused:
        dry("paper", "SEEDS=auto")
    assert "SEEDS=auto is for one sweep: make ablation-NAME SEEDS=auto" in refused.value.stderr
    kept = dry("ablation-losses", "ARTIFACTS=1", "WANDB_PROJECT=mine")
    assert "--artifacts" in kept
    assert "--wandb" not in dry("report", "WANDB=disabled") + dry("report"), "reports are sent only where one says so"
    assert "--wandb online" in dry("report", "WANDB=online")
    assert "mine" not in kept, "it is in the environment, where W&B looks for it"
    search = dry("sweep-tune", "TRIALS=3")
    assert "seminar sweep sweeps/tune.yaml" in search
    assert "--trials '3'" in search
    listing = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "test", "report", "status", "losses", "creatures", "voc-mini"):
        assert target in listing


def test_words_and_options_in_any_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    many = ["sweep", "--workers", "1", LOSSES, "profile=toy", "--dry-run", "--runs", str(tmp_path), "losses=pce"]
    assert main([*many, "seed=0,1"]) == 0
    assert "2 cells, 2 trainings" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*many, "--sedes", "3"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        main(["status", "word=1"])


def test_status_tells_like_trainings_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for alpha in ("0.5", "0.75"):
        settings = ["profile=toy", "losses=pce+pcons", f"alpha={alpha}", "epochs=1"]
        assert main(["train", *settings, "--runs", str(tmp_path), "--wandb", "disabled"]) == 0
    capsys.readouterr()
    assert main(["status", "--runs", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "pce+pcons" in line]
    assert sorted(line.rsplit(" ", 1)[1] for line in lines) == ["alpha=0.5", "alpha=0.75"]


def test_a_sweep_file_with_other_settings_for_wandb(tmp_path: Path) -> None:
    """`wandb sweep` takes a file and nothing else; the cells are those of the command line with the same settings."""
    folder = tmp_path / "a folder.yaml"
    folder.mkdir()
    out = folder / "new.yaml"
    words = ["profile=toy", "data_train=8,16", "losses=pce,pce+crf", "--seeds", "2"]
    said = seminar_here("sweep", "sweeps/losses.yaml", *words, "--save-as", str(out), "--runs", str(tmp_path / "runs"))
    assert said.stdout == f"wrote {out}; next: wandb sweep '{out}'\n", "to be pasted"
    assert not (tmp_path / "runs").exists(), "nothing is planned or trained"
    given = sweep.parse_settings(words[:-2], 2)
    (expected,) = recipes.suite([sweep.load(ROOT / "sweeps" / "losses.yaml")], given)
    (found,) = recipes.suite([sweep.load(out)], {})
    assert [cell.stage.key for cell in found.cells] == [cell.stage.key for cell in expected.cells]
    seminar_here("sweep", "sweeps/losses.yaml", "profile=toy", "--save-as", str(out))
    assert "data_train" not in out.read_text(), "its own may be written anew"
    other = tmp_path / "mine.yaml"
    other.write_text("mine")
    refused = seminar_here("sweep", "sweeps/losses.yaml", "profile=toy", "--save-as", str(other), code=2).stderr
    assert "mine.yaml: exists, and this command did not write it" in refused
    assert other.read_text() == "mine"
    for line, why in (
        (["sweeps/losses.yaml", "sweeps/ema.yaml", "--save-as", str(out)], "of one sweep file, and there are 2"),
        (["sweeps/losses.yaml", "alpah=1", "--save-as", str(out)], "alpah"),
        (["sweeps/losses.yaml", "--save-as", str(tmp_path / "no" / "x.yaml")], "no such folder"),
        (["sweeps/losses.yaml", "--save-as", str(tmp_path / "x.txt")], "x.txt: must end in .yaml"),
        (["sweeps/losses.yaml", "--save-as", str(folder)], "a folder.yaml: is a folder; name a file in it"),
    ):
        assert why in seminar_here("sweep", *line, code=2).stderr
    out.unlink()
    seminar_here("sweep", "sweeps/tune.yaml", "profile=toy", "--trials", "5", "--save-as", str(out))
    assert sweep.load(out).run_cap == 5


def test_a_dry_run_downloads_nothing_and_a_plan_finds_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that cannot be had are found before anything is trained."""
    called: list[str] = []

    def refuse(url: str, *_: object, **__: object) -> None:
        called.append(url)
        raise OSError("no network here")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    line = [
        "sweep",
        LOSSES,
        "profile=toy",
        "losses=pce",
        "seed=0",
        "backbone=mobilenet_v2_light",
        "pretrained=imagenet",
    ]
    line += ["--runs", str(tmp_path / "runs"), "--wandb", "disabled", "--workers", "0"]
    assert "1 to do" in seminar_here(*line, "--dry-run").stdout
    assert called == []
    assert "cannot be downloaded (no network here); pass weights=PATH" in seminar_here(*line, code=2).stderr
    assert len(called) == 1
    assert not list((tmp_path / "runs").glob("*/stage.json")), "nothing was begun"
