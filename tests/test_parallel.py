"""One training on several processes: the same as in one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from seminar import networks, parallel
from seminar.catalogue import Cell
from seminar.spec import InputError
from seminar.store import Store
from seminar.train import Trainer
from tests.conftest import ROOT, seminar_here, until_checkpoint

MakeCell = Callable[..., Cell]
# With the learning rate of the profile rounding alone changes a loss by 1e-3 in the second epoch, also in one process.
WORDS = ["losses=pce+crf+pcons+pseudo", "data_train=15", "epochs=3", "eval_every=3", "lr=0.005", "pce_normalizer=rloss"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def command(processes: int, *settings: str, runs: Path) -> list[str]:
    before = [sys.executable] if processes == 1 else [*TORCHRUN, str(processes)]
    return [*before, "-m", "seminar", "train", "profile=toy", *settings, "--runs", str(runs), "--wandb", "disabled"]


def call(processes: int, *settings: str, runs: Path, code: int = 0) -> str:
    if processes == 1:
        said = seminar_here(*command(1, *settings, runs=runs)[3:], code=code)
        return said.stdout + said.stderr
    done = subprocess.run(
        command(processes, *settings, runs=runs), cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def torchrun(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    """Make this process look like one of two that torchrun has started."""
    names = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def assert_same_training(alone: Store, together: Store, key: str) -> None:
    """Equal up to rounding: every loss of every epoch, and the weights."""
    curves = alone.curve(key), together.curve(key)
    assert [line["epoch"] for line in curves[1]] == [1, 2, 3]
    for one, other in zip(*curves, strict=True):
        assert one.keys() == other.keys()
        counted = {"student_miou", "teacher_miou", "agreement"}  # by pixels, of which rounding may tip one over
        for name in one.keys() - {"seconds", *counted}:
            assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), (name, one["epoch"])
        for name in counted:
            assert other.get(name) == pytest.approx(one.get(name), abs=0.5)
    for name in ("student.pt", "teacher.pt"):
        weights = [torch.load(store.folder(key) / name) for store in (alone, together)]
        assert weights[0].keys() == weights[1].keys()
        for part in weights[0]:
            torch.testing.assert_close(weights[0][part], weights[1][part], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_several_processes_train_what_one_trains(tmp_path: Path) -> None:
    """Batches of 8 and 7 images: neither the images nor the clicks of the processes are equally many."""
    call(1, *WORDS, runs=tmp_path / "1")
    alone = Store(tmp_path / "1")
    first, second = sorted(alone.keys(), key=lambda key: len(alone.stage(key).chain))
    # Pseudo-labels flip where two classes are about as likely, so the second training begins from the same first one.
    shutil.copytree(alone.folder(first), tmp_path / "3" / first)
    for processes, key in ((2, first), (3, second)):
        out = call(processes, *WORDS, runs=tmp_path / str(processes))
        assert out.count("student  crop") == 1, "one of them speaks"
        assert "Warning" not in out
        together = Store(tmp_path / str(processes))
        assert together.keys() == alone.keys()
        assert_same_training(alone, together, key)
        record = together.record(key)
        assert record is not None
        assert record["environment"]["processes"] == processes


@pytest.mark.slow
def test_a_training_that_nobody_listens_to_is_stopped_all_the_same(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(1, "losses=pce", "epochs=400", runs=tmp_path), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    until_checkpoint(process, tmp_path)
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    (key,) = Store(tmp_path).keys()
    assert Store(tmp_path).status(key) == "stopped"
    assert not (Store(tmp_path).folder(key) / "failure.json").exists()


@pytest.mark.slow
def test_a_stopped_pair_is_continued_by_one(tmp_path: Path) -> None:
    settings = ["losses=pce+pcons", "epochs=60", "data_val=2"]
    process = subprocess.Popen(
        command(2, *settings, runs=tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until_checkpoint(process, tmp_path)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "the same command goes on from the last finished epoch" in out
    assert out.count("stopping after this step; once more ends it at once") == 1, "one of them speaks"
    (key,) = Store(tmp_path).keys()
    assert Store(tmp_path).status(key) == "stopped"
    begun = len(Store(tmp_path).curve(key))
    assert 0 < begun < 60
    call(1, *settings, runs=tmp_path)
    record = Store(tmp_path).record(key)
    assert record is not None
    assert record["sessions"] == 2
    assert [line["epoch"] for line in Store(tmp_path).curve(key)] == list(range(1, 61))


@pytest.mark.slow
def test_a_diverging_pair_ends_and_tells_why(tmp_path: Path) -> None:
    out = call(2, "losses=pce", "lr=1e30", runs=tmp_path, code=1)
    assert out.count("seminar: loss") == 1
    (key,) = Store(tmp_path).keys()
    failure = Store(tmp_path).failure(key)
    assert failure is not None
    assert "diverged" in failure["error"]


@pytest.mark.parametrize(("rank", "name"), [("0", "seminar: "), ("1", "seminar (process 1): ")])
def test_bad_input_is_told_by_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, name: str) -> None:
    torchrun(monkeypatch, rank)
    out = call(1, "losses=x", runs=tmp_path, code=2)
    assert out.startswith(name)
    assert "'x'" in out
    assert out.count("\n") == 1


def test_more_processes_than_images_in_a_batch_are_refused(monkeypatch: pytest.MonkeyPatch, cell: MakeCell) -> None:
    requested = cell(losses="pce", data_train=10)  # batches of 8 and 2
    monkeypatch.setattr(parallel._team, "size", 3)
    monkeypatch.setattr(parallel, "replicated", lambda net, _: net)  # the others are not there
    with pytest.raises(InputError, match=r"^3 processes: a batch of an epoch has 2 images"):
        Trainer(requested.stage, requested.host, None)


@pytest.mark.slow
def test_what_only_the_first_process_finds_out_is_told_once(tmp_path: Path, cell: MakeCell) -> None:
    key = cell(losses="pce").stage.key
    (tmp_path / key).mkdir()
    (tmp_path / key / "record.json").write_text("{")
    out = call(2, "losses=pce", runs=tmp_path, code=1)
    assert out.count("record.json: damaged") == 1
    assert "[rank1]" not in out


def test_a_sweep_is_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch, "0")
    said = seminar_here("sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "--runs", str(tmp_path), code=2)
    assert said.stderr.startswith("seminar: torchrun is for one training")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were another process, where nothing is exchanged."""
    monkeypatch.setattr(parallel._team, "size", 2)


@pytest.mark.parametrize("freeze", ["none", "bn", "backbone"])
def test_shared_layers_replace_those_of_torch(pair: None, freeze: networks.Freeze) -> None:
    plain = networks.build("small_resnet", 7, 16, freeze)
    net = parallel.shared(networks.build("small_resnet", 7, 16, freeze))
    assert net.state_dict().keys() == plain.state_dict().keys()
    net.load_state_dict(plain.state_dict())
    kinds = {type(part) for part in net.modules()}
    assert nn.BatchNorm2d not in kinds
    assert nn.Dropout not in kinds
    for one, other in zip(plain.train().modules(), net.train().modules(), strict=True):
        assert one.training == other.training
    for a, b in zip(plain.parameters(), net.parameters(), strict=True):
        assert a.requires_grad == b.requires_grad


def test_alone_the_shared_layers_are_those_of_torch() -> None:
    x = torch.randn(6, 5, 4, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    theirs, mine = nn.BatchNorm2d(5), parallel.SharedBatchNorm.of(nn.BatchNorm2d(5))
    weight = torch.randn(6, 5, 4, 3)
    for layer, values in ((theirs, x), (mine, y)):
        nn.init.constant_(layer.weight, 1.5)
        (layer(values) * weight).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value)
    torch.testing.assert_close(mine.eval()(y), theirs.eval()(x))
    for p in (0.0, 0.3):
        outputs = []
        for dropout in (nn.Dropout(p), parallel._Dropout(p)):
            torch.manual_seed(0)
            outputs.append(dropout(x))
        torch.testing.assert_close(outputs[0], outputs[1])
        assert outputs[1].is_contiguous(memory_format=torch.channels_last)
    assert parallel._Dropout(0.5).eval()(x) is x


def test_shares_cover_every_batch_once(monkeypatch: pytest.MonkeyPatch, cell: MakeCell) -> None:
    requested = cell(losses="pce", data_train=15)
    trainer = Trainer(requested.stage, requested.host, None)
    whole = [views["image"] for views in trainer.loader(0)]
    monkeypatch.setattr(parallel._team, "size", 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel._team, "rank", rank)
        parts.append([views["image"] for views in trainer.loader(0)])
    assert [len(batch) for batch in whole] == [8, 7]
    assert [[len(batch) for batch in part] for part in parts] == [[2, 2], [3, 2], [3, 3]]
    for batch, *shares in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(shares), batch, rtol=0, atol=0)


def test_means_without_a_pixel_are_zero() -> None:
    assert parallel.batch_mean(torch.tensor(0.0), 0) == 0
    assert parallel.batch_mean(torch.tensor(0.0), torch.tensor(0)) == 0
    assert parallel.batch_mean(torch.tensor(6.0), torch.tensor(4)) == 1.5
    assert parallel.images(3) == 3
