"""Labels in the files of the tools that people draw with: read as they are meant, or named with the cause."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from seminar.data import labels as package
from seminar.data.convert import convert
from seminar.data.folder import Folder
from seminar.data.labels import Labels, Source
from seminar.data.labels.pictures import lines
from seminar.data.named import Named, label_files
from seminar.data.strokes import draw_scribbles
from seminar.spec import InputError
from tests.conftest import seminar_here

WIDTH, HEIGHT = 40, 20


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder."""
    folder = tmp_path / "photos" / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "deep/c.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(folder / name)
    return folder


def read(path: Path, unlabelled: int | None = None) -> tuple[dict[str, Labels], list[str], list[str]]:
    """What a file has by the likeliest name of each picture, what is wrong, and what is noted."""
    wrong: list[str] = []
    notes: list[str] = []
    source = Source(path, wrong.append, notes.append, unlabelled)
    form = package.find(source)
    assert form is not None
    found = {names[0]: labels for names, labels in form.read(source)}
    assert not any("\n" in line for line in wrong + notes)
    return found, wrong, notes


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id></task></meta>
  <image id="0" name="a.jpg" width="40" height="20">
    <points label="cat" source="manual" occluded="0" points="12.50,7.25;3.00,4.00" z_order="0"></points>
    <polyline label="dog" source="manual" occluded="0" points="1.00,2.00;5.00,6.00" z_order="0"></polyline>
    <polygon label="cat" source="manual" occluded="0" points="1.00,1.00;9.00,1.00;9.00,8.00" z_order="0"></polygon>
    <box label="dog" source="manual" occluded="0" xtl="10.00" ytl="2.00" xbr="20.00" ybr="8.00" z_order="0"></box>
    <mask label="cat" source="manual" occluded="0" rle="1, 2, 2, 1" left="30" top="10" width="3" height="2"></mask>
    <tag label="night" source="manual"></tag>
  </image>
  <image id="1" name="deep/c.png" width="40" height="20">
    <skeleton label="animal" source="manual" z_order="0">
      <points label="head" source="manual" outside="0" occluded="0" points="7.00,8.00"></points>
      <points label="tail" source="manual" outside="1" occluded="0" points="0.00,0.00"></points>
    </skeleton>
    <box label="dog" xtl="10" ytl="4" xbr="14" ybr="8" rotation="90"></box>
    <ellipse label="cat" cx="20" cy="10" rx="4" ry="2"></ellipse>
  </image>
  <image id="2" name="elsewhere.png" width="40" height="20"></image>
</annotations>
"""


def test_cvat(tmp_path: Path) -> None:
    found, wrong, notes = read(write(tmp_path / "annotations.xml", CVAT))
    assert wrong == []
    assert notes == [f"{tmp_path}/annotations.xml: 1 tags of whole images are left out: they lie nowhere"]
    a, c = found["a.jpg"], found["deep/c.png"]
    assert a.clicks == [(12.5, 7.25, "cat"), (3.0, 4.0, "cat")]
    assert a.scribbles == [(((1.0, 2.0), (5.0, 6.0)), "dog")]
    assert a.areas[:2] == [
        ("cat", "polygon", ((1.0, 1.0), (9.0, 1.0), (9.0, 8.0))),
        ("dog", "rectangle", ((10.0, 2.0), (20.0, 8.0))),
    ]
    # 1 outside, 2 inside, 2 outside, 1 inside, in rows of 3: .XX / ..X
    assert a.areas[2] == ("cat", "runs", ((31.0, 10.0), (32.0, 10.0), (32.0, 11.0), (32.0, 11.0)))
    assert a.size == (40, 20)
    assert c.clicks == [(7.0, 8.0, "head")], "a point of a skeleton that is in the picture"
    assert c.areas[0][1] == "polygon"
    np.testing.assert_allclose(c.areas[0][2], [(14, 4), (14, 8), (10, 8), (10, 4)], atol=1e-9, err_msg="turned")
    ellipse = np.array(c.areas[1][2])
    np.testing.assert_allclose([*ellipse.min(0), *ellipse.max(0)], [16, 8, 24, 12])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('<annotations><track id="0" label="cat"></track></annotations>', "tracks of a video; export the task as"),
        (CVAT.replace('name="a.jpg"', 'name=" "', 1), "the image with id '0' has no name; export the task again"),
        (CVAT.replace("12.50,7.25", "12.50"), "a.jpg: cat: points: numbers are missing, or are none"),
        (CVAT.replace("1, 2, 2, 1", "1, 2, 2, 9"), "a.jpg: cat: mask: numbers are missing, or are none"),
        (CVAT.replace("1, 2, 2, 1", "1, x"), "a.jpg: cat: mask: numbers are missing, or are none"),
        (CVAT.replace('width="3" height="2"', 'width="300000" height="200000"'), "cat: mask: numbers are missing"),
        (
            CVAT.replace('label="dog" source="manual" occluded="0" xtl', 'source="manual" xtl'),
            "a shape without a label",
        ),
        (CVAT.replace("ellipse", "cuboid"), "deep/c.png: cat: a cuboid, which is not read"),
    ],
)
def test_what_is_wrong_with_cvat(content: str, why: str, tmp_path: Path) -> None:
    _, wrong, _ = read(write(tmp_path / "annotations.xml", content))
    assert len(wrong) == 1
    assert why in wrong[0]


@pytest.mark.parametrize("content", ["<annotations>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>"])
def test_xml_that_is_refused(content: str, images: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "annotations.xml", content)
    with pytest.raises(InputError, match="not XML that can be read"):
        convert([path], images, tmp_path / "clicks.csv", None)


def task(image: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": [{"was_cancelled": False, "result": results}], **more}


def region(kind: str, **value: Any) -> dict[str, Any]:
    where = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {**where, "type": kind, "value": {**value, kind: ["cat"]}}


def test_label_studio(tmp_path: Path, images: Path) -> None:
    """Coordinates are per cent of the picture: 25 of 40 pixels are 10."""
    point = region("keypointlabels", x=25, y=50, width=0.5)
    turned = region("rectanglelabels", x=50, y=50, width=10, height=20, rotation=90)
    content = [
        task(
            "/data/upload/1/1f2e3d4c-a.jpg",
            point,
            region("polygonlabels", points=[[0, 0], [50, 0], [50, 50]]),
            region("rectanglelabels", x=10, y=20, width=20, height=30, rotation=0),
            turned,
            region("ellipselabels", x=50, y=50, radiusX=10, radiusY=10),
            {"type": "choices", "value": {"choices": ["night"]}},
            predictions=[{"result": [point]}],
        ),
        task("/data/local-files/?d=deep/c.png", point),
        {**task("s3://bucket/b%20.png", point), "file_upload": "00000000-b.png"},
    ]
    content[1]["annotations"].append({"was_cancelled": True, "result": [point, point]})
    path = write(tmp_path / "project.json", content)
    found, wrong, notes = read(path)
    assert wrong == []
    assert [note.partition("project.json: ")[2] for note in notes] == [
        "1 annotations that were cancelled are left out",
        "1 predictions of a model are left out",
        "1 answers that lie nowhere (choices, texts, relations, ...) are left out",
    ]
    first = found["data/upload/1/1f2e3d4c-a.jpg"]
    assert first.clicks == [(10.0, 10.0, "cat")]
    assert first.size == (WIDTH, HEIGHT)
    assert first.areas[0] == ("cat", "polygon", ((0.0, 0.0), (20.0, 0.0), (20.0, 10.0)))
    assert first.areas[1] == ("cat", "rectangle", ((4.0, 4.0), (12.0, 10.0)))
    np.testing.assert_allclose(first.areas[2][2], [(20, 10), (20, 14), (16, 14), (16, 10)], atol=1e-9)
    ellipse = np.array(first.areas[3][2])
    np.testing.assert_allclose([*ellipse.min(0), *ellipse.max(0)], [16, 8, 24, 12])
    # Names: as uploaded, of a local folder, and of the upload where the address has another.
    out = tmp_path / "labelme"
    printed = convert([path], images, out, None)
    assert "3 pictures with labels" in printed[0]
    assert sorted(file.relative_to(out).as_posix() for file in out.rglob("*.json")) == [
        "a.json",
        "b.json",
        "deep/c.json",
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([task("a.jpg", region("brushlabels", rle=[1, 2]))], "of type 'brushlabels' without the numbers that it needs"),
        ([task("a.jpg", region("brushlabels", rle=[300]))], "of type 'brushlabels' without the numbers that it needs"),
        ([task("a.jpg", region("keypointlabels", x=25))], "keypointlabels' without the numbers that it needs"),
        ([task("a.jpg", {**region("keypointlabels", x=1, y=1), "image_rotation": 90})], "turned in Label Studio"),
        ([task("a.jpg", {"type": "keypoint", "value": {"x": 1, "y": 1}})], "with 0 classes; one is needed"),
        ([task("a.jpg", region("videorectangle", sequence=[]))], "of type 'videorectangle', which is not read"),
        ([{"id": 3, "data": {}, "annotations": []}], "task 3: no picture in its data"),
        ([{"image": "a.jpg", "kp": [], "annotation_id": 1}], 'the form "JSON-MIN"'),
    ],
)
def test_what_is_wrong_with_label_studio(content: Any, why: str, tmp_path: Path) -> None:
    _, wrong, _ = read(write(tmp_path / "project.json", content))
    assert len(wrong) == 1
    assert why in wrong[0]


def via_region(name: str, **numbers: Any) -> dict[str, Any]:
    return {"shape_attributes": {"name": name, **numbers}, "region_attributes": {"class": "cat"}}


REGIONS = [
    via_region("point", cx=3, cy=4),
    via_region("polyline", all_points_x=[1, 5], all_points_y=[2, 6]),
    via_region("polygon", all_points_x=[1, 9, 9], all_points_y=[1, 1, 8]),
    via_region("rect", x=10, y=2, width=10, height=6),
    via_region("circle", cx=20, cy=10, r=3),
    via_region("ellipse", cx=20, cy=10, rx=4, ry=2, theta=0),
]


def check_via(labels: Labels) -> None:
    assert labels.clicks == [(3, 4, "cat")]
    assert labels.scribbles == [(((1, 2), (5, 6)), "cat")]
    assert [area[:2] for area in labels.areas] == [
        ("cat", kind) for kind in ("polygon", "rectangle", "circle", "polygon")
    ]
    assert [area[2] for area in labels.areas[:3]] == [
        ((1, 1), (9, 1), (9, 8)),
        ((10, 2), (20, 8)),
        ((20, 10), (23, 10)),
    ]


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("by_number", [False, True])
def test_via(project: bool, by_number: bool, tmp_path: Path) -> None:
    regions: Any = {str(n): one for n, one in enumerate(REGIONS)} if by_number else REGIONS
    pictures = {"a.jpg1234": {"filename": "a.jpg", "size": 1234, "regions": regions, "file_attributes": {}}}
    content: Any = {"_via_settings": {}, "_via_img_metadata": pictures} if project else pictures
    found, wrong, notes = read(write(tmp_path / "via.json", content))
    assert (wrong, notes) == ([], [])
    check_via(found["a.jpg"])


def test_via_as_a_table(tmp_path: Path) -> None:
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    rows = [head, 'b.png,99,"{}",0,0,"{}","{}"']
    for number, one in enumerate(REGIONS):
        shape, attributes = (
            json.dumps(one[name]).replace('"', '""') for name in ("shape_attributes", "region_attributes")
        )
        rows.append(f'a.jpg,1234,"{{}}",6,{number},"{shape}","{attributes}"')
    found, wrong, _ = read(write(tmp_path / "via.csv", "\n".join(rows)))
    assert wrong == []
    assert found.keys() == {"a.jpg"}
    check_via(found["a.jpg"])
    _, wrong, _ = read(write(tmp_path / "via.csv", f'{head}\na.jpg,1,"{{}}",1,0,"{{name","{{}}"\n'))
    assert "line 2: no JSON in '{name'" in wrong[0]


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"class": "cat", "note": "x"}, "cat"),
        ({"animal": "cat"}, "cat"),
        ({"animal": {"cat": True}}, "cat"),
        ({"animal": {"cat": True, "dog": False}}, "cat"),
        ({"animal": {"cat": True, "dog": True}}, None),
        ({"animal": "cat", "weather": "rain"}, None),
        ({"class": ""}, None),
        ({}, None),
    ],
)
def test_which_attribute_is_the_class(attributes: Any, name: str | None, tmp_path: Path) -> None:
    one = {"shape_attributes": {"name": "point", "cx": 3, "cy": 4}, "region_attributes": attributes}
    found, wrong, _ = read(write(tmp_path / "via.json", {"k": {"filename": "a.jpg", "regions": [one]}}))
    assert found["a.jpg"].clicks == ([] if name is None else [(3, 4, name)])
    assert len(wrong) == (name is None)


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 2, **one} for n, one in enumerate(annotations)],
        "categories": [{"id": 2, "name": "cat"}],
    }


def test_coco(tmp_path: Path) -> None:
    content = coco(
        {"keypoints": [3, 4, 2, 0, 0, 0, 5, 6, 1], "num_keypoints": 2, "bbox": [1, 1, 3, 3]},
        {"segmentation": [[1, 1, 9, 1, 9, 8], [20, 10, 22, 10, 22, 12]], "bbox": [1, 1, 3, 3]},
        # By columns: two pixels outside, three inside, the rest outside; 20 to a column.
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [2, 3, WIDTH * HEIGHT - 5]}, "iscrowd": 1},
    )
    found, wrong, _ = read(write(tmp_path / "instances.json", content))
    assert wrong == []
    labels = found["a.jpg"]
    assert labels.clicks == [(3, 4, "cat"), (5, 6, "cat")], "visible or hidden, but set"
    assert labels.areas[:2] == [
        ("cat", "polygon", ((1, 1), (9, 1), (9, 8))),
        ("cat", "polygon", ((20, 10), (22, 10), (22, 12))),
    ]
    assert labels.areas[2] == ("cat", "runs", ((0, 2), (0, 2), (0, 3), (0, 3), (0, 4), (0, 4)))
    assert labels.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (coco({"bbox": [1, 1, 3, 3]}), "1 boxes alone in 1 images, first a.jpg, are left out"),
        (coco({"segmentation": {"size": [20, 40], "counts": "abc"}}), "annotation 0 (cat): key points or a"),
        (coco({"segmentation": {"size": [20, 40], "counts": "é"}}), "annotation 0 (cat): key points or a"),
        (coco({"segmentation": {"size": [40, 20], "counts": [800]}}), "annotation 0 (cat): key points or a"),
        (coco({"keypoints": [0, 0, 0], "bbox": [1, 1, 3, 3]}), "1 boxes alone in 1 images"),
        (coco({"image_id": [7]}), "annotation 0: of an image or a category that the file does not have"),
        (coco({"category_id": [2]}), "annotation 0: of an image or a category that the file does not have"),
        (
            coco({"segmentation": {"size": [20, 40], "counts": [1, 2]}}),
            "annotation 0 (cat): key points or a",
        ),
        (coco({"segmentation": [[1, 1, 2]]}), "annotation 0 (cat): key points or a"),
        (coco({"keypoints": [1, 2]}), "annotation 0 (cat): key points or a"),
        (coco({"category_id": 9}), "annotation 0: of an image or a category that the file does not have"),
        ({**coco(), "categories": [{"id": 1}]}, "a category without id and name"),
    ],
)
def test_what_is_wrong_with_coco(content: Any, why: str, tmp_path: Path) -> None:
    _, wrong, _ = read(write(tmp_path / "instances.json", content))
    assert len(wrong) == 1
    assert why in wrong[0]


def feature(kind: str, coordinates: Any, name: Any = "Tumor") -> dict[str, Any]:
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


@pytest.mark.parametrize("collection", [False, True])
def test_qupath(collection: bool, tmp_path: Path) -> None:
    features = [
        feature("Point", [3.5, 4]),
        feature("MultiPoint", [[5, 6], [7, 8]]),
        feature("LineString", [[1, 2], [5, 6]]),
        feature("Polygon", [[[1, 1], [9, 1], [9, 8], [1, 1]]]),
        feature("MultiPolygon", [[[[20, 10], [24, 10], [24, 14], [20, 10]]]]),
        feature("Polygon", [[[0, 0], [6, 0], [6, 6], [0, 6], [0, 0]], [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]]),
    ]
    content: Any = {"type": "FeatureCollection", "features": features} if collection else features
    found, wrong, _ = read(write(tmp_path / "a.geojson", content))
    assert wrong == []
    labels = found["a"]
    assert labels.clicks == [(3.5, 4, "Tumor"), (5, 6, "Tumor"), (7, 8, "Tumor")]
    assert labels.scribbles == [(((1, 2), (5, 6)), "Tumor")]
    assert [area[1] for area in labels.areas] == ["polygon", "polygon", "runs"]
    hole = np.ones((7, 7), bool)
    hole[2:5, 2:5] = False
    assert labels.areas[2][2] == package.runs(hole, 0, 0), "corners of polygons are part of them"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([feature("Point", [1, 2], None), feature("Point", [1, 2], None)], "2 objects without a classification"),
        (feature("Point", ["x", 2]), "Tumor: a 'Point' that cannot be read"),
        (feature("Polygon", [[[1, 1], [2, 2]]]), "Tumor: a 'Polygon' that cannot be read"),
        (feature("GeometryCollection", []), "Tumor: a 'GeometryCollection' that cannot be read"),
        ({"type": "Feature", "properties": {"classification": {"names": ["A", "B"]}}}, "A: B: a None that cannot be"),
    ],
)
def test_what_is_wrong_with_qupath(content: Any, why: str, tmp_path: Path) -> None:
    _, wrong, _ = read(write(tmp_path / "a.geojson", content))
    assert len(wrong) == 1
    assert why in wrong[0]


def test_dotdotgoose(tmp_path: Path) -> None:
    content = {
        "classes": ["cat", "dog"],
        "points": {"a.jpg": {"cat": [{"x": 3.5, "y": 4}], "dog": [{"x": 5, "y": 6}, {"x": "?", "y": 6}]}, "b.png": {}},
        "colors": {"cat": [255, 0, 0]},
        "metadata": {"survey_id": ""},
    }
    found, wrong, _ = read(write(tmp_path / "survey.pnt", content))
    assert found["a.jpg"].clicks == [(3.5, 4, "cat"), (5, 6, "dog")]
    assert found["b.png"].empty
    assert wrong == [f"{tmp_path}/survey.pnt: a.jpg: dog: expected x and y, got {{'x': '?', 'y': 6}}"]


def test_napari_writes_y_before_x_and_counts_from_the_middle_of_a_pixel(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "index,axis-0,axis-1,label\n0.0,4.0,3.0,cat\n1.0,6.0,5.25,dog\n2.0,,1,dog\n")
    found, wrong, _ = read(path)
    assert found["a"].clicks == [(3.5, 4.5, "cat"), (5.75, 6.5, "dog")]
    assert wrong == [f"{path}: line 4: expected two numbers and a class"]


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("index,axis-0,axis-1", "no column is the class of a point (index, axis-0, axis-1); give the layer a property"),
        ("index,axis-0,axis-1,axis-2,label", "points of a stack or volume"),
        ("index,shape-type,vertex-index,axis-0,axis-1", "shapes of napari, of which only points are read"),
    ],
)
def test_what_is_wrong_with_napari(head: str, why: str, tmp_path: Path) -> None:
    _, wrong, _ = read(write(tmp_path / "a.csv", head + "\n"))
    assert len(wrong) == 1
    assert why in wrong[0]


@pytest.mark.parametrize("unlabelled", [0, 255])
def test_label_pictures(unlabelled: int, tmp_path: Path) -> None:
    drawn = np.full((HEIGHT, WIDTH), unlabelled, np.uint8)
    drawn[3:6, 10:13] = 2  # a spot
    drawn[8, 30] = 1  # a pixel
    drawn[12:15, 5:35] = 1  # a stroke of a brush
    path = tmp_path / "a.png"
    Image.fromarray(drawn).save(path)
    found, wrong, _ = read(path, unlabelled)
    assert wrong == []
    assert found["a"].clicks == [(30.5, 8.5, "1"), (11.5, 4.5, "2")]
    assert found["a"].scribbles == [(((6.5, 13.5), (33.5, 13.5)), "1")], "along its middle"
    with pytest.raises(InputError, match=re.escape(f"{path}: what value have pixels without a label, 0 or 255?")):
        read(path)


@pytest.mark.parametrize("seed", range(200))
def test_lines_pass_what_was_painted_and_nothing_else(seed: int) -> None:
    """Of any shape, with holes, in pieces that touch at corners."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 14, 2).tolist()
    painted = random.random((height, width)) < random.choice([0.3, 0.5, 0.7, 0.9])
    drawn = lines(package.runs(painted, 0, 0))
    points = torch.tensor([point for line in drawn for point in line]).reshape(-1, 2) + 0.5
    passed = draw_scribbles(points, [*map(len, drawn)], [1] * len(drawn), height, width, 1).numpy() == 1
    assert (passed == painted).all()


def test_a_large_painted_area_is_one_short_line() -> None:
    painted = np.ones((300, 400), bool)
    (line,) = lines(package.runs(painted, 0, 0))
    assert len(line) == 2 * 300


def test_labels_are_read_where_they_lie(images: Path) -> None:
    """A folder to train on, with an export of CVAT in it, and beside it a file that is none."""
    root = images.parent
    write(root / "annotations.xml", CVAT.replace("elsewhere.png", "b.png"))
    write(root / "other.xml", "<gallery/>")
    write(root / "table.csv", "name,weight\na,1\n")
    write(root / "info.json", {"author": "somebody"})
    (root / "classes.txt").write_text("background\ncat\ndog\nhead\n")
    data = Folder(root=root)
    ids = {example.id: example for split in ("train", "val") for example in data.split(split)}  # type: ignore[arg-type]
    mask = ids["a"].mask
    assert [(click.x, click.y, click.cls) for click in ids["a"].clicks] == [(12.5, 7.25, 1), (3.0, 4.0, 1)]
    assert (mask[10, 31:33] == 1).all() and mask[11, 32] == 1 and mask[11, 31] == 0 and mask[11, 30] == 0
    assert mask[5, 15] == 2
    assert "files that nothing reads: 3, for example info.json, other.xml, table.csv" in data.doubts()
    assert any("tags of whole images are left out" in note for note in data.doubts())
    assert any("1 rectangles count as masks" in note for note in data.doubts())


def test_what_was_imported_does_not_count_twice(images: Path) -> None:
    root = images.parent
    write(root / "annotations.xml", CVAT)
    (root / "classes.txt").write_text("background\ncat\ndog\nhead\n")
    before = Folder(root=root)
    convert([root / "annotations.xml"], root, root / "labelme", None)
    after = Folder(root=root)
    for split in ("train", "val"):
        for one, other in zip(before.split(split), after.split(split), strict=True):  # type: ignore[arg-type]
            assert (one.id, one.clicks, one.scribbles) == (other.id, other.clicks, other.scribbles)
            assert (one.mask == other.mask).all()


FILES: dict[str, Callable[[Path], Path]] = {
    "cvat": lambda folder: write(folder / "annotations.xml", CVAT),
    "via": lambda folder: write(folder / "via.json", {"k": {"filename": "a.jpg", "regions": REGIONS}}),
    "coco": lambda folder: write(
        folder / "coco.json", coco({"keypoints": [3, 4, 2]}, {"segmentation": [[1, 1, 9, 1, 9, 8]]})
    ),
    "qupath": lambda folder: write(folder / "a.geojson", [feature("Point", [3.5, 4]), feature("LineString", [[1, 2]])]),
}


def test_boxes_beside_segmentations_are_noted(tmp_path: Path) -> None:
    content = coco({"bbox": [1, 1, 3, 3]}, {"segmentation": [[1, 1, 9, 1, 9, 8]]})
    found, wrong, notes = read(write(tmp_path / "coco.json", content))
    assert (len(found["a.jpg"].areas), wrong) == (1, [])
    assert "1 boxes alone in 1 images, first a.jpg, are left out" in notes[0]


@pytest.mark.parametrize("form", FILES)
def test_files_of_labelme_hold_all_of_it(form: str, images: Path, tmp_path: Path) -> None:
    path = FILES[form](tmp_path / "export")
    out = tmp_path / "labelme"
    convert([path], images.parent, out, None)
    once = labels_of(path, images)
    again = labels_of(out, images)
    assert once == again
    assert once


def labels_of(place: Path, images: Path) -> dict[str, Any]:
    """What lies in a file, or in the files of a folder, by picture; a line of one point has it twice in labelme."""
    wrong: list[str] = []
    named = Named(images, wrong.append)
    found: dict[str, Labels] = {}
    for path in label_files(place) if place.is_dir() else [place]:
        for id, labels in named.labels(Source(path, wrong.append, wrong.append)) or ():
            found.setdefault(id, Labels()).add(labels)
    assert wrong in ([], [f"{place}: 1 tags of whole images are left out: they lie nowhere"])
    return {
        id: (labels.clicks, [(points[:1] + points[-1:], name) for points, name in labels.scribbles], labels.areas)
        for id, labels in found.items()
        if not labels.empty
    }


def test_a_table_holds_clicks_and_refuses_more(images: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "survey.pnt", {"classes": [], "points": {"deep/c.png": {"cat": [{"x": 3.25, "y": 4}]}}})
    out = tmp_path / "clicks.csv"
    printed = seminar_here("data", "import", str(path), "--images", str(images.parent), "--out", str(out)).stdout
    assert "1 pictures with labels" in printed
    assert "cat                            1       0       0" in printed
    assert out.read_text() == "image,x,y,class\ndeep/c,3.25,4.0,cat\n"
    refused = seminar_here("data", "import", str(path), "--images", str(images), "--out", str(out), code=2).stderr
    assert "would be overwritten" in refused
    via = FILES["via"](tmp_path)
    refused = seminar_here(
        "data", "import", str(via), "--images", str(images), "--out", str(tmp_path / "n.csv"), code=2
    )
    assert "a table holds clicks alone, and there are 5 lines and areas; name a folder" in refused.stderr
    assert not (tmp_path / "n.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.json", {"a": 1}, "x.json: in no form that is known. Read are: "),
        ("x.json", "{", "x.json: cannot be read ("),
        ("x.json", "[" * 100_000, "x.json: cannot be read ("),
        (
            "x.pnt",
            {"classes": [], "points": {"z.png": {"cat": [{"x": 1, "y": 1}]}}},
            "no image goes by the name 'z.png'",
        ),
        ("x.pnt", {"classes": [], "points": {}}, "nothing is drawn on any picture of "),
        ("x.xml", CVAT.replace('width="40" height="20"', 'width="41" height="20"'), "drawn on 41x20 pixels, but "),
        ("x.txt", "hello", "x.txt: in no form that is known"),
    ],
)
def test_what_cannot_be_imported(name: str, content: Any, why: str, images: Path, tmp_path: Path) -> None:
    path, out = write(tmp_path / name, content), tmp_path / "out"
    refused = seminar_here("data", "import", str(path), "--images", str(images), "--out", str(out), code=2).stderr
    assert why in refused
    assert "Traceback" not in refused
    assert not out.exists()


def by_picture(path: Path, images: Path, meant: bool = True) -> tuple[dict[str, Labels], list[str], list[str]]:
    """What a file has for the pictures of a folder, what is wrong, and what is noted."""
    wrong: list[str] = []
    notes: list[str] = []
    source = Source(path, wrong.append, notes.append, 0, meant)
    found = dict(Named(images, wrong.append).labels(source) or ())
    assert not any("\n" in line for line in wrong + notes)
    return found, [line.replace(f"{path}: ", "") for line in wrong], [line.replace(f"{path}: ", "") for line in notes]


def points(*names: str) -> dict[str, Any]:
    """A file of COCO with a key point on each of these pictures."""
    return {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "keypoints": [3 + n, 4, 2]} for n in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("a.jpg", "a"),
        ("images\\deep\\c.png", "deep/c"),
        ("/content/train/deep/c.png", "deep/c"),
        ("https://example.org/photos/a.jpg", "a"),
        ("../photos/images/deep/c.png", "deep/c"),
        ("nowhere/x.png", None),
        ("a\0.jpg", None),
        ("\ud800.jpg", None),
        ("../" * 50 + "etc/passwd", None),
    ],
)
def test_names_of_another_machine(name: str, id: str | None, images: Path, tmp_path: Path) -> None:
    found, wrong, _ = by_picture(write(tmp_path / "export" / "coco.json", points(name)), images)
    assert [*found] == ([] if id is None else [id])
    assert [line.partition(" by the name ")[0] for line in wrong] == ([] if id else ["no image goes"])


def test_two_names_that_may_be_one_picture_are_refused(images: Path, tmp_path: Path) -> None:
    found, wrong, _ = by_picture(write(tmp_path / "coco.json", points("train/a.jpg", "val/a.jpg")), images)
    assert found["a"].clicks == [(3, 4, "cat")]
    assert wrong == [
        "'train/a.jpg' and 'val/a.jpg' may both be the picture 'a'; give the pictures different names, or leave one of "
        "the two out"
    ]
    both, wrong, _ = by_picture(write(tmp_path / "coco.json", points("deep/c.png", "a.jpg")), images)
    assert (sorted(both), wrong) == (["a", "deep/c"], [])


def test_many_names_without_a_picture_are_ten_lines_and_a_count(images: Path, tmp_path: Path) -> None:
    """An export of a whole collection beside a few of its pictures."""
    _, wrong, _ = by_picture(write(tmp_path / "coco.json", points(*(f"{n}.jpg" for n in range(500)))), images)
    assert wrong[:1] == ["no image goes by the name '0.jpg'"]
    assert wrong[10:] == ["and 490 more names that no image has, the last '499.jpg'"]


@pytest.mark.parametrize("kind", ["labelme", "napari", "qupath", "png"])
def test_folders_of_labels_like_those_of_pictures(kind: str, images: Path, tmp_path: Path) -> None:
    """Both deep/c.png and c.png are there; what lies in deep/ is of the first."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(images / "c.png")
    place = tmp_path / "labels" / "deep"
    if kind == "labelme":
        shape = {"label": "1", "shape_type": "point", "points": [[3.5, 4.5]]}
        path = write(place / "c.json", {"shapes": [shape], "imagePath": "c.png"})
    elif kind == "napari":
        path = write(place / "c.csv", "index,axis-0,axis-1,label\n0,4,3,1\n")
    elif kind == "qupath":
        path = write(place / "c.png.geojson", feature("Point", [3.5, 4.5], "1"))
    else:
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        drawn[4, 3] = 1
        place.mkdir(parents=True)
        path = place / "c.png"
        Image.fromarray(drawn).save(path)
    found, wrong, _ = by_picture(path, images)
    assert wrong == []
    assert {id: labels.clicks for id, labels in found.items()} == {"deep/c": [(3.5, 4.5, "1")]}


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_that_their_exif_data_turn(orientation: int, images: Path, tmp_path: Path) -> None:
    """DotDotGoose and napari show a picture as it is stored, browsers and labelme turn it."""
    turned = Image.new("RGB", (WIDTH, HEIGHT))
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    turned.save(images / "a.jpg", exif=exif)
    content = {"classes": ["cat"], "points": {"a.jpg": {"cat": [{"x": 3, "y": 4}]}}}
    for path in (
        write(tmp_path / "survey.pnt", content),
        write(tmp_path / "a.csv", "index,axis-0,axis-1,label\n0,4,3,cat\n"),
    ):
        found, wrong, _ = by_picture(path, images)
        assert len(found) == (orientation == 1)
        assert len(wrong) == (orientation != 1)
        assert all("a.jpg: its EXIF data turn the picture, but the tool shows it as it is stored" in w for w in wrong)
    found, wrong, _ = by_picture(write(tmp_path / "coco.json", points("a.jpg")), images)
    assert (len(found), wrong) == (1, [])


def test_label_studio_with_a_tag_for_shapes_and_one_for_labels(tmp_path: Path) -> None:
    """Each region comes twice: bare, and with its labels."""
    where = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "id": "r1"}
    value = {"x": 10, "y": 20, "width": 20, "height": 30, "rotation": 0}
    bare = {**where, "type": "rectangle", "value": value}
    twin = {**where, "type": "labels", "value": {**value, "labels": ["cat"]}}
    found, wrong, _ = read(write(tmp_path / "project.json", [task("a.jpg", bare, twin)]))
    assert wrong == []
    assert found["a.jpg"].areas == [("cat", "rectangle", ((4.0, 4.0), (12.0, 10.0)))]
    _, wrong, _ = read(write(tmp_path / "project.json", [task("a.jpg", {**bare, "id": "r2"}, twin)]))
    assert len(wrong) == 1, "that no label was chosen is not hidden"


def code_of(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


PAINTED = [
    f"{4 * WIDTH * HEIGHT:032b}" + "00111" + "0010" + "0011" + "0111" + "1111",  # values, 8 bits each, sizes 3 4 8 16
    "1" + "11" + f"{4 * (10 * WIDTH + 30) - 1:016b}" + "00000000",  # nothing up to x 30, y 10
    "1" + "01" + f"{12 - 1:04b}" + "11111111",  # three pixels
    "0" + "00" + f"{4 - 1:03b}" + "00000001" + "00000010" + "00000011" + "10000000",  # one of half strength
    "0" + "00" + f"{4 - 1:03b}" + "11111111" * 3 + "01111111",  # and one of less
    "1" + "11" + f"{4 * (WIDTH * HEIGHT - (10 * WIDTH + 35)) - 1:016b}" + "00000000",
]
"""A brush of Label Studio, in bits."""


def test_what_a_brush_of_label_studio_painted(tmp_path: Path) -> None:
    content = [task("a.jpg", region("brushlabels", format="rle", rle=code_of("".join(PAINTED))))]
    found, wrong, _ = read(write(tmp_path / "project.json", content))
    assert wrong == []
    assert found["a.jpg"].areas == [("cat", "runs", ((30.0, 10.0), (33.0, 10.0)))]
    for broken in (PAINTED[:-1], [PAINTED[0].replace("00111", "01111", 1), *PAINTED[1:]], [*PAINTED[:5], *PAINTED[1:]]):
        content = [task("a.jpg", region("brushlabels", format="rle", rle=code_of("".join(broken))))]
        _, wrong, _ = read(write(tmp_path / "project.json", content))
        assert len(wrong) == 1
        assert "'brushlabels' without the numbers that it needs" in wrong[0]


@pytest.mark.parametrize("seed", range(3))
def test_brushes_that_the_converter_of_label_studio_writes(seed: int, tmp_path: Path) -> None:
    """Where it is not installed, this is skipped."""
    theirs = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    random = np.random.default_rng(seed)
    mask = np.asarray(Image.fromarray((random.random((4, 8)) < 0.5).astype(np.uint8)).resize((WIDTH, HEIGHT), 0)) > 0
    content = [task("a.jpg", region("brushlabels", format="rle", rle=theirs.mask2rle(mask.astype(np.uint8) * 255)))]
    found, wrong, _ = read(write(tmp_path / "project.json", content))
    assert (found["a.jpg"].areas, wrong) == ([("cat", "runs", package.runs(mask, 0, 0))], [])


def test_a_key_point_of_label_studio_with_a_height_is_a_point(tmp_path: Path) -> None:
    content = [task("a.jpg", region("keypointlabels", x=25, y=50, width=2, height=2))]
    found, wrong, _ = read(write(tmp_path / "project.json", content))
    assert (found["a.jpg"].clicks, found["a.jpg"].areas, wrong) == ([(10.0, 10.0, "cat")], [], [])


def test_which_text_of_a_task_is_its_picture(images: Path, tmp_path: Path) -> None:
    """Other columns of the data go beside the picture, and may have the name of another."""
    one = task("", region("keypointlabels", x=25, y=50))
    one["data"] = {"patient": "b", "image": "/data/upload/1/1f2e3d4c-a.jpg"}
    found, wrong, _ = by_picture(write(tmp_path / "project.json", [one]), images)
    assert (wrong, [*found]) == ([], ["a"])
    left, right = (
        {**region("keypointlabels", x=x, y=50), "to_name": name} for x, name in ((25, "left"), (50, "right"))
    )
    one = {**task("", left, right), "data": {"left": "a.jpg", "right": "deep\\c.png"}}
    found, wrong, _ = by_picture(write(tmp_path / "project.json", [one]), images)
    assert wrong == []
    assert {id: labels.clicks for id, labels in found.items()} == {
        "a": [(10.0, 10.0, "cat")],
        "deep/c": [(20.0, 10.0, "cat")],
    }
    one["annotations"] = task("", {**left, "to_name": "img"})["annotations"]
    found, wrong, _ = by_picture(write(tmp_path / "project.json", [one]), images)
    assert "on which of its pictures (left, right) is a region of 'img'?" in wrong[0]


@pytest.mark.parametrize(
    "content",
    [
        [{"id": 1, "data": None, "annotations": None}],
        [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": None}, 3], "predictions": 3}],
        [{"id": 1, "data": {"image": ["a.jpg"]}, "annotations": []}],
        [{"id": 1, "data": {}, "annotations": [], "file_upload": ""}],
        [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [{"type": ["x"], "value": 1}, 4]}]}],
    ],
)
def test_strange_tasks_of_label_studio(content: Any, tmp_path: Path) -> None:
    found, wrong, _ = read(write(tmp_path / "project.json", content))
    assert all(labels.empty for labels in found.values())
    assert len(wrong) <= 1


def test_version_1_of_via(tmp_path: Path) -> None:
    head = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    point = '"{""name"":""point"",""cx"":3,""cy"":4}","{""class"":""cat""}"'
    found, wrong, _ = read(write(tmp_path / "via.csv", f'{head}\na.jpg,1,"{{}}",1,0,{point}\n'))
    assert (found["a.jpg"].clicks, wrong) == ([(3, 4, "cat")], [])
    # VIA writes names of pictures without quotes
    found, wrong, _ = read(write(tmp_path / "via.csv", f'{head}\na,b.jpg,1,"{{}}",1,0,{point}\n'))
    assert found == {}
    assert "line 2: a comma in the name of a picture" in wrong[0]


@pytest.mark.parametrize("regions", [None, 3, "abc"])
def test_strange_regions_of_via(regions: Any, tmp_path: Path) -> None:
    _, wrong, _ = read(write(tmp_path / "via.json", {"k": {"filename": "a.jpg", "regions": regions}}))
    assert len(wrong) == 1
    assert "a.jpg: expected regions, got" in wrong[0]


def test_strange_points_of_dotdotgoose(tmp_path: Path) -> None:
    content = {"classes": [], "points": {"a.jpg": [1], "b.png": {"cat": {"x": 1}}}}
    _, wrong, _ = read(write(tmp_path / "survey.pnt", content))
    assert [line.partition("survey.pnt: ")[2] for line in wrong] == [
        "a.jpg: expected points by class, got [1]",
        "b.png: cat: expected a list of points, got {'x': 1}",
    ]


def test_points_that_dotdotgoose_exports_are_a_table(tmp_path: Path) -> None:
    found, wrong, _ = read(write(tmp_path / "points.csv", "survey id,image,class,x,y\nS1,a.jpg,cat,3.5,4.0"))
    assert (found["a.jpg"].clicks, wrong) == ([(3.5, 4, "cat")], [])


def png(mask: Any) -> str:
    """A mask as labelme has it."""
    content = io.BytesIO()
    Image.fromarray(np.array(mask, bool)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


@pytest.mark.parametrize(
    ("kind", "corners", "more", "area"),
    [
        (None, [[1, 1], [9, 1], [9, 8]], {}, ("polygon", ((1, 1), (9, 1), (9, 8)))),
        ("oriented_rectangle", [[1, 2], [4, 1], [5, 4], [2, 5]], {}, ("polygon", ((1, 2), (4, 1), (5, 4), (2, 5)))),
        ("rotation", [[1, 2], [4, 1], [5, 4], [2, 5]], {}, ("polygon", ((1, 2), (4, 1), (5, 4), (2, 5)))),
        ("mask", [[30, 10], [32, 11]], {"mask": png([[0, 1, 1], [0, 0, 1]])}, ("runs", "as it is")),
        # Moved by parts of a pixel: both corners are rounded, and the box would be larger than the picture.
        ("mask", [[29.6, 9.6], [32.6, 10.6]], {"mask": png([[0, 1, 1], [0, 0, 1]])}, ("runs", "as it is")),
    ],
)
def test_shapes_of_newer_labelme(kind: Any, corners: Any, more: Any, area: Any, tmp_path: Path) -> None:
    shape = {"label": "cat", "shape_type": kind, "points": corners, **more}
    found, wrong, _ = read(write(tmp_path / "a.json", {"shapes": [shape], "imagePath": "a.jpg"}))
    if area[1] == "as it is":  # .XX / ..X
        area = ("runs", ((31.0, 10.0), (32.0, 10.0), (32.0, 11.0), (32.0, 11.0)))
    assert (wrong, found["a.jpg"].areas) == ([], [("cat", *area)])


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\ud800", "\x1b[31m"])
def test_classes_without_a_name(name: str, images: Path, tmp_path: Path) -> None:
    content = {"a.jpg": [{"x": 1, "y": 1, "class": name}]}
    _, wrong, _ = by_picture(write(tmp_path / "clicks.json", content), images)
    assert wrong == [f"a: class {name.strip()!r} is no name; give it one that can be printed"]


def test_blanks_around_names_are_no_part_of_them(images: Path, tmp_path: Path) -> None:
    content = {"a.jpg": [{"x": 1, "y": 1, "class": "cat "}, {"x": 2, "y": 1, "class": "cat"}]}
    found, wrong, _ = by_picture(write(tmp_path / "clicks.json", content), images)
    assert (found["a"].names, wrong) == ({"cat"}, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("splits.json", {"train": ["a.jpg"], "val": ["b.jpg"]}),
        ("map.geojson", {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}),
        (".vscode/settings.json", '{"a": 1, // a comment\n}'),
        (".ipynb_checkpoints/clicks-checkpoint.csv", "image,x,y,class\na.jpg,1,1,dog\n"),
        ("empty.json", {}),
    ],
)
def test_what_lies_in_the_folder_and_is_no_labels(name: str, content: Any, images: Path) -> None:
    root = images.parent
    (root / "clicks.csv").write_text("image,x,y,class\na.jpg,1,1,cat\nb.png,7,1,cat\n")
    write(root / name, content)
    data = Folder(root=root)
    assert data.classes == ("background", "cat")
    assert sum(len(example.clicks) for example in data.split("train")) == 2
    assert f"files that nothing reads: 1, for example {name}" in data.doubts()


def test_boxes_that_lie_in_the_folder_are_noted(images: Path) -> None:
    root = images.parent
    (root / "clicks.csv").write_text("image,x,y,class\na.jpg,1,1,cat\nb.png,7,1,cat\n")
    write(root / "instances.json", coco({"bbox": [1, 1, 3, 3]}))
    assert any("1 boxes alone in 1 images, first a.jpg, are left out" in doubt for doubt in Folder(root=root).doubts())


def test_a_folder_is_imported_with_what_else_lies_in_it(images: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    write(export / "coco.json", points("a.jpg"))
    write(export / "package.json", {"name": "x"})
    printed = convert([export], images, tmp_path / "clicks.csv", None)
    assert f"note: 1 files in no form that is known are left out, for example {export}/package.json" in printed
    with pytest.raises(InputError, match="in no form that is known"):
        convert([export / "package.json"], images, tmp_path / "other.csv", None)
    (export / "coco.json").unlink()
    with pytest.raises(InputError, match="and 1 files are in no form that is known, as package"):
        convert([export], images, tmp_path / "other.csv", None)


def test_places_that_cannot_be_written_or_read(images: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "coco.json", points("a.jpg"))
    with pytest.raises(InputError, match="is a file; name a folder"):
        convert([path], images, path, None)
    with pytest.raises(InputError, match="unpack it"):
        convert([write(tmp_path / "export.zip", "PK")], images, tmp_path / "out", None)
    with pytest.raises(InputError, match="cannot be read"):
        convert([write(tmp_path / "wide.csv", "x" * 200_000)], images, tmp_path / "out", None)


def test_pictures_of_labels_without_a_value_are_one_line(images: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "labels" / name)
    found = Folder.problems(root=images.parent, labels=tmp_path / "labels")
    assert len(found) == 1
    with pytest.raises(InputError, match="what value have pixels") as raised:
        convert([tmp_path / "labels"], images, tmp_path / "out", None)
    assert "\n" not in str(raised.value)


def test_areas_of_another_picture_are_not_imported(images: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "annotations.xml", CVAT.replace('left="30"', f'left="{10**30}"'))
    with pytest.raises(InputError, match=r"a: a mask \(cat\) goes far outside the 40x20 image"):
        convert([path], images, tmp_path / "out", None)


def test_line_breaks_in_names_make_no_lines(images: Path, tmp_path: Path) -> None:
    for content in (points("x\ny.jpg"), {**points("a.jpg"), "annotations": [{"id": "1\n2"}]}):
        _, wrong, _ = by_picture(write(tmp_path / "coco.json", content), images)
        assert len(wrong) == 1
    _, wrong, _ = by_picture(write(tmp_path / "a.csv", 'index,axis-0,axis-1,"abel\n0,4,3,cat\n'), images)
    assert "(index, axis-0, axis-1, abel\\n0,4,3,cat" in wrong[0]


def test_pictures_of_labels_are_read_as_the_command_line_says(images: Path, tmp_path: Path) -> None:
    """`data_unlabelled=0` is a number there."""
    root = images.parent
    (root / "classes.txt").write_text("background\ncat\n")
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[4, 3] = 1
    (tmp_path / "labels" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/c.png"):
        Image.fromarray(drawn).save(tmp_path / "labels" / name)
    given = [str(root), f"data_labels={tmp_path / 'labels'}", "--sheet", str(tmp_path / "sheet.png")]
    printed = seminar_here("data", "check", *given, "data_unlabelled=0").stdout
    (row,) = (line.split() for line in printed.splitlines() if line.startswith("cat "))
    assert row[1:3] == ["2", "2"], "images and clicks"
    refused = seminar_here("data", "check", *given, "data_unlabelled=7", code=2).stderr
    assert "data_unlabelled=7: Input should be 'unknown', 0 or 255" in refused


def test_a_width_of_thousands_of_digits(tmp_path: Path) -> None:
    found, wrong, _ = read(write(tmp_path / "x.xml", CVAT.replace('width="40" height="20"', f'width="{"9" * 5000}"')))
    assert wrong == []
    assert found["a.jpg"].size is None


def test_every_format_says_what_it_reads() -> None:
    found = package.known()
    assert len(found) == 12
    assert all(what for _, what in found)


def test_what_datumaro_writes(images: Path, tmp_path: Path) -> None:
    """Files of CVAT and COCO by a library that is not ours; where it is not installed, this is skipped."""
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    shapes = pytest.importorskip("datumaro.components.annotation")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:14, 30:36] = True
    mask[11, 32] = False
    drawn = [
        shapes.Points([12.5, 7.25, 3.0, 4.0], label=0, id=1),
        shapes.PolyLine([1, 2, 5, 6], label=1, id=2),
        shapes.Polygon([1, 1, 9, 1, 9, 8], label=0, id=3, group=3),
        shapes.Mask(mask, label=0, id=4, group=4),
    ]
    media = datumaro.components.media.Image.from_numpy(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    item = datumaro.DatasetItem(id="a", subset="train", media=media, annotations=drawn)
    written = datumaro.Dataset.from_iterable([item], categories=["cat", "dog"])
    areas = {("cat", "polygon", ((1, 1), (9, 1), (9, 8))), ("cat", "runs", package.runs(mask, 0, 0))}
    for form, pattern in (("cvat", "*.xml"), ("coco_instances", "**/*.json")):
        written.export(str(tmp_path / form), form, save_media=True)
        (path,) = (tmp_path / form).glob(pattern)
        found, wrong, _ = read(path)
        assert wrong == []
        (labels,) = found.values()
        assert {*labels.areas} == areas
        if form == "cvat":
            assert labels.clicks == [(12.5, 7.25, "cat"), (3, 4, "cat")]
            assert labels.scribbles == [(((1, 2), (5, 6)), "dog")]


def test_what_the_converter_of_label_studio_reads(tmp_path: Path) -> None:
    """Its own conversion to COCO puts a polygon where we do; where it is not installed, this is skipped."""
    sdk = pytest.importorskip("label_studio_sdk.converter", reason="label-studio-sdk is not installed")
    config = """<View><Image name="image" value="$image"/>
    <PolygonLabels name="p" toName="image"><Label value="cat"/></PolygonLabels></View>"""
    where = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    value = {"points": [[10, 10], [50, 20], [40, 80]], "polygonlabels": ["cat"]}
    result = {**where, "id": "r", "type": "polygonlabels", "from_name": "p", "to_name": "image", "value": value}
    content = [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"id": 1, "result": [result]}]}]
    path = write(tmp_path / "project.json", content)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    sdk.Converter(config, str(tmp_path)).convert_to_coco(str(path), str(tmp_path / "coco"), is_dir=False)
    theirs, wrong, _ = read(tmp_path / "coco" / "result.json")
    ours, _, _ = read(path)
    assert wrong == []
    (other,), (own,) = (list(labels.areas) for found in (theirs, ours) for labels in found.values())
    np.testing.assert_allclose(other[2], own[2])


def test_a_compressed_mask(tmp_path: Path) -> None:
    """What pycocotools 2.0.11 makes of three rectangles."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:15, 4:9] = mask[10, 20:30] = mask[5:7, 35] = True
    content = coco({"segmentation": {"size": [20, 40], "counts": "c2<80000000S7EXI00000000000000000o21[O"}})
    found, wrong, _ = read(write(tmp_path / "instances.json", content))
    assert (found["a.jpg"].areas, wrong) == ([("cat", "runs", package.runs(mask, 0, 0))], [])


@pytest.mark.parametrize("seed", range(5))
def test_masks_that_pycocotools_compresses(seed: int, tmp_path: Path) -> None:
    """Where it is not installed, this is skipped; `test_a_compressed_mask` has one of them."""
    theirs = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    random = np.random.default_rng(seed)
    mask = np.asarray(Image.fromarray((random.random((4, 8)) < 0.5).astype(np.uint8)).resize((WIDTH, HEIGHT), 0)) > 0
    code = theirs.encode(np.asfortranarray(mask.astype(np.uint8)))
    content = coco({"segmentation": {"size": code["size"], "counts": code["counts"].decode()}})
    found, wrong, _ = read(write(tmp_path / "instances.json", content))
    assert (found["a.jpg"].areas, wrong) == ([("cat", "runs", package.runs(mask, 0, 0))], [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves pictures open
def test_what_labelme_reads_and_writes(images: Path, tmp_path: Path) -> None:
    """Its own library reads what is written here, and the other way; where it is not installed, this is skipped."""
    theirs = pytest.importorskip("labelme", reason="labelme is not installed")
    module = pytest.importorskip("labelme._label_file", reason="labelme is older than 6")
    out = tmp_path / "labelme"
    convert([write(tmp_path / "annotations.xml", CVAT)], images, out, None)
    shapes = module.read_label_file(str(out / "a.json")).shapes
    assert [(shape["shape_type"], shape["label"]) for shape in shapes] == [
        ("point", "cat"),
        ("point", "cat"),
        ("linestrip", "dog"),
        ("polygon", "cat"),
        ("rectangle", "dog"),
        ("mask", "cat"),
    ]
    assert shapes[-1]["mask"].tolist() == [[True, True], [False, True]]
    mask = theirs.utils.img_arr_to_b64(np.array([[0, 1, 1], [0, 0, 1]], np.uint8))
    drawn = {"label": "cat", "points": [[30.0, 10.0], [32.0, 11.0]], "shape_type": "mask", "mask": mask}
    path = tmp_path / "b.json"
    module.write_label_file(
        str(path), shapes=[drawn], image_path="..\\images\\b.png", image_height=HEIGHT, image_width=WIDTH
    )
    found, wrong, _ = by_picture(path, images)
    assert wrong == []
    assert found["b"].areas == [("cat", "runs", ((31.0, 10.0), (32.0, 10.0), (32.0, 11.0), (32.0, 11.0)))]
