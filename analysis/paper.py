"""The paper's own numbers, from `paper.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from seminar.spec import Scalar

PLAIN, ANCILLARY, FULL = "pce", "pce+crf+pcons", "pce+crf+pcons+pseudo"
"""Rows by their losses: pCE alone, the paper's first student, and its whole method."""


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper: `miou[network][loss combination]` in percent; `titles[network]` names the column."""

    profile: str
    miou: Mapping[str, Mapping[str, float | None]]
    titles: Mapping[str, str]
    backbones: Mapping[str, str]
    conflicts: tuple[str, ...]
    settings: Mapping[str, Scalar]
    """The paper's own settings, beside those that the rows vary."""

    def value(self, network: str | None, label: str) -> float | None:
        """Return the printed mIoU, None where the paper gives none."""
        return self.miou.get(network, {}).get(label) if network is not None else None

    def gains(self, lower: str, upper: str) -> dict[str, float | None]:
        """Return what the row `upper` has more than `lower` in the paper, by title of the network; None if not
        printed."""
        pairs = {network: (self.value(network, lower), self.value(network, upper)) for network in self.miou}
        return {
            self.titles[network]: None if low is None or high is None else high - low
            for network, (low, high) in pairs.items()
        }

    def network(self, backbone: str) -> str | None:
        """Return the paper's network that our `backbone` is, None for one that the paper does not use."""
        plain = backbone.replace("_", "").replace("-", "").lower()
        return next((name for name, start in self.backbones.items() if plain.startswith(start)), None)


@cache
def _paper() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
    return content


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a table of the paper that is a list, `table1` or `table2`, or of later work (`later`)."""
    found: list[dict[str, Any]] = _paper()[name]
    return found


def table(name: str) -> PaperTable:
    """Return the paper's table `name`, for example `table3`."""
    entry, networks = _paper()[name], _paper()["networks"]
    return PaperTable(
        profile=entry["profile"],
        miou=entry["miou"],
        titles={network: networks[network]["title"] for network in entry["miou"]},
        backbones={network: networks[network]["backbone"] for network in entry["miou"]},
        conflicts=tuple(entry.get("conflicts", ())),
        settings=entry.get("settings", {}),
    )
