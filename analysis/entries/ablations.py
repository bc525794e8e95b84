"""The paper's ablations, and the suite's own: a `Study` each."""

from __future__ import annotations

from analysis.entries.levels import later_scribbles
from analysis.paper import FULL
from analysis.study import Claim, Study, register
from seminar.spec import Stage


def _term(stage: Stage, name: str) -> float:
    return next((term.weight for term in stage.losses if term.name == name), 0.0)


def _setting(stage: Stage, term: str, name: str) -> str:
    settings = {term.name: dict(term.settings) for term in stage.losses}
    return str(settings[term][name]) if term in settings else f"none (no {term})"


def _self_generation(stage: Stage) -> str:
    names = {"none": "student-student", "reset": "self-generation, reset", "unchange": "self-generation, unchange"}
    return names[stage.self_generation]


def _alpha(stage: Stage) -> str:
    return "no teacher" if stage.alpha is None else f"{stage.alpha:g}"


def _size(stage: Stage) -> str:
    return f"{stage.label}, {stage.click_size} px"


STUDIES = (
    Study(
        name="fig4",
        title="Fig. 4: student-student learning against self-generation",
        sweep_file="self-generation.yaml",
        settings=("self_generation",),
        row=lambda cell: _self_generation(cell.stage),
        against="student-student",
        claims=(
            Claim("a second student beats self-generation with reset", "self-generation, reset", "student-student"),
            Claim("reset falls below the level before pseudo-labels", "self-generation, reset", "ancillary"),
            Claim("unchange stays flat", "ancillary", "self-generation, unchange", same=True),
        ),
        notes=("The paper prints curves without numbers. All rows share their ancillary and have equal updates.",),
        figure="two budgets",
    ),
    Study(
        name="fig5a",
        title="Fig. 5a: the number of student-student modules",
        sweep_file="students.yaml",
        settings=("modules",),
        row=lambda cell: f"K={cell.stage.modules}",
        against="K=0",
        pairs={f"K={k}": f"K={k - 1}" for k in range(1, 10)},
        claims=(
            Claim("one module gains", "K=0", "K=1"),
            Claim("a second changes almost nothing", "K=1", "K=2", same=True),
            Claim("a third changes almost nothing", "K=2", "K=3", same=True),
        ),
        paper_table="fig5a",
        figure="axis",
        axis="K, number of student-student modules",
        point=lambda stage: str(stage.modules),
    ),
    Study(
        name="fig5b",
        title="Fig. 5b: EMA alpha",
        sweep_file="ema.yaml",
        settings=("alpha",),
        row=lambda cell: f"alpha={_alpha(cell.stage)}",
        figure="axis",
        axis="alpha of the EMA teacher",
        point=_alpha,
        notes=("The paper prints this as a figure without numbers and finds alpha = 0.999 best on 52,920 steps.",),
    ),
    Study(
        name="fig5c",
        title="Fig. 5c: the weight of the consistency loss",
        sweep_file="pcons.yaml",
        settings=("lambda_pcons",),
        row=lambda cell: f"lambda_pcons={_term(cell.stage, 'pcons'):g}",
        figure="axis",
        axis="lambda_pCons",
        point=lambda stage: f"{_term(stage, 'pcons'):g}",
        notes=("The paper prints this as a figure without numbers and finds lambda = 200 best.",),
    ),
    Study(
        name="supp_table1",
        title="Supplement, Table 1: scribbles",
        sweep_file="scribbles.yaml",
        settings=("losses",),
        row=lambda cell: cell.stage.label,
        claims=(Claim("a second student gains with scribbles, too", "pce+crf", "pce+crf+pseudo"),),
        paper_table="supp_table1",
        extra_tables=(later_scribbles,),
    ),
    Study(
        name="supp_table2",
        title="Supplement, Table 2: the size of a click",
        sweep_file="clicks.yaml",
        settings=("losses", "click_size"),
        row=lambda cell: _size(cell.stage),
        claims=(
            Claim("larger clicks help pCE alone", "pce, 1 px", "pce, 5 px"),
            Claim("3 px make no difference to the full method", f"{FULL}, 1 px", f"{FULL}, 3 px", same=True),
            Claim("5 px make no difference to the full method", f"{FULL}, 1 px", f"{FULL}, 5 px", same=True),
        ),
        paper_table="supp_table2",
        figure="axis",
        axis="side of a click in pixels",
        point=lambda stage: str(stage.click_size),
        line=lambda stage: stage.label,
    ),
    Study(
        name="conventions",
        title="Beyond the paper: conventions on which it is silent",
        sweep_file="conventions.yaml",
        settings=("variant",),
        row=lambda cell: str(cell.point["variant"]),
        notes=("One convention is changed at a time; `default` is the suite's choice at every one of them.",),
    ),
    Study(
        name="crf",
        title="Beyond the paper: does the accuracy of the CRF operator matter?",
        sweep_file="crf.yaml",
        settings=("crf_operator",),
        row=lambda cell: f"operator {_setting(cell.stage, 'crf', 'operator')}",
        against="operator exact",
        claims=(
            Claim("landmarks at 4 kappa change nothing", "operator exact", "operator 4.0", same=True),
            Claim("landmarks at 0.5 kappa change nothing", "operator exact", "operator 0.5", same=True),
        ),
        claims_title="Does it matter?",
        notes=("Not a claim of the paper: the suite's own question. A number is the landmarks per kappa.",),
    ),
)

for _study in STUDIES:
    register(_study)
