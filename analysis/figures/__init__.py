"""Figures from numbers, as `{"png": ..., "pdf": ...}`; equal numbers give equal bytes.

Matplotlib is imported by the first figure that is drawn, so that reports without one start fast.
"""

from analysis.figures.curves import facts, scores_and_curves, two_budgets
from analysis.figures.pictures import gallery, pipeline
from analysis.figures.scores import Mark, cost, dots, gains, scores_along_axis
from analysis.figures.trials import Axis, Tried, search

__all__ = [
    "Axis",
    "Mark",
    "Tried",
    "cost",
    "dots",
    "facts",
    "gains",
    "gallery",
    "pipeline",
    "scores_along_axis",
    "scores_and_curves",
    "search",
    "two_budgets",
]
