"""Seminar Learning (Chen et al., ICCV 2021) as an experiment-tracked ablation and sweep suite.

Read in this order: `spec` (what a training is), `recipes` (how settings become one), `losses` and `teacher`
(the paper's equations), `train` (the loop), `store` (where results live), `plan`, `jobs` and `pool` (how a sweep runs).
"""
