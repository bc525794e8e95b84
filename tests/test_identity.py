"""Stages, keys and words: what is the same training, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from seminar import presets, recipes, sweep
from seminar.catalogue import Cell
from seminar.parts import Registry
from seminar.spec import InputError, Later, Stage, key_of

MakeCell = Callable[..., Cell]


def test_keys_are_pinned(cell: MakeCell) -> None:
    """A changed key orphans every record that users have. If one changes on purpose, raise RECIPE and pin anew."""
    assert cell(losses="pce", seed=0).stage.key == "49c64874565d0b53"
    assert cell(losses="pce+crf+pcons+pseudo", seed=0).stage.key == "9c992fdaaf2dee5f"
    assert cell(losses="ce", seed=2, epochs=3).stage.key == "8688c777e2e63a21"


def test_the_text_of_a_key_is_that_of_json() -> None:
    value = {
        "z": [], "a": {}, "é\n\"": "\u2028 ü 😀", "list": [1, [2.5, [True, None]], {"k": [False]}, "x"],
        "floats": [1e-05, 1e16, 0.1, -0.0, 1e300, 12345678.9], "ints": [0, -3, 10**20], "b": {"z": 1, "a": {"n": {}}},
    }  # fmt: skip
    expected = json.dumps({"recipe": 6, "stage": value}, sort_keys=True, indent=1)
    assert key_of(6, value) == hashlib.sha256(expected.encode()).hexdigest()[:16]


def test_table_3_is_six_trainings_per_seed(losses_sweep: sweep.Sweep) -> None:
    cells = recipes.cells(losses_sweep, {"profile": ("toy",), "seed": (0,)})
    stages = {stage.key for cell in cells for stage in cell.stage.chain}
    assert len(cells) == 6
    assert sum(len(cell.stage.chain) for cell in cells) == 7
    assert len(stages) == 6
    by_losses = {cell.point["losses"]: cell.stage for cell in cells}
    assert by_losses["pce+crf+pcons+pseudo"].ancillary == by_losses["pce+crf+pcons"]


def test_settings_without_effect_are_neutral(losses_sweep: sweep.Sweep) -> None:
    settings = {"profile": ("toy",), "seed": (0,), "alpha": (0.5, 0.9), "crf_sigma_rgb": (15, 20)}
    cells = recipes.cells(losses_sweep, settings)
    keys: dict[str, set[str]] = {}
    for cell in cells:
        keys.setdefault(str(cell.point["losses"]), set()).add(cell.stage.key)
    counts = {losses: len(found) for losses, found in keys.items()}
    assert counts == {
        "pce": 1,
        "ce": 1,
        "pce+crf": 2,
        "pce+pcons": 2,
        "pce+crf+pcons": 4,
        "pce+crf+pcons+pseudo": 4,
    }


def test_equal_values_are_one_training_however_written(cell: MakeCell) -> None:
    first = cell(losses="pcons+pce", lambda_pcons=200, lr="1e-2", epochs=4).stage
    again = cell(losses="pce+pcons", lambda_pcons=200.0, lr=0.01, epochs="4").stage
    assert first == again
    assert first.key == again.key


def test_weight_zero_is_the_row_without_the_term(cell: MakeCell) -> None:
    assert cell(losses="pce+pcons", lambda_pcons=0).stage == cell(losses="pce").stage


def test_every_setting_is_in_the_key(cell: MakeCell) -> None:
    base = cell(losses="pce+pcons").stage
    changed = {"alpha": 0.25, "teacher_bn": "ema", "click_size": 3, "lr": 0.5, "pcons_classes": "sum", "crop": 48}
    changed |= {"seed": 1, "pcons_ramp": 0.5, "data_seed": 1, "eval_every": 2, "flip": False, "precision": "bf16"}
    changed |= {"poly_horizon": 2.0}
    keys = {cell(losses="pce+pcons", **{word: value}).stage.key for word, value in changed.items()}
    assert len(keys | {base.key}) == len(changed) + 1


def test_a_variant_is_the_words_it_holds(cell: MakeCell) -> None:
    assert cell(losses="pce+pcons", variant="teacher_bn=ema alpha=0.25").stage == (
        cell(losses="pce+pcons", teacher_bn="ema", alpha=0.25).stage
    )
    assert cell(variant="default").stage == cell().stage
    assert cell(variant="losses=ce").stage == cell(losses="ce").stage, "it is put over the profile's words"


def test_a_variant_is_put_over_the_other_words() -> None:
    request = sweep.Sweep("test", "", {"profile": ("toy",), "losses": ("pce",), "variant": ("default", "losses=ce")})
    assert [cell.stage.label for cell in recipes.cells(request)] == ["pce", "ce"]


def test_a_word_that_every_variant_replaces_is_refused(cell: MakeCell) -> None:
    with pytest.raises(InputError, match="losses=pce: has no effect on anything in this request"):
        cell(losses="pce", variant="losses=ce")


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("teacher", "variant='teacher': 'teacher': write name=value, for example"),
        ("alhpa=1", "variant='alhpa=1': setting='alhpa': did you mean 'alpha'?"),
        ("alpha=0.1,0.2", "variant='alpha=0.1,0.2': one value for 'alpha'"),
        ("alpha=0.5", "variant='alpha=0.5': alpha: has no effect on anything in this request; leave it out"),
        ("variant=1", "variant='variant=1': setting='variant'"),
        ("seed=1", "variant='seed=1': setting='seed': "),
        ("alpha=1.5", "variant='alpha=1.5': alpha=1.5: Input should be less than 1"),
    ],
)
def test_a_bad_variant_is_named(cell: MakeCell, variant: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        cell(losses="pce" if variant == "alpha=0.5" else "pce+pcons", variant=variant)


def test_a_word_is_put_over_those_of_several_sweeps_that_read_it() -> None:
    teacher = sweep.Sweep("teacher", "", {"profile": ("toy",), "losses": ("pce+pcons",)})
    plain = sweep.Sweep("plain", "", {"profile": ("toy",), "losses": ("pce",)})
    (sweep_scanned, scanned, _), (_, alone, _) = recipes.suite([teacher, plain], {"alpha": (0.5, 0.9)})
    assert [cell.stage.alpha for cell in scanned] == [0.5, 0.9]
    assert sweep_scanned.parameters["alpha"] == (0.5, 0.9)
    assert [cell.point for cell in alone] == [{"profile": "toy", "losses": "pce"}]
    with pytest.raises(InputError, match=re.escape("alpha=0.5: has no effect on anything in this request")):
        recipes.suite([plain, plain], {"alpha": (0.5,)})
    with pytest.raises(InputError, match=r"^teacher: alpha=2: Input should be less than 1"):
        recipes.suite([plain, teacher], {"alpha": (2,)})


def test_default_is_what_the_profile_says(cell: MakeCell) -> None:
    assert cell(losses="pce+pcons", alpha="default").stage == cell(losses="pce+pcons").stage
    assert cell(losses="pce+pcons", alpha="default").point["alpha"] == "default"


def test_self_generation_needs_an_ancillary(cell: MakeCell) -> None:
    with pytest.raises(InputError, match="has no effect on anything in this request"):
        cell(losses="pce", self_generation="reset")


def test_a_teacher_in_eval_mode_needs_statistics_of_the_student(cell: MakeCell) -> None:
    with pytest.raises(InputError, match=r"teacher_bn=own with teacher_mode=eval: .* take teacher_bn=copy or ema"):
        cell(losses="pce+pcons", teacher_mode="eval")
    modes = {cell(losses="pce+pcons", teacher_bn="copy", teacher_mode=mode).stage.key for mode in ("train", "eval")}
    assert len(modes) == 2


def test_a_profile_may_be_like_another() -> None:
    """The paper's 90K steps: 102 epochs of the 882 that its 10,582 images and batches of 12 make; else it is voc."""
    voc, longer = (presets.preset(name, "reporting") for name in ("voc", "voc-90k"))
    assert {name for name in longer if longer[name] != voc.get(name)} == {"epochs", "pcons_ramp"}
    epochs, ramp = longer["epochs"], longer["pcons_ramp"]
    assert abs(epochs * -(-10_582 // 12) - 90_000) < 882
    assert ramp * epochs == pytest.approx(40)


def test_where_it_runs_is_not_in_the_key(cell: MakeCell) -> None:
    assert cell(losses="pce", device="cpu", loader_workers=2).stage == cell(losses="pce").stage


def test_chain_of_modules(cell: MakeCell) -> None:
    stages = [cell(modules=k).stage for k in range(4)]
    assert [stage.modules for stage in stages] == [0, 1, 2, 3]
    assert stages[0] == cell(losses="pce+crf+pcons").stage
    assert stages[3].ancillary == stages[2]
    assert stages[2].ancillary == stages[1]
    assert [stage.seed for stage in stages[3].chain] == [0, 1000, 2000, 3000]
    assert {stage.replicate for stage in stages} == {0}


def test_equal_seeds_in_a_chain_are_refused(cell: MakeCell) -> None:
    primary = cell().stage
    assert primary.ancillary is not None
    with pytest.raises(ValueError, match="same seed"):
        Stage.model_validate({**primary.model_dump(), "seed": primary.ancillary.seed})


def test_stage_survives_its_file(cell: MakeCell) -> None:
    stage = cell(modules=2).stage
    assert Stage.model_validate_json(stage.model_dump_json()) == stage


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": "pce+crff"}, r"losses='pce\+crff': term='crff': did you mean 'crf'"),
        ({"losses": "pce+pce"}, "named twice"),
        ({"losses": "pseudo"}, "no loss to learn from"),
        ({"losses": "pce", "lambda_pce": 0}, "nothing to learn from"),
        ({"losses": "pce", "lambda_pce": -1}, "lambda_pce=-1.*greater than 0"),
        ({"losses": "pce", "alpha": 0.9}, "alpha=0.9: has no effect on anything in this request"),
        ({"losses": "ce", "click_size": 3}, "click_size=3: has no effect"),
        ({"losses": "pce", "modules": 2}, "modules=2: has no effect"),
        ({"alhpa": 0.9}, "setting='alhpa': did you mean 'alpha'. choose from"),
        ({"alpha": 1.0}, "alpha=1.0.*less than 1"),
        ({"alpha": "high"}, "alpha='high'.*valid number"),
        ({"backbone": "resnet102"}, "did you mean 'resnet101'"),
        ({"data": "criatures"}, "did you mean 'creatures'"),
        ({"profile": "vox"}, "profile='vox': did you mean 'voc'. choose from"),
        ({"pretrained": "coco"}, "pretrained='coco': choose from imagenet, none"),
        ({"seed": 1000}, "from 0 to 999"),
        ({"seed": 0.5}, "from 0 to 999"),
        ({"modules": -1}, "modules=-1"),
        ({"click_size": 2}, "click_size=2"),
        ({"data_train": 0}, "data_train=0.*greater than or equal to 1"),
        ({"crf_sigma_rgb": "wide"}, "crf_sigma_rgb='wide'"),
        ({"scale_min": 3.0}, "scale_min=3.0 is above scale_max=2.0"),
        ({"loader_workers": -1}, "loader_workers=-1"),
        ({"data": "voc"}, "data_root is missing"),
        ({"weights": "some.pth"}, "weights=some.pth: has no effect"),
    ],
)
def test_bad_words_are_one_clear_line(cell: MakeCell, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        cell(**settings)
    assert "\n" not in str(caught.value)


def test_a_word_that_one_row_of_a_sweep_reads_is_accepted(losses_sweep: sweep.Sweep) -> None:
    assert recipes.cells(losses_sweep, {"profile": ("toy",), "alpha": (0.9,)})


@pytest.mark.parametrize("profile", ["creatures", "toy"])
def test_profiles_without_data_resolve(losses_sweep: sweep.Sweep, profile: str) -> None:
    assert len(recipes.cells(losses_sweep, {"profile": (profile,), "seed": (0, 1, 2)})) == 18


def test_profiles_set_known_words_only() -> None:
    for name in presets.profiles():
        text = (Path(recipes.__file__).parent / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
        settings.pop("like", None)
        assert settings.pop("tuning", {}).keys() <= recipes.known_settings(), name
        assert set(settings) <= recipes.known_settings(), name


def test_missing_data_is_named(losses_sweep: sweep.Sweep) -> None:
    with pytest.raises(InputError, match="nowhere/at/all"):
        recipes.cells(losses_sweep, {"profile": ("voc",), "data_root": ("nowhere/at/all",)})


def test_planning_values_needs_no_torch() -> None:
    code = "import sys, seminar.spec, seminar.sweep, seminar.trials, seminar.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "expected a mapping"),
        ("method: grid\nparamters: {}", "did you mean 'parameters'"),
        ("method: anneal\nparameters: {a: {value: 1}}", "method='anneal': choose from bayes, grid, random"),
        ("method: grid", "'parameters' must map"),
        ("method: grid\nparameters: {a: {min: 0, max: 1}}", "either 'value' or 'values'"),
        ("method: grid\nparameters: {a: {values: []}}", "at least one"),
        (
            "method: grid\nparameters: {a: {values: [[1]]}}",
            "must be one number of up to 18 digits, one text, true or false",
        ),
        ("a: [", "not valid YAML"),
        ("method: grid\nmetric: {name: loss}\nparameters: {a: {value: 1}}", "choose {name: student_miou"),
    ],
)
def test_bad_sweep_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        sweep.load(path)
    assert "odd.yaml" in str(caught.value)


def test_grid_is_in_wandb_order() -> None:
    request = sweep.Sweep("s", "", {"b": (1, 2), "a": ("x", "y")})
    assert request.points == [{"a": "x", "b": 1}, {"a": "x", "b": 2}, {"a": "y", "b": 1}, {"a": "y", "b": 2}]


@pytest.mark.parametrize("text", ["alpha", "alpha=", "=1", "alpha={a: 1}", "alpha=[1"])
def test_bad_arguments_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        sweep.parse_settings([text])


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": None},
        {"click_size": None},
        {"data_fingerprint": "other"},
        {"seed": 0},
        {"freeze": "backbone"},
        {"scale_min": 9.0},
    ],
    ids=str,
)
def test_a_stage_that_contradicts_itself_is_refused(cell: MakeCell, change: dict[str, Any]) -> None:
    stage = cell(modules=2).stage
    Stage.model_validate(stage.model_dump())
    with pytest.raises(ValueError, match="1 validation error"):
        Stage.model_validate({**stage.model_dump(), **change})


def test_terms_and_settings_are_sorted(cell: MakeCell) -> None:
    dumped = cell(losses="pce+crf").stage.model_dump()
    with pytest.raises(ValueError, match="sorted"):
        Stage.model_validate({**dumped, "losses": dumped["losses"][::-1]})


@pytest.mark.parametrize("profile", presets.profiles())
def test_profiles_make_stages(profile: str, monkeypatch: pytest.MonkeyPatch, losses_sweep: sweep.Sweep) -> None:
    monkeypatch.setattr(recipes, "_open", lambda *_: SimpleNamespace(dense=True, fingerprint=lambda: "x"))
    monkeypatch.setattr(recipes, "_fingerprint", lambda *_: "x")
    root = {"data_root": ("x",)} if "voc" in profile else {}
    assert len(recipes.cells(losses_sweep, {"profile": (profile,), "seed": (0,), **root})) == 6


def test_profile_voc_is_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_open", lambda *_: SimpleNamespace(dense=True, fingerprint=lambda: "x"))
    monkeypatch.setattr(recipes, "_fingerprint", lambda *_: "x")
    (cell,) = recipes.cells(sweep.Sweep("test", "", {"profile": ("voc",)}), {"data_root": ("x",)})
    stage = cell.stage
    assert (stage.crop, stage.batch_size, stage.epochs, stage.lr, stage.alpha) == (513, 12, 60, 0.007, 0.999)
    assert (stage.backbone, stage.freeze, stage.output_stride, stage.modules) == ("resnet101", "none", 16, 1)
    assert {term.name: term.weight for term in stage.losses} == {"pce": 1, "crf": 1, "pcons": 200, "pseudo": 1}


def test_other_weights_are_another_training(tmp_path: Path, cell: MakeCell) -> None:
    keys = set()
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
        settings = {"backbone": "mobilenet_v2", "pretrained": "imagenet", "weights": str(tmp_path / name)}
        keys.add(cell(losses="pce", **settings).stage.key)
    assert len(keys) == 2


def test_a_younger_field_is_absent_from_the_key_at_its_default(cell: MakeCell) -> None:
    """Keys that were made before a field existed stay valid; another value makes another key."""
    plain = cell(losses="pce").stage
    for name, value in {
        "compile": True,
        "optimizer": "adamw",
        "schedule": "cosine",
        "metrics": "miou+boundary",
    }.items():
        assert f'"{name}"' not in plain.canonical()
        changed = cell(losses="pce", **{name: value}).stage
        assert f'"{name}"' in changed.canonical()
        assert changed.key != plain.key
    assert len({cell(losses="pce", optimizer="adamw", adamw_beta2=beta).stage.key for beta in (0.9, 0.99)}) == 2


def test_a_younger_setting_of_a_part_is_absent_at_its_default() -> None:
    registry: Registry[Callable[..., int]] = Registry("thing")

    @registry.register("one")
    def one(*, old: float = 1.0, new: Later[float] = 2.0) -> int:
        return 0

    assert registry["one"].coerce("one_", {}) == (("old", 1.0),)
    assert registry["one"].coerce("one_", {"new": 2}) == (("old", 1.0),)
    assert registry["one"].coerce("one_", {"new": 3}) == (("new", 3.0), ("old", 1.0))


def test_settings_that_an_optimiser_or_schedule_does_not_read_are_none_or_refused(cell: MakeCell) -> None:
    adam = cell(losses="pce", optimizer="adamw", schedule="cosine").stage
    assert (adam.momentum, adam.poly_power) == (None, None)
    assert adam.weight_decay == cell(losses="pce").stage.weight_decay
    with pytest.raises(InputError, match=r"momentum=0\.5: has no effect"):
        cell(losses="pce", optimizer="adamw", momentum=0.5)
    with pytest.raises(InputError, match="optimizer='adam': did you mean 'adamw'"):
        cell(losses="pce", optimizer="adam")
    with pytest.raises(InputError, match="metrics='boundary': miou is what reports compare by"):
        cell(losses="pce", metrics="boundary")
