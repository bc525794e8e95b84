"""How trainings come to their CUDA devices, without a card: every entry point under a stand-in for `torch.cuda`.

See `tests/cuda_standin/device.py` for what it does and does not stand for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seminar import checkpoint, machine, train, watch
from seminar.__main__ import main
from seminar.catalogue import Cell
from seminar.spec import InputError
from seminar.store import Interrupted, Store
from seminar.train import Trainer
from seminar.views import TEACHER
from tests.conftest import ROOT
from tests.cuda_standin import device
from tests.cuda_standin.device import CONTEXT, DEVICES, Cuda

HOOK = ROOT / "tests" / "cuda_standin" / "hook"
WORDS = ["profile=toy", "losses=pce", "epochs=1"]
SMALL = ["--wandb", "disabled"]


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """The stand-in in this process."""
    monkeypatch.setenv("CUDA_STANDIN_LOG", str(tmp_path / "log"))
    with device.installed() as found:
        yield found


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Environment of a process that has the stand-in, with a log in `folder`."""
    paths = [str(HOOK), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_STANDIN_LOG": str(folder / "log"), **more}


def call(command: list[str], folder: Path, cwd: Path = ROOT, **more: str) -> tuple[int, str]:
    """Run a program to its end; returns its process id and what it printed. It must succeed."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return process.pid, out


def events(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The log, by process; empty where no process initialised CUDA."""
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    path = folder / "log"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        found[entry["pid"]].append(entry)
    return dict(found)


def used(entries: list[dict[str, Any]]) -> list[int]:
    """The devices that a process used."""
    return sorted({entry["device"] for entry in entries if entry["event"] == "use"})


def records(runs: Path) -> list[dict[str, Any]]:
    store = Store(runs)
    found = [store.record(key) for key in store.keys()]  # noqa: SIM118 - a store is no dictionary
    assert all(record is not None for record in found)
    return [record for record in found if record is not None]


def test_the_peak_of_a_named_device_needs_an_initialised_cuda(cuda: Cuda) -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == DEVICES
    for named in (0, 1, "cuda:0", torch.device("cuda:1")):
        with pytest.raises(RuntimeError, match=r"Invalid device argument .: did you call init"):
            torch.cuda.reset_peak_memory_stats(named)
    assert torch.cuda.memory_stats("cuda:0") == {}
    assert torch.cuda.max_memory_allocated("cuda:0") == torch.cuda.memory_reserved(1) == 0
    assert not torch.cuda.is_initialized()
    torch.cuda.reset_peak_memory_stats(torch.device("cuda"))  # the current device: asking which that is initialises
    assert torch.cuda.is_initialized()
    torch.cuda.reset_peak_memory_stats("cuda:1")


@pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")
def test_torch_itself_refuses_them_with_these_words() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("an earlier test of this process has used a card")
    with pytest.raises(RuntimeError, match=r"^Invalid device argument \x01: did you call init"):
        torch.cuda.reset_peak_memory_stats(1)


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.cuda.init(),
        lambda: torch.cuda.set_device("cuda:1"),
        lambda: torch.cuda.current_device(),
        lambda: torch.cuda.get_device_name(0),
        lambda: torch.cuda.get_device_properties("cuda"),
        lambda: torch.cuda.synchronize(),
        lambda: torch.cuda.mem_get_info(1),
        lambda: torch.cuda.get_rng_state("cuda:0"),
        lambda: torch.zeros(2, device="cuda"),
        lambda: torch.zeros(2).to(torch.device("cuda:1")),
        lambda: torch.zeros(2).cuda(),
        lambda: torch.zeros(2).pin_memory(),
        lambda: nn.Linear(2, 2).to("cuda:1"),
    ],
)
def test_what_initialises_cuda(cuda: Cuda, tmp_path: Path, use: Any) -> None:
    torch.manual_seed(3)
    assert not torch.cuda.is_initialized()
    use()
    assert torch.cuda.is_initialized()
    assert events(tmp_path)[os.getpid()][0]["event"] == "init"


def test_seeds_wait_until_cuda_is_initialised(cuda: Cuda) -> None:
    torch.manual_seed(3)
    torch.cuda.manual_seed_all(4)
    torch.manual_seed(5)
    assert not torch.cuda.is_initialized()
    assert torch.equal(torch.cuda.get_rng_state(1), torch.Generator().manual_seed(5).get_state())
    with torch.random.fork_rng(devices=[torch.device("cuda:1")]):
        torch.manual_seed(6)
        assert torch.equal(torch.cuda.get_rng_state(1), torch.Generator().manual_seed(6).get_state())
    assert torch.equal(torch.cuda.get_rng_state(1), torch.Generator().manual_seed(5).get_state())


def test_memory_is_counted_by_device(cuda: Cuda) -> None:
    net = nn.Linear(100, 10).to("cuda:1")
    size = 4 * (100 * 10 + 10)
    assert torch.cuda.memory_allocated(1) == size
    assert net.to("cuda:1").weight.to("cuda:1") is net.weight, "it is there already"
    more = torch.zeros(1000, device="cuda:1")
    assert torch.cuda.memory_allocated("cuda:1") == size + 4000
    del more
    assert torch.cuda.memory_allocated("cuda:1") == size
    assert torch.cuda.max_memory_allocated("cuda:1") == size + 4000
    torch.cuda.reset_peak_memory_stats("cuda:1")
    assert torch.cuda.max_memory_allocated("cuda:1") == size
    assert torch.cuda.memory_allocated(0) == 0
    on_cpu = torch.zeros(3)
    assert on_cpu.to("cuda:0") is not on_cpu


@pytest.mark.parametrize("name", ["synchronise_all", "cudart", "memory_summary", "current_stream", "get_arch_list"])
def test_what_the_stand_in_does_not_know_is_refused(cuda: Cuda, name: str) -> None:
    with pytest.raises((NotImplementedError, AttributeError), match=name):
        getattr(torch.cuda, name)()


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_train(cuda: Cuda, tmp_path: Path, name: str) -> None:
    assert main(["train", *WORDS, f"device={name}", "--runs", str(tmp_path / "runs"), *SMALL]) == 0
    (record,) = records(tmp_path / "runs")
    assert record["environment"]["device"] == "Stand-in"
    assert record["peak_memory_mb"] >= 1
    (entries,) = events(tmp_path).values()
    assert used(entries) == [1 if name == "cuda:1" else 0], "no other card is touched"


@pytest.mark.parametrize("name", ["auto", "cuda:1"])
def test_cell(cuda: Cuda, tmp_path: Path, name: str) -> None:
    settings = json.dumps({"profile": "toy", "losses": "pce+pcons", "epochs": 1, "device": name})
    assert main(["cell", settings, "--runs", str(tmp_path / "runs"), *SMALL]) == 0
    assert len(records(tmp_path / "runs")) == 1
    (entries,) = events(tmp_path).values()
    assert used(entries) == [1 if name == "cuda:1" else 0]


@pytest.mark.slow
def test_a_chain_uses_one_card(cuda: Cuda, tmp_path: Path) -> None:
    """Two trainings in one process: the second loads the weights of the first."""
    settings = ["profile=toy", "losses=pce+pseudo", "epochs=1", "self_generation=reset", "device=cuda:1"]
    assert main(["train", *settings, "--runs", str(tmp_path / "runs"), *SMALL]) == 0
    assert len(records(tmp_path / "runs")) == 2
    (entries,) = events(tmp_path).values()
    assert used(entries) == [1]


@pytest.mark.slow
def test_a_stopped_training_goes_on_with_one_card(cuda: Cuda, tmp_path: Path, cell: Callable[..., Cell]) -> None:
    requested, steps = cell(losses="pce+pcons", epochs=2, device="cuda:1"), iter(range(100))
    stop = watch.StopWhen(lambda: next(steps) == 2)  # in the second of two epochs of two steps
    store = Store(tmp_path / "runs")
    for watches in ([stop], []):
        with suppress(Interrupted):
            store.ensure(requested.stage, lambda s, f, a, w=watches: train.train(s, requested.host, f, a, w))  # type: ignore[misc]
    (record,) = records(tmp_path / "runs")
    assert record["sessions"] == 2
    (entries,) = events(tmp_path).values()
    assert used(entries) == [1]


SWEEP = [str(ROOT / "sweeps" / "losses.yaml"), *WORDS, "seed=0,1"]


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    """A process that has initialised CUDA keeps hundreds of MB of a card until it ends: the planner leaves it alone."""
    command = [sys.executable, "-m", "seminar", "sweep", *SWEEP, "--runs", str(tmp_path / "runs"), *SMALL]
    planner, out = call([*command, "--workers", "2"], tmp_path, CUDA_STANDIN_WORKERS="2")
    assert "2 to do" in out
    assert "2 cuda processes" in out
    assert len(records(tmp_path / "runs")) == 2
    everything = events(tmp_path)
    where = [entry["where"] for entry in everything.get(planner, []) if entry["event"] == "init"]
    assert planner not in everything, f"the planning process initialised CUDA in {where}"
    found = {pid: entries for pid, entries in everything.items() if "_work" in entries[0]["where"]}
    assert sorted(used(entries) for entries in found.values()) == [[0], [1]], "a card for each worker"
    for entries in found.values():
        assert max(entry.get("bytes", 0) for entry in entries) > CONTEXT
    (survey,) = (entries for entries in everything.values() if "_send_survey" in entries[0]["where"])
    assert survey[-1]["event"] == "end"
    assert survey[-1]["time"] < min(entries[0]["time"] for entries in found.values()), "a worker shares its card"


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = ["profile=toy", "losses=pce+pcons", "epochs=1"]
    call([*command, "-m", "seminar", "train", *settings, "--runs", str(tmp_path / "runs"), *SMALL], tmp_path)
    (record,) = records(tmp_path / "runs")
    assert record["environment"]["processes"] == 2
    found = events(tmp_path)
    assert sorted(used(entries) for entries in found.values()) == [[0], [1]], "a card for each process"


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_only_tf32_rounds_convolutions(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch, precision: machine.Precision, rounded: bool
) -> None:
    """torch itself allows it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not rounded)
    machine.prepare(torch.device("cuda:1"), precision)
    assert torch.backends.cudnn.allow_tf32 is rounded


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_that_the_card_lacks_is_refused(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch, precision: machine.Precision
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    machine.prepare(torch.device("cuda"), "fp32")
    with pytest.raises(InputError, match=rf"precision={precision}: Stand-in is older than Ampere .* precision=fp32$"):
        machine.prepare(torch.device("cuda"), precision)


def test_the_card_of_a_training_becomes_the_current_one(cuda: Cuda) -> None:
    machine.prepare(torch.device("cuda:1"), "fp32")
    assert torch.cuda.current_device() == 1


def test_each_training_counts_its_own_peak(cuda: Cuda) -> None:
    here = torch.device("cuda:1")
    of_another = torch.zeros(2**20, device=here)
    assert machine.peak_memory_mb(here) == 4
    del of_another
    machine.prepare(here, "fp32")
    assert machine.peak_memory_mb(here) == 0


def test_a_teacher_leaves_the_random_numbers_of_the_card_alone(cuda: Cuda, cell: Callable[..., Cell]) -> None:
    here = cell(losses="pce+pcons", device="cuda:1")
    trainer, states = Trainer(here.stage, here.host, None), []
    before = torch.cuda.get_rng_state("cuda:1")
    for step in range(2):
        with trainer._randomness(step, TEACHER):
            states.append(torch.cuda.get_rng_state("cuda:1"))
        assert torch.equal(torch.cuda.get_rng_state("cuda:1"), before)
    assert not torch.equal(states[0], before)
    assert not torch.equal(states[0], states[1])


def test_what_is_read_comes_to_the_cpu_first(
    cuda: Cuda, tmp_path: Path, cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read to the card, weights and momentum would be there twice."""
    places: list[Any] = []
    load = torch.load

    def noted(*rest: Any, map_location: Any = None, **options: Any) -> Any:
        places.append(map_location)
        return load(*rest, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", noted)
    here = cell(losses="pce+pseudo", epochs=1, self_generation="reset", device="cuda:1")
    store = Store(tmp_path)
    store.ensure(here.stage, lambda s, f, a: train.train(s, here.host, f, a))
    trainer = Trainer(here.stage, here.host, store.folder(here.stage.chain[0].key))
    checkpoint.save(trainer, tmp_path, trainer.run_epoch(0))
    checkpoint.resume(trainer, tmp_path)
    assert len(places) >= 3
    assert set(places) == {"cpu"}
