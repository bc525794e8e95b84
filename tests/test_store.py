"""The store: once, whole, and honest about what went wrong."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seminar.catalogue import Cell
from seminar.spec import RECIPE, InputError, Stage
from seminar.store import Interrupted, StageFailed, Store, write_atomic, write_json
from tests.records import line, no_training

MakeCell = Callable[..., Cell]


class Counting:
    """A training that only notes that it ran."""

    def __init__(self) -> None:
        self.trained: list[Stage] = []

    def __call__(self, stage: Stage, folder: Path, ancillary: Path | None) -> dict[str, Any]:
        assert (folder / "stage.json").exists()
        assert not (folder / "record.json").exists()
        assert ancillary is None or (ancillary / "record.json").exists()
        self.trained.append(stage)
        return no_training(stage, folder, value=len(self.trained))


def test_a_chain_is_trained_once_and_in_order(tmp_path: Path, cell: MakeCell) -> None:
    store, train = Store(tmp_path), Counting()
    long, short = cell(modules=2).stage, cell(modules=1).stage
    record = store.ensure(long, train)
    assert train.trained == list(long.chain)
    assert store.ensure(short, train) == store.record(short.key)
    assert store.ensure(long, train) == record
    assert len(train.trained) == 3
    assert [store.status(stage.key) for stage in long.chain] == ["done"] * 3
    assert store.stage(long.key) == long
    assert record["stage"] == json.loads(long.canonical())["stage"]


def test_a_key_names_one_stage_also_after_it_was_seen(tmp_path: Path, cell: MakeCell) -> None:
    store, stage = Store(tmp_path), cell(losses="pce").stage
    recipe, value = RECIPE, json.loads(stage.canonical())["stage"]
    assert store.names(stage.key, recipe, value)
    assert store.names(stage.key, recipe, json.loads(json.dumps(value)))
    assert not store.names(stage.key, recipe, {**value, "lr": 7.0})
    assert not store.names(stage.key, recipe + 1, value)
    assert not store.names("0" * 16, recipe, value)
    store.ensure(stage, no_training)
    assert store.record(stage.key) is not None
    path = tmp_path / stage.key / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stage": {**value, "lr": 7.0}}))
    with pytest.raises(InputError, match=f"is not the record of {stage.key}"):
        store.record(stage.key)


def test_a_failure_keeps_its_cause_and_can_be_tried_again(tmp_path: Path, cell: MakeCell) -> None:
    store, stage = Store(tmp_path), cell(losses="pce").stage

    def fail(*_: object) -> dict[str, Any]:
        raise RuntimeError("out of luck\nsecond line")

    with pytest.raises(RuntimeError):
        store.ensure(stage, fail)
    assert store.status(stage.key) == "failed"
    failure = store.failure(stage.key)
    assert failure is not None
    assert failure["error"] == "RuntimeError: out of luck"
    assert "in fail" in failure["traceback"]
    store.ensure(stage, Counting())
    assert store.status(stage.key) == "done"
    assert store.failure(stage.key) is None


@pytest.mark.parametrize("signal", [Interrupted, KeyboardInterrupt])
def test_a_stop_is_no_failure(tmp_path: Path, cell: MakeCell, signal: type[BaseException]) -> None:
    store, stage = Store(tmp_path), cell(losses="pce").stage

    def stop(*_: object) -> dict[str, Any]:
        raise signal

    with pytest.raises(signal):
        store.ensure(stage, stop)
    assert store.status(stage.key) == "stopped"
    assert store.status("0" * 16) == "missing"


def test_a_failed_ancillary_is_not_tried_twice_by_a_call_and_is_named(tmp_path: Path, cell: MakeCell) -> None:
    store, stage = Store(tmp_path), cell(modules=2).stage
    tried: list[str] = []

    def fail(stage: Stage, *_: object) -> dict[str, Any]:
        tried.append(stage.key)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        store.ensure(stage, fail, call="one")
    with pytest.raises(StageFailed, match=f"{stage.chain[0].key} failed: RuntimeError: out of luck"):
        store.ensure(stage, fail, call="one")
    assert tried == [stage.chain[0].key]
    assert [store.status(member.key) for member in stage.chain] == ["failed"] * 3
    failure = store.failure(stage.key)
    assert failure is not None
    assert stage.chain[0].key in failure["error"]
    store.ensure(stage, Counting(), call="another")
    assert store.status(stage.key) == "done"


def test_a_waiting_process_can_be_stopped(tmp_path: Path, cell: MakeCell) -> None:
    store, stage = Store(tmp_path), cell(losses="pce").stage

    def stop(_: Stage) -> None:
        raise Interrupted

    def train(*_: object) -> dict[str, Any]:
        with pytest.raises(Interrupted):  # The lock is held here: another store has to wait.
            Store(tmp_path).ensure(stage, Counting(), on_wait=stop)
        return {}

    store.ensure(stage, train)


def test_an_interrupted_ancillary_is_nobodys_failure(tmp_path: Path, cell: MakeCell) -> None:
    stage, store = cell().stage, Store(tmp_path)

    def stop(*_: object) -> dict[str, Any]:
        raise Interrupted

    with pytest.raises(Interrupted):
        store.ensure(stage, stop)
    assert store.status(stage.key) == "missing"
    assert store.status(stage.chain[0].key) == "stopped"


def test_a_stage_of_another_recipe_is_told_apart_from_a_damaged_one(tmp_path: Path, cell: MakeCell) -> None:
    stage, store = cell().stage, Store(tmp_path)
    path = store.folder(stage.key) / "stage.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"recipe": 0, "stage": {"freeze_bn": false}}')
    with pytest.raises(InputError, match=r"was written by recipe 0; this version is recipe \d+$"):
        store.stage(stage.key)
    path.write_text('{"recipe"')
    with pytest.raises(InputError, match="damaged"):
        store.stage(stage.key)


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path: Path, cell: MakeCell) -> None:
    store, stage = Store(tmp_path), cell(losses="pce").stage
    store.folder(stage.key).mkdir(parents=True)
    torn = store.folder(stage.key) / ".checkpoint.pt.123.456"
    torn.write_text("half")
    store.ensure(stage, Counting())
    assert not torn.exists()


def _slow(folder: str, stage: Stage, queue: Any) -> None:
    def train(stage: Stage, folder: Path, ancillary: Path | None) -> dict[str, Any]:
        queue.put(stage.key)
        time.sleep(0.5)
        return no_training(stage, folder)

    Store(Path(folder)).ensure(stage, train)


@pytest.mark.slow
def test_two_processes_never_train_one_stage(tmp_path: Path, cell: MakeCell) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    stage = cell().stage
    processes = [context.Process(target=_slow, args=(str(tmp_path), stage, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 60
    while Store(tmp_path).status(stage.chain[0].key) != "running" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Store(tmp_path).status(stage.chain[0].key) == "running"
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [queue.get(timeout=5) for _ in range(2)] == [member.key for member in stage.chain]
    assert queue.empty()


@pytest.mark.parametrize("name", ["record.json", "stage.json"])
@pytest.mark.parametrize("text", ["{", '{"key": "another"}', "[]"])
def test_damaged_files_are_named_and_kept(tmp_path: Path, cell: MakeCell, name: str, text: str) -> None:
    store, stage, train = Store(tmp_path), cell(losses="pce").stage, Counting()
    store.ensure(stage, train)
    path = store.folder(stage.key) / name
    path.write_text(text)
    if name == "stage.json":
        (store.folder(stage.key) / "record.json").unlink()
    with pytest.raises(InputError, match=name):
        store.ensure(stage, train)
    assert path.read_text() == text
    assert len(train.trained) == 1


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "metrics.jsonl").write_text(line(1) + '{"epo')
    assert store.curve("k") == [json.loads(line(1))]
    assert store.curve("missing") == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def tear(file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, tear)
    assert path.read_text() == "old"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"miou": float("nan")})
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
