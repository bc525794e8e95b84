#!/usr/bin/env python3
"""A small stand-in for a W&B server, for tests on one machine without internet.

It speaks just enough of the GraphQL / file-stream / upload protocol of wandb
0.31 that the real client, unchanged, can do: `wandb sweep FILE`, `wandb agent
ID`, `wandb sweep --pause|--resume|--stop|--cancel ID`, `wandb.init()` online
(config, history, summary, console, files, images, tables, artifacts), `wandb
sync DIR` of offline runs, and read back with `wandb.Api().runs()/.run()/
.sweep()`.  Search methods: grid and random, with `run_cap`; bayes is answered
with random search and a warning.
`early_terminate: hyperband` is applied.

    python -m tests.wandb_server --port 8931 --data out/fake-wandb
    export WANDB_BASE_URL=http://127.0.0.1:8931 WANDB_API_KEY=$(printf 'a%.0s' {1..40})
    wandb sweep sweeps/losses.yaml && wandb agent ENTITY/PROJECT/SWEEP

Everything is kept in memory and mirrored as plain files under --data:
`sweeps/ID.json`, `runs/ENTITY/PROJECT/ID/{run.json,history.jsonl,output.log,
files/...}`, `artifacts/...` and `requests.jsonl` (a line a request; operations
this server does not know are marked `unknown`).  No authentication, no state
kept across restarts, loopback only: a test double, not a W&B server.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import itertools
import json
import math
import random
import re
import secrets
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

LIVE = {"pending", "running"}


class NotFound(Exception):
    """Answered with HTTP 404, as the real server does for a deleted sweep."""


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_name() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))


def gid(kind: str, name: str) -> str:
    """An opaque GraphQL node id, base64 of `kind:name`, as the real server gives."""
    return base64.b64encode(f"{kind}:{name}".encode()).decode()


# --------------------------------------------------------------- search space


def flatten(params: dict, prefix: tuple = ()) -> dict[tuple, dict]:
    """Leaves of the possibly nested `parameters:` block, by their path of names."""
    out: dict[tuple, dict] = {}
    for name, spec in params.items():
        if "parameters" in spec:
            out |= flatten(spec["parameters"], (*prefix, name))
        else:
            out[(*prefix, name)] = spec
    return out


def wire(point: dict[tuple, Any]) -> dict[str, dict]:
    """The form the agent expects: {name: {"value": ...}}, nested names as dicts inside."""
    out: dict[str, dict] = {}
    for (head, *rest), value in point.items():
        node, key = out.setdefault(head, {}), "value"
        for name in rest:
            node, key = node.setdefault(key, {}), name
        node[key] = value
    return out


def kind_of(spec: dict) -> str:
    ints = isinstance(spec.get("min"), int) and isinstance(spec.get("max"), int)
    return spec.get("distribution") or ("int_uniform" if ints else "uniform")


def grid_values(name: tuple, spec: dict) -> list:
    if "value" in spec:
        return [spec["value"]]
    if "values" in spec and "probabilities" not in spec:
        return list(spec["values"])
    if kind_of(spec) == "int_uniform":
        return list(range(spec["min"], spec["max"] + 1))
    if kind_of(spec) == "q_uniform":  # max is left out, as numpy.arange does in W&B's own engine
        q = spec.get("q", 1)
        count = max(0, math.ceil((spec["max"] - spec["min"]) / q - 1e-12))
        return [spec["min"] + i * q for i in range(count)]
    raise ValueError(f"{'.'.join(name)}: {kind_of(spec)} cannot be searched with method grid")


def sample(spec: dict, rng: random.Random) -> Any:
    """One draw from any distribution of the W&B sweep schema."""
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return rng.choices(spec["values"], spec.get("probabilities"))[0]
    kind, q, lo, hi = kind_of(spec), spec.get("q", 1), spec.get("min"), spec.get("max")
    mu, sigma = spec.get("mu", 0.0), spec.get("sigma", 1.0)
    x = {
        "int_uniform": lambda: rng.randint(lo, hi),
        "uniform": lambda: rng.uniform(lo, hi),
        "log_uniform_values": lambda: math.exp(rng.uniform(math.log(lo), math.log(hi))),
        "inv_log_uniform_values": lambda: math.exp(rng.uniform(math.log(lo), math.log(hi))),  # the same law
        "log_uniform": lambda: math.exp(rng.uniform(lo, hi)),
        "inv_log_uniform": lambda: math.exp(-rng.uniform(lo, hi)),
        "normal": lambda: rng.gauss(mu, sigma),
        "log_normal": lambda: rng.lognormvariate(mu, sigma),
        "beta": lambda: rng.betavariate(spec.get("a", 1), spec.get("b", 1)),
    }[kind.removeprefix("q_")]()
    return round(x / q) * q if kind.startswith("q_") else x


class Sweep:
    """One sweep: its configuration, the runs it issued, and what comes next."""

    def __init__(self, name: str, entity: str, project: str, config: dict, seed: int):
        self.name, self.entity, self.project = name, entity, project
        self.state, self.created, self.display = "RUNNING", now(), None
        self.issued: list[str] = []
        self.configure(config, seed)

    def configure(self, config: dict, seed: int) -> None:
        self.config, self.rng = config, random.Random(seed)
        self.specs = dict(
            sorted(flatten(config.get("parameters", {})).items(), key=lambda leaf: leaf[0])
        )  # W&B's grid order
        self.metric = (config.get("metric") or {}).get("name")
        self.maximize = (config.get("metric") or {}).get("goal") == "maximize"
        self.size, self.plan = None, None
        if config.get("method") == "grid":
            axes = [grid_values(n, s) for n, s in self.specs.items()]
            self.size, self.plan = math.prod(map(len, axes)), itertools.product(*axes)

    @property
    def expected(self) -> int | None:
        caps = [n for n in (self.size, self.config.get("run_cap")) if n is not None]
        return min(caps) if caps else None

    def next_config(self, runs: list[dict]) -> dict[str, dict] | None:
        """What the next run is to use, in the agent's form; None when the sweep is spent."""
        if self.expected is not None and len(self.issued) >= self.expected:
            return None
        if self.plan is not None:
            point = next(self.plan, None)
            return None if point is None else wire(dict(zip(self.specs, point, strict=True)))
        return wire({n: sample(s, self.rng) for n, s in self.specs.items()})

    def bands(self) -> list[int]:
        et = self.config.get("early_terminate") or {}
        eta = et.get("eta", 3)
        if "min_iter" in et:
            return [int(et["min_iter"] * eta**i) for i in range(20)]
        if "max_iter" in et:
            return sorted(b for i in range(int(et["s"])) if (b := int(et["max_iter"] / eta ** (i + 1))) >= 1)
        return []

    def to_stop(self, runs: list[dict]) -> list[str]:
        """W&B's hyperband: live runs outside the best 1/eta at the last band they passed.

        A band counts values of the metric logged, not epochs and not steps.
        """
        bands = self.bands()
        if not bands or not self.metric:
            return []
        et, sign, stop = self.config["early_terminate"], -1.0 if self.maximize else 1.0, []
        curves = {r["name"]: [sign * v for v in numbers(r, self.metric)] for r in runs}
        for run in runs:
            curve = curves[run["name"]]
            passed = [b for b in bands if b <= len(curve)]
            if run["state"] != "running" or not passed:
                continue
            band = passed[-1]
            field = sorted(c[band - 1] for c in curves.values() if len(c) >= band)
            mine = curve[band - 1] if et.get("strict") else min(curve)
            if mine > field[int(len(field) / et.get("eta", 3))]:
                stop.append(run["name"])
        return stop


def rows_of(run: dict) -> list[dict]:
    return [json.loads(line) for line in run["history"]]


def numbers(run: dict, key: str) -> list[float]:
    found = (row.get(key) for row in rows_of(run))
    return [v for v in found if isinstance(v, (int, float)) and math.isfinite(v)]


def sampled(run: dict, spec: dict) -> list[dict]:
    """Rows that hold every key asked for; never thinned out, whatever `samples` says."""
    lo, hi, keys = spec.get("minStep", 0), spec.get("maxStep", math.inf), spec.get("keys")
    rows = [r for r in rows_of(run) if lo <= r.get("_step", 0) <= hi]
    return [{k: r[k] for k in keys} for r in rows if all(k in r for k in keys)] if keys else rows


def matches(run: dict, want: dict) -> bool:
    """The few Mongo-like filters that analysis scripts need: equality, $in, $and, $or."""
    for key, value in want.items():
        if key in ("$and", "$or"):
            if not (all if key == "$and" else any)(matches(run, w) for w in value):
                return False
            continue
        node: Any = {**run, "summary_metrics": run["summary"]}
        for part in key.removesuffix(".value").split("."):
            node = node.get(part) if isinstance(node, dict) else None
            node = node["value"] if isinstance(node, dict) and set(node) == {"value"} else node
        options = value["$in"] if isinstance(value, dict) and "$in" in value else [value]
        if not (any(o in node for o in options) if isinstance(node, list) else node in options):
            return False
    return True


# -------------------------------------------------- the shapes the client reads
# Supersets of what any one query asks for: the client drops what it did not ask.
# fmt: off


def project_json(entity: str, project: str) -> dict:
    return {"id": gid("Project", f"{entity}/{project}"), "name": project, "entityName": entity, "internalId": "1",
            "readOnly": False, "createdAt": now(), "entity": {"id": gid("Entity", entity), "name": entity}}


def viewer_json(entity: str) -> dict:
    return {"id": gid("User", entity), "entity": entity, "username": entity, "name": entity, "admin": False,
            "email": "nobody@localhost", "flags": "{}", "teams": {"edges": [{"node": {"name": entity}}]},
            "apiKeys": {"edges": []}, "userEntity": {"name": entity, "organizations": []}}


def new_run(entity: str, project: str, name: str, order: int) -> dict:
    return {"id": gid("Run", f"{entity}/{project}/{name}"), "name": name, "entity": entity, "project": project,
            "displayName": name, "state": "running", "config": {}, "summary": {}, "history": [], "events": [],
            "output": [], "files": {}, "sweep": None, "group": None, "jobType": None, "tags": [], "notes": None,
            "commit": None, "stopped": False, "exitcode": None, "created": now(), "heartbeat": now(), "order": order}


def run_json(run: dict) -> dict:
    keys: dict[str, dict] = {}
    for row in rows_of(run):
        for k in row:
            keys.setdefault(k, {"typeCounts": [{"type": "number", "count": 0}]})["typeCounts"][0]["count"] += 1
    return {"id": run["id"], "name": run["name"], "displayName": run["displayName"], "state": run["state"],
            "tags": run["tags"], "config": json.dumps(run["config"]), "summaryMetrics": json.dumps(run["summary"]),
            "systemMetrics": "{}", "group": run["group"], "jobType": run["jobType"], "commit": run["commit"],
            "createdAt": run["created"], "heartbeatAt": run["heartbeat"], "description": "", "notes": run["notes"],
            "readOnly": False, "sweepName": run["sweep"], "user": viewer_json(run["entity"]),
            "exitcode": run["exitcode"], "stopped": run["stopped"], "shouldStop": run["stopped"],
            "failed": run["state"] == "failed", "running": run["state"] == "running", "projectId": "1",
            "project": project_json(run["entity"], run["project"]), "fileCount": len(run["files"]),
            "history": run["history"], "events": run["events"], "sampledHistory": [rows_of(run)],
            "historyKeys": {"sets": [], "keys": keys, "lastStep": len(run["history"]) - 1},
            "historyLineCount": len(run["history"]), "eventsLineCount": len(run["events"]),
            "logLineCount": len(run["output"]), "historyTail": json.dumps(run["history"][-1:]),
            "eventsTail": json.dumps(run["events"][-1:]), "wandbConfig": json.dumps({"t": 1})}


def sweep_json(s: Sweep, runs: list[dict]) -> dict:
    finals = [v for r in runs if isinstance(v := r["summary"].get(s.metric), (int, float))]
    best = (max if s.maximize else min)(finals) if finals else None
    return {"id": gid("Sweep", s.name), "name": s.name, "displayName": s.display, "method": s.config.get("method"),
            "state": s.state, "description": s.config.get("description"), "config": yaml.safe_dump(s.config),
            "createdAt": s.created, "heartbeatAt": now(), "updatedAt": now(), "earlyStopJobRunning": False,
            "bestLoss": best, "controller": None, "scheduler": None, "runCount": len(s.issued),
            "runCountExpected": s.expected, "priorRuns": {"edges": []},
            "runs": {"edges": [{"node": run_json(r)} for r in runs]}}


# fmt: on
# ---------------------------------------------------------------------- server


class Store:
    """All state, with one method `gql_<Operation>` for each GraphQL operation."""

    def __init__(self, data: Path | None, entity: str, url: str, seed: int = 0):
        self.data, self.entity, self.url, self.seed = data, entity, url, seed
        self.lock = threading.RLock()
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, dict] = {}
        self.runs: dict[tuple[str, str, str], dict] = {}
        self.artifacts: dict[str, dict] = {}
        self.blobs: dict[str, bytes] = {}

    # -- helpers

    def where(self, v: dict) -> tuple[str, str]:
        entity = v.get("entityName") or v.get("entity") or self.entity
        return entity, v.get("projectName") or v.get("project") or "uncategorized"

    def run(self, entity: str, project: str, name: str) -> dict:
        key = (entity, project, name)
        return self.runs.setdefault(key, new_run(*key, order=len(self.runs)))

    def sweep_runs(self, s: Sweep) -> list[dict]:
        return [self.runs[(s.entity, s.project, n)] for n in s.issued]

    def write(self, path: str, body: bytes) -> None:
        if self.data and (target := (self.data / path).resolve()).is_relative_to(self.data.resolve()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)

    def save(self, run: dict) -> None:
        base = f"runs/{run['entity']}/{run['project']}/{run['name']}"
        meta = {k: v for k, v in run.items() if k not in ("history", "events", "output", "files")}
        self.write(f"{base}/run.json", json.dumps(meta, indent=1, sort_keys=True).encode())
        self.write(f"{base}/history.jsonl", "".join(x.rstrip("\n") + "\n" for x in run["history"]).encode())
        self.write(f"{base}/output.log", "".join(x + "\n" for x in run["output"]).encode())

    def save_sweep(self, s: Sweep) -> None:
        body = {"state": s.state, "runs": s.issued, "config": s.config}
        self.write(f"sweeps/{s.name}.json", json.dumps(body, indent=1).encode())

    def blob_url(self, *parts: str) -> str:
        return f"{self.url}/blob/" + "/".join(urllib.parse.quote(p) for p in parts)

    # -- who am I, what can you do

    def gql_Viewer(self, v: dict) -> dict:
        return {"viewer": viewer_json(self.entity)}

    def gql_ServerInfo(self, v: dict) -> dict:
        versions = {"max_cli_version": "99.0.0", "min_cli_version": "0.0.1"}
        return {"serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}}

    def gql_OrganizationCoreWeaveOrganizationID(self, v: dict) -> dict:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    gql_GetViewer = gql_GetDefaultEntity = gql_Viewer
    gql_ServerFeaturesQuery = gql_ServerInfo

    # -- sweeps and agents

    def gql_UpsertSweep(self, v: dict) -> dict:
        warnings: list[str] = []
        sweep = next((s for s in self.sweeps.values() if gid("Sweep", s.name) == v.get("id")), None)
        if v.get("config"):
            config = yaml.safe_load(v["config"])
            if config.get("method") == "bayes":
                warnings = ["fake server: method bayes is answered with random search"]
            if sweep is None:
                name = new_name()
                sweep = self.sweeps[name] = Sweep(name, *self.where(v), config, self.seed)
            else:
                sweep.configure(config, self.seed)
        if sweep is None:
            raise NotFound("sweep not found")
        sweep.state = (v.get("state") or sweep.state).upper()
        sweep.display = v.get("displayName") or sweep.display
        self.save_sweep(sweep)
        body = {"name": sweep.name, "project": project_json(sweep.entity, sweep.project)}
        return {"upsertSweep": {"sweep": body, "configValidationWarnings": warnings}}

    def gql_SweepWithRuns(self, v: dict) -> dict:
        sweep = self.sweeps.get(v.get("sweep") or v.get("name") or "")
        return {"project": {"sweep": sweep_json(sweep, self.sweep_runs(sweep)) if sweep else None}}

    gql_GetSweep = gql_GetSweepState = gql_GetSweepLegacy = gql_Sweep = gql_SweepWithRuns

    def gql_CreateAgent(self, v: dict) -> dict:
        if v["sweep"] not in self.sweeps:
            raise NotFound("sweep not found")
        agent = gid("Agent", new_name())
        self.agents[agent] = {"sweep": v["sweep"], "runs": []}
        return {"createAgent": {"agent": {"id": agent}}}

    def gql_Heartbeat(self, v: dict) -> dict:
        """Told which runs the agent has alive, answer with what it must do next."""
        agent = self.agents.get(v["id"])
        if agent is None or agent["sweep"] not in self.sweeps:
            raise NotFound("agent not found")
        sweep, alive = self.sweeps[agent["sweep"]], json.loads(v.get("runState") or "{}")
        mine = {name: self.runs[(sweep.entity, sweep.project, name)] for name in agent["runs"]}
        for name, run in mine.items():  # the agent dropped it, and it never told its exit code
            if name not in alive and run["state"] in LIVE:
                run["state"] = "crashed"
                self.save(run)
        for name in sweep.to_stop(self.sweep_runs(sweep)):
            self.runs[(sweep.entity, sweep.project, name)]["stopped"] = True
        if sweep.state == "CANCELED":
            commands = [{"type": "exit"}]
        elif alive:
            commands = [{"type": "stop", "run_id": n} for n in alive if n in mine and mine[n]["stopped"]]
        elif sweep.state == "RUNNING":
            commands = [self.issue(sweep, agent)]
        else:  # paused: wait; finished: leave
            commands = [{"type": "exit"}] if sweep.state == "FINISHED" else []
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def issue(self, sweep: Sweep, agent: dict) -> dict:
        args = sweep.next_config(self.sweep_runs(sweep))
        if args is None:
            if not any(r["state"] in LIVE for r in self.sweep_runs(sweep)):
                sweep.state = "FINISHED"
                self.save_sweep(sweep)
            return {"type": "exit"}
        name = new_name()
        run = self.run(sweep.entity, sweep.project, name)
        sweep.issued.append(name)
        agent["runs"].append(name)
        run |= {"state": "pending", "sweep": sweep.name, "config": args}
        run["displayName"] = f"sweep-{len(sweep.issued)}"
        self.save(run)
        self.save_sweep(sweep)
        program = sweep.config.get("program", "")
        return {"type": "run", "id": gid("Command", name), "run_id": name, "program": program, "args": args}

    # -- runs, as the training process writes them

    def gql_RunResumeStatus(self, v: dict) -> dict:
        entity, project = self.where(v)
        run = self.runs.get((entity, project, v["name"]))
        bucket = run_json(run) if run and run["state"] != "pending" else None
        return {"model": project_json(entity, project) | {"bucket": bucket}}

    def gql_UpsertBucket(self, v: dict) -> dict:
        entity, project = self.where(v)
        inserted = (entity, project, v.get("name")) not in self.runs
        run = self.run(entity, project, v.get("name") or new_name())
        run["state"] = "running" if run["state"] == "pending" else run["state"]
        run["config"] |= json.loads(v.get("config") or "{}")
        run["summary"] |= json.loads(v.get("summaryMetrics") or "{}")
        same = {k: v[k] for k in ("displayName", "jobType", "notes", "tags", "sweep", "commit") if v.get(k)}
        run |= same | ({"group": v["groupName"]} if v.get("groupName") else {})
        self.save(run)
        return {"upsertBucket": {"bucket": run_json(run), "inserted": inserted}}

    def gql_RunStoppedStatus(self, v: dict) -> dict:
        run = self.runs.get((*self.where(v), v["runId"]), {})
        return {"project": {"run": {"stopped": run.get("stopped", False)}}}

    def file_stream(self, entity: str, project: str, name: str, body: dict) -> dict:
        run = self.run(entity, project, name)
        for file, chunk in (body.get("files") or {}).items():
            if file == "wandb-summary.json":
                run["summary"] = json.loads(chunk["content"][-1])
                continue
            lines = run[{"wandb-history.jsonl": "history", "wandb-events.jsonl": "events"}.get(file, "output")]
            at = chunk.get("offset", len(lines))
            lines[at : at + len(chunk["content"])] = chunk["content"]
        run["heartbeat"] = now()
        if body.get("complete"):
            run["exitcode"] = code = body.get("exitcode", 0)
            run["state"] = "finished" if code == 0 else "killed" if run["stopped"] else "failed"
        elif run["state"] == "pending":
            run["state"] = "running"
        self.save(run)
        return {"exitcode": run["exitcode"], "limits": {}, **({"stopped": True} if run["stopped"] else {})}

    def gql_CreateRunFiles(self, v: dict) -> dict:
        entity, project = self.where(v)
        base = ("runs", entity, project, v["run"], "files")
        files = [{"name": f, "uploadUrl": self.blob_url(*base, f)} for f in v["files"]]
        ident = self.run(entity, project, v["run"])["id"]
        return {"createRunFiles": {"runID": ident, "uploadHeaders": [], "files": files}}

    def put_blob(self, path: str, body: bytes) -> None:
        self.blobs[path] = body
        self.write(path, body)
        if path.startswith("runs/"):
            _, entity, project, name, _, file = path.split("/", 5)
            self.run(entity, project, name)["files"][file] = len(body)

    # -- artifacts: of one collection, those with equal contents are one

    def gql_ArtifactType(self, v: dict) -> dict:
        return {"project": {"artifact": None}}  # "no such artifact yet"

    def gql_CreateArtifact(self, v: dict) -> dict:
        same = ("entityName", "projectName", "artifactCollectionName")
        collection = [k for k, a in self.artifacts.items() if all(a[name] == v[name] for name in same)]
        found = next((k for k in collection if self.artifacts[k]["digest"] == v["digest"]), None)
        art = found or gid("Artifact", new_name())
        if found is None:
            self.artifacts[art] = v | {"state": "PENDING", "version": len(collection), "used_by": [], "logged_by": []}
        if v["runName"]:
            self.artifacts[art]["logged_by"].append(v["runName"])
        sequence = {"id": gid("Seq", v["artifactCollectionName"]), "latestArtifact": None}
        body = {"id": art, "state": self.artifacts[art]["state"], "artifactSequence": sequence}
        return {"createArtifact": {"artifact": body}}

    def gql_UseArtifact(self, v: dict) -> dict:
        self.artifacts[v["artifactID"]]["used_by"].append(v["runName"])
        return {"useArtifact": {"artifact": {"id": v["artifactID"]}}}

    def artifact_json(self, art: str) -> dict:
        a = self.artifacts[art]
        home = project_json(a["entityName"], a["projectName"])
        return {"__typename": "Artifact", "id": art, "versionIndex": a["version"], "description": None,
                "artifactSequence": {"__typename": "ArtifactSequence", "name": a["artifactCollectionName"],
                                     "project": home},
                "artifactType": {"name": a["artifactTypeName"]}, "metadata": a["metadata"], "ttlDurationSeconds": -2,
                "ttlIsInherited": True, "tags": [], "historyStep": a["historyStep"], "state": a["state"], "size": 1,
                "digest": a["digest"], "commitHash": None, "fileCount": 1, "createdAt": now(), "updatedAt": now(),
                "aliases": []}  # fmt: skip

    def gql_ArtifactByID(self, v: dict) -> dict:
        return {"artifact": self.artifact_json(v["id"])}

    def gql_RunOutputArtifacts(self, v: dict) -> dict:
        mine = [a for a, body in self.artifacts.items() if v["run"] in body["logged_by"]]
        edges = [{"node": self.artifact_json(art), "cursor": art} for art in mine]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"project": {"run": {"artifacts": {"totalCount": len(mine), "pageInfo": page, "edges": edges}}}}

    def gql_FetchArtifactManifest(self, v: dict) -> dict:
        url = self.blob_url("artifacts", v["id"], "wandb_manifest.json")
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def artifact_file(self, digest: str) -> bytes | None:
        """The file of any artifact with this MD5, in hexadecimal digits."""
        blobs = (body for path, body in self.blobs.items() if path.startswith("artifacts/"))
        return next((body for body in blobs if hashlib.md5(body).hexdigest() == digest), None)

    def manifest(self, art: str) -> dict:
        file = {"id": gid("File", art), "uploadHeaders": []}
        file["uploadUrl"] = self.blob_url("artifacts", art, "wandb_manifest.json")
        return {"artifactManifest": {"id": gid("Manifest", art), "file": file}}

    def gql_CreateArtifactManifest(self, v: dict) -> dict:
        return {"createArtifactManifest": self.manifest(v["artifactID"])}

    def gql_UpdateArtifactManifest(self, v: dict) -> dict:
        art = base64.b64decode(v["artifactManifestID"]).decode().partition(":")[2]
        return {"updateArtifactManifest": self.manifest(art)}

    def gql_CreateArtifactFiles(self, v: dict) -> dict:
        edges = []
        for f in v["artifactFiles"]:
            node = {"name": f["name"], "storagePath": f["name"], "artifact": {"id": f["artifactID"]}}
            url = self.blob_url("artifacts", f["artifactID"], f["name"])
            edges.append({"node": node | {"uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def gql_CommitArtifact(self, v: dict) -> dict:
        self.artifacts[v["artifactID"]]["state"] = "COMMITTED"
        digest = self.artifacts[v["artifactID"]]["digest"]
        return {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": digest}}}

    # -- the public API, as analysis scripts read it

    def gql_Runs(self, v: dict) -> dict:
        entity, project = self.where(v)
        wanted = json.loads(v.get("filters") or "{}")
        runs = [r for (e, p, _), r in self.runs.items() if (e, p) == (entity, project) and matches(r, wanted)]
        runs.sort(key=lambda r: r["order"])
        if m := re.fullmatch(r"([+-])summary_metrics\.(.+)", v.get("order") or ""):
            have = [r for r in runs if isinstance(r["summary"].get(m[2]), (int, float))]
            have.sort(key=lambda r: r["summary"][m[2]], reverse=m[1] == "-")
            runs = have + [r for r in runs if r not in have]
        elif str(v.get("order") or "").startswith("-"):
            runs.reverse()
        edges = [{"node": run_json(r), "cursor": str(i)} for i, r in enumerate(runs)]
        page = {"edges": edges, "pageInfo": {"hasNextPage": False, "endCursor": None}, "totalCount": len(runs)}
        return {"project": project_json(entity, project) | {"runCount": len(runs), "runs": page}}

    def gql_Run(self, v: dict) -> dict:
        entity, project = self.where(v)
        run = self.runs.get((entity, project, v.get("name") or v.get("run")))
        node = run_json(run) if run else None
        if node and "minStep" in v:  # HistoryPage
            lo, hi = v["minStep"] or 0, v.get("maxStep") or math.inf
            node["history"] = [x for x in run["history"] if lo <= json.loads(x).get("_step", 0) < hi]
        if node and (specs := v.get("specs") or ([v["spec"]] if v.get("spec") else [])):
            node["sampledHistory"] = [sampled(run, json.loads(spec)) for spec in specs]
        return {"project": project_json(entity, project) | {"run": node}}

    gql_GetRuns = gql_LightweightRuns = gql_GetLightweightRuns = gql_Runs
    gql_GetRun = gql_GetLightweightRun = gql_QueryRunInfo = gql_RunHistoryKeys = gql_Run
    gql_RunFullHistory = gql_RunSampledHistory = gql_HistoryPage = gql_SampledHistoryPage = gql_Run

    def gql_RunParquetHistory(self, v: dict) -> dict:  # scan_history(): nothing exported, all rows "live"
        live = rows_of(self.run(*self.where(v), v["runName"]))
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": live}}}}

    def gql_RunFiles(self, v: dict) -> dict:
        entity, project = self.where(v)
        run, edges = self.run(entity, project, v["name"]), []
        for file, size in run["files"].items():
            if not v.get("fileNames") or file in v["fileNames"]:
                url = self.blob_url("runs", entity, project, run["name"], "files", file)
                node = {"id": gid("File", file), "name": file, "url": url, "directUrl": url, "md5": ""}
                edges.append(
                    {"cursor": file, "node": node | {"sizeBytes": str(size), "mimetype": "", "updatedAt": now()}}
                )
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": project_json(entity, project) | {"run": {"fileCount": len(edges), "files": files}}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *args: Any) -> None:
        pass

    def note(self, **entry: Any) -> None:
        if self.store.data:
            with open(self.store.data / "requests.jsonl", "a") as f:
                f.write(json.dumps({"t": round(time.time(), 3), **entry}) + "\n")

    def reply(self, payload: Any, status: int = 200) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        kind = "application/octet-stream" if isinstance(payload, bytes) else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def serve(self) -> None:
        body, path = self.read_body(), urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        with self.store.lock:
            if path == "/graphql":
                return self.graphql(json.loads(body))
            if m := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
                content = json.loads(body)
                self.note(
                    rest="file_stream", run=m[3], files=list(content.get("files") or {}), done=content.get("complete")
                )
                return self.reply(self.store.file_stream(*m.groups(), content))
            if path.startswith("/blob/"):
                self.note(rest=self.command, path=path, bytes=len(body))
                if self.command in ("PUT", "POST"):
                    self.store.put_blob(path[6:], body)
                    return self.reply({})
                blob = self.store.blobs.get(path[6:])
                return self.reply({} if blob is None else blob, 404 if blob is None else 200)
            if m := re.fullmatch(r"/artifacts(?:V2/[^/]+/.*)?/[^/]+/([0-9a-f]{32})(?:/[^/]+)?", path):
                self.note(rest=self.command, path=path)
                blob = self.store.artifact_file(m[1])
                return self.reply({} if blob is None else blob, 404 if blob is None else 200)
            self.note(rest=self.command, path=path, unknown=True)
            return self.reply({}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = serve

    def graphql(self, request: dict) -> None:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request.get("query", ""))
        name, variables = found[1] if found else "", request.get("variables") or {}
        if set(variables) == {"input"}:
            variables = variables["input"]
        method = getattr(self.store, f"gql_{name}", None)
        unknown = {} if method else {"unknown": True, "query": request.get("query")}
        self.note(gql=name, variables=variables, **unknown)
        if method is None:
            return self.reply({"errors": [{"message": f"fake server: unknown operation {name}"}]}, 400)
        try:
            self.reply({"data": method(variables)})
        except NotFound as e:
            self.reply({"errors": [{"message": str(e)}]}, 404)
        except Exception as e:  # a request this server misread: say so, and keep it for the test to show
            self.note(gql=name, failed=f"{type(e).__name__}: {e}")
            self.reply({"errors": [{"message": f"fake server: {type(e).__name__}: {e}"}]}, 400)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed resets its connection: no traceback for that."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def start(port: int = 0, data: str | Path | None = None, entity: str = "local", seed: int = 0):
    """Start in a thread; returns (server, store). `server.shutdown()` stops it."""
    data = Path(data) if data else None
    if data:
        data.mkdir(parents=True, exist_ok=True)
    handler = type("BoundHandler", (Handler,), {})
    server = QuietServer(("127.0.0.1", port), handler)
    handler.store = Store(data, entity, f"http://127.0.0.1:{server.server_address[1]}", seed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, handler.store


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--port", type=int, default=8931, help="0 picks a free one")
    ap.add_argument("--data", help="folder to mirror everything into")
    ap.add_argument("--entity", default="local")
    ap.add_argument("--seed", type=int, default=0, help="of random search")
    args = ap.parse_args()
    server, _ = start(args.port, args.data, args.entity, args.seed)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.shutdown()


if __name__ == "__main__":
    main()
