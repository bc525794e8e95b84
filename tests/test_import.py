"""Labels in the files of the tools that people draw with: read as they are meant, or named with the cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seminar.data import labels as package
from seminar.data.convert import convert
from seminar.data.folder import Folder
from seminar.data.labels import Labels, Source
from seminar.data.named import Named, label_files
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
        (CVAT.replace("12.50,7.25", "12.50"), "a.jpg: cat: a points without the numbers that it needs"),
        (CVAT.replace("1, 2, 2, 1", "1, 2, 2, 9"), "a.jpg: cat: a mask without the numbers that it needs"),
        (CVAT.replace("1, 2, 2, 1", "1, x"), "a.jpg: cat: a mask without the numbers that it needs"),
        (CVAT.replace('width="3" height="2"', 'width="300000" height="200000"'), "cat: a mask without the numbers"),
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
        ([task("a.jpg", region("brushlabels", rle=[1, 2]))], 'a brush is not read; export "Brush labels to PNG"'),
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
        (coco({"segmentation": {"size": [20, 40], "counts": "abc"}}), "compressed masks are not read"),
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
        (feature("Point", [1, 2], None), "an object without a classification"),
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
    assert found["a"].scribbles == [(((x + 0.5, 13.5),), "1") for x in range(6, 34)], "along its middle"
    _, wrong, _ = read(path)
    assert wrong == [
        f"{path}: what value have pixels without a label, 0 or 255? Say it: data_unlabelled=, --unlabelled"
    ]


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
