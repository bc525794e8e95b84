"""The drill: kill what trains, at random moments and without mercy, then finish and compare with an undisturbed run.

    make drill KILLS=40        (or: python -m tests.drill --kills 40 --seed 1 --storage postgresql://...)

A sweep with its workers and agents of W&B (against a stand-in for its server) share one folder of runs. Again and again
one of them gets `kill -9`: a worker, a sweep, an agent, what an agent has started, or all of them at once; what has
died is started again. In the end one ordinary call finishes the sweep. Nothing is cleaned up by hand.

It fails where a training is missing, where an epoch was saved twice, or where tables, curves or weights are not, bit
for bit, those of the undisturbed run. Linux only (it finds the processes in /proc).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import yaml

from seminar.store import Store
from tests import wandb_server
from tests.conftest import ROOT

WORDS = {"profile": "toy", "losses": "pce,pce+pcons,pce+crf+pcons,pce+crf+pcons+pseudo", "seed": "0,1"}
AGENT = "import wandb.wandb_agent as agent; agent.Agent.POLL_INTERVAL = 0.3; from wandb.cli.cli import cli; cli()"
KINDS = {
    "worker": "spawn_main",
    "sweep": "seminar sweep",
    "cell": "seminar cell",
    "agent": "agent local/drill",
}
"""What can be killed, and how to know it by its command line."""


LOTS = {"worker": 4, "sweep": 2, "cell": 4, "agent": 1, "everything": 1}
"""How many lots each has when a victim is drawn."""


@dataclass
class Drill:
    """One folder of runs, and who is at it."""

    folder: Path
    epochs: int
    random: random.Random
    storage: str | None
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> Path:
        return self.folder / "epochs.log"

    @property
    def settings(self) -> list[str]:
        return [*(f"{word}={values}" for word, values in WORDS.items()), f"epochs={self.epochs}"]

    def environment(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        return {
            **plain,
            "DRILL_LOG": str(self.log),
            "PYTHONPATH": f"{ROOT / 'tests' / 'drill_hook'}{os.pathsep}{ROOT}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "WANDB_API_KEY": "a" * 40,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_AGENT_DISABLE_FLAPPING": "true",
            **{f"WANDB_{place}_DIR": str(self.folder / place.lower()) for place in ("CONFIG", "CACHE", "DATA")},
        }

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env={**self.environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def sweep(self) -> subprocess.Popen[bytes]:
        storage = [] if self.storage is None else ["--storage", self.storage]
        rest = ["--runs", "runs", "--workers", "2", "--wandb", "disabled", *storage]
        return self.start("-m", "seminar", "sweep", str(ROOT / "sweeps" / "losses.yaml"), *self.settings, *rest)

    def processes(self) -> dict[int, str]:
        """The processes of this drill that can be killed, with their kinds."""
        mark, found = f"DRILL_LOG={self.log}".encode(), {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark not in (path / "environ").read_bytes().split(b"\0"):
                    continue
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has just ended
                continue
            found[int(path.name)] = next((kind for kind, part in KINDS.items() if part in line), "other")
        return found

    def kill(self) -> None:
        """Kill one of a kind drawn at random, or all there are."""
        processes = self.processes()
        present = {*processes.values(), "everything"} & LOTS.keys()
        (kind,) = self.random.choices(sorted(present), [LOTS[kind] for kind in sorted(present)])
        victims = [pid for pid, found in processes.items() if kind in ("everything", found)]
        if kind != "everything":
            victims = [self.random.choice(victims)]
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.kills[kind] += 1

    def wait(self, process: subprocess.Popen[bytes], seconds: float) -> int:
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            sys.exit(f"drill: {process.args!r} did not end in {seconds:.0f} s, see {self.folder}")

    def disturb(self, kills: int) -> None:
        server, _ = wandb_server.start(data=self.folder / "server")
        url = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}"}
        content = yaml.safe_load((ROOT / "sweeps" / "losses.yaml").read_text(encoding="utf-8"))
        lists = {word: [yaml.safe_load(item) for item in values.split(",")] for word, values in WORDS.items()}
        lists["epochs"] = [self.epochs]
        content["parameters"] = {word: {"values": values} for word, values in lists.items()}
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(content))
        register = self.start("-m", "wandb", "sweep", "sweep.yaml", "--project", "drill", **url)
        assert self.wait(register, 60) == 0
        (sweep_id,) = [path.stem for path in (self.folder / "server" / "sweeps").glob("*.json")]
        actors = {
            "sweep": self.sweep,
            "agent": lambda: self.start("-c", AGENT, "agent", f"local/drill/{sweep_id}", **url),
        }
        running: dict[str, subprocess.Popen[bytes]] = {}
        store = Store(self.folder / "runs")
        while self.kills.total() < kills:
            for name, begin in actors.items():
                if name not in running or running[name].poll() is not None:
                    running[name] = begin()
            self.let_work()
            before = sum(store.record(key) is not None for key in store.keys())  # noqa: SIM118
            self.kill()
            print(f"  {self.kills.total()} kills, {before} trainings done", file=sys.stderr)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.kills["everything"] += 1
        for process in running.values():
            process.wait()
        server.shutdown()
        server.server_close()

    def let_work(self) -> None:
        """Mostly until a training is at work and then some, sometimes for a moment in which nobody is ready yet."""
        if self.random.random() < 0.25:
            time.sleep(self.random.uniform(0.5, 6))
            return
        before, deadline = self.epochs_begun(), time.monotonic() + 60
        while self.epochs_begun() == before and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(self.random.uniform(0, 3))

    def epochs_begun(self) -> int:
        return sum(self.epochs_noted("begun").values()) if self.log.exists() else 0

    def finish(self) -> int:
        """Call the sweep until it has nothing to do; returns how many calls that took."""
        calls = 1
        while self.wait(self.sweep(), 900) and calls < 3:
            calls += 1
        tables = [
            "-m",
            "analysis",
            str(ROOT / "sweeps" / "losses.yaml"),
            *self.settings,
            "--runs",
            "runs",
            "--out",
            "out",
        ]
        assert self.wait(self.start(*tables), 300) == 0
        return calls

    def epochs_noted(self, what: str) -> Counter[tuple[str, int]]:
        """How often each epoch of each training was begun or saved."""
        lines = [line.split() for line in self.log.read_text(encoding="utf-8").splitlines()]
        return Counter((key, int(epoch)) for kind, key, epoch, _ in lines if kind == what)


def results(folder: Path) -> dict[str, Any]:
    """All of a run that must not depend on kills: the table, the curves and the weights."""
    store = Store(folder / "runs")
    tables = [path for path in sorted((folder / "out").glob("*.csv")) if not path.stem.endswith("_runs")]
    assert tables
    found: dict[str, Any] = {path.name: path.read_text(encoding="utf-8") for path in tables}
    for key in store.keys():  # noqa: SIM118
        record = store.record(key)
        found[f"{key} metrics"] = None if record is None else record["metrics"]
        found[f"{key} curve"] = [{**line, "seconds": 0} for line in store.curve(key)]
        for path in sorted(store.folder(key).glob("*.pt")):
            found[f"{key} {path.name}"] = torch.load(path, weights_only=True)
    return found


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and one and all(isinstance(value, torch.Tensor) for value in one.values()):
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return bool(one == other)


def run(kills: int, epochs: int, seed: int, storage: str | None, folder: Path) -> dict[str, Any]:
    """The numbers of a drill; what differs from the undisturbed run is named under `differs`."""
    calm, rough = (Drill(folder / name, epochs, random.Random(seed), storage) for name in ("calm", "rough"))
    for drill in (calm, rough):
        drill.folder.mkdir(parents=True)
    began = time.monotonic()
    calm.finish()
    calm_seconds = time.monotonic() - began
    began = time.monotonic()
    rough.disturb(kills)
    calls = rough.finish()
    expected, found = results(calm.folder), results(rough.folder)
    saved, begun = rough.epochs_noted("saved"), rough.epochs_noted("begun")
    store = Store(rough.folder / "runs")
    records = [store.record(key) for key in store.keys()]  # noqa: SIM118
    return {
        "kills": dict(rough.kills),
        "trainings": len(records),
        "epochs of each": epochs,
        "lost": sum(record is None for record in records) + len(expected.keys() - found.keys()),
        "epochs saved twice": sum(count - 1 for count in saved.values()),
        "epochs begun again": sum(count - 1 for count in begun.values()),
        "sessions": sum(record["sessions"] for record in records if record is not None),
        "calls to finish": calls,
        "seconds": round(time.monotonic() - began),
        "seconds undisturbed": round(calm_seconds),
        "differs": sorted(name for name in expected | found if not equal(expected.get(name), found.get(name))),
    }


def failures(numbers: dict[str, Any]) -> list[str]:
    """What a drill must not show."""
    wrong = [f"{name}: {numbers[name]}" for name in ("lost", "epochs saved twice", "differs") if numbers[name]]
    return wrong if numbers["calls to finish"] == 1 else [*wrong, f"calls to finish: {numbers['calls to finish']}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=150, help="of each of the 8 trainings")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed when")
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get("SEMINAR_STORAGE"),
        help="a database for Optuna's study (default: the journal file)",
    )
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="drill"))
    numbers = run(options.kills, options.epochs, options.seed, options.storage, folder)
    print(json.dumps(numbers, indent=1))
    for line in failures(numbers):
        print(f"drill: {line} (see {folder})", file=sys.stderr)
    return 1 if failures(numbers) else 0


if __name__ == "__main__":
    sys.exit(main())
