"""Data sets as they come."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError
from trainer.data import (
    INCORRECT,
    WIDE,
    WITH_MASK,
    WITHOUT_MASK,
    DataError,
    LabelledFace,
    crops_of,
    label_of,
    read_dataset,
    read_folder,
    read_scenes,
    scenes_of,
)
from trainer.data.classes import NAMES


def picture(seed, height=64, width=64):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path, seed=0, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(seed, **size))
    return path


def annotate(path, *objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in objects
    )
    path.write_text(f"<annotation>{items}</annotation>")


# --- names ----------------------------------------------------------------------------------------


@given(st.data())
def test_a_name_means_the_same_in_any_case_and_punctuation(data):
    label = data.draw(st.sampled_from(sorted(NAMES)))
    words = data.draw(st.sampled_from(NAMES[label].split())).split("_")
    spelt = [data.draw(st.sampled_from((w, w.upper(), w.capitalize()))) for w in words]
    mark = data.draw(st.sampled_from(("", "_", "-", " ", ".", "__")))
    assert label_of(mark.join(spelt)) == label


def test_no_name_means_two_classes():
    names = [
        "".join(c for c in name if c.isalpha()) for all_ in NAMES.values() for name in all_.split()
    ]
    assert len(names) == len(set(names))


def test_an_unknown_class_is_named_with_the_mend():
    with pytest.raises(DataError, match=r"'visor'.*rename.*with_mask"):
        label_of("visor")


# --- class folders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrapped", ["", "Face Mask Dataset", "archive/Face Mask Dataset", "archive/Face Mask (1)"]
)
def test_face_mask_12k(tmp_path, wrapped):
    root = tmp_path / wrapped
    for split in ("Train", "Validation", "Test"):
        for name in ("WithMask", "WithoutMask"):
            write(root / split / name / "a.png")
    (tmp_path / ".cache").mkdir()
    found = read_dataset(tmp_path)
    assert (found.layout, found.classes) == ("12k", (WITH_MASK, WITHOUT_MASK))
    assert list(found.splits) == ["Train", "Validation", "Test"]
    assert found.splits["Test"] == (
        LabelledFace(root / "Test" / "WithMask" / "a.png", WITH_MASK, None),
        LabelledFace(root / "Test" / "WithoutMask" / "a.png", WITHOUT_MASK, None),
    )


def test_a_part_of_face_mask_12k_is_of_its_layout(tmp_path):
    for name in ("WithMask", "WithoutMask"):
        write(tmp_path / "Test" / name / "a.png")
    for layout in ("auto", "12k"):
        found = read_dataset(tmp_path, layout)
        assert (found.layout, list(found.splits)) == ("12k", ["Test"])


def test_class_folders_without_splits(tmp_path):
    for name in ("mask", "No Mask", "mask_weared_incorrect"):
        write(tmp_path / name / "deeper" / "a.JPG")
    found = read_dataset(tmp_path)
    assert (found.layout, found.classes, list(found.splits)) == ("folders", (0, 1, 2), [""])
    assert sorted(face.label for face in found.splits[""]) == [0, 1, 2]


def test_a_split_has_many_names(tmp_path):
    for split in ("train", "VALID", "testing"):
        write(tmp_path / split / "masked" / "a.png")
        write(tmp_path / split / "unmasked" / "b.png")
    found = read_dataset(tmp_path)
    assert found.layout == "folders"
    assert {split: len(faces) for split, faces in found.splits.items()} == {
        "Train": 2,
        "Validation": 2,
        "Test": 2,
    }


def test_what_desktops_and_archives_leave_is_passed_over(tmp_path):
    write(tmp_path / "mask" / "a.png")
    (tmp_path / "mask" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "mask" / "._a.png").write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    write(tmp_path / "mask" / ".ipynb_checkpoints" / "a-checkpoint.png")
    assert len(read_dataset(tmp_path).splits[""]) == 1


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ([], "not a data set of a known layout.*Pascal VOC"),
        (["mask", "visor"], r"visor.*unknown class 'visor'"),
        (["cats", "dogs"], r"unknown class 'cats'"),
        (["train/mask", "train/visor"], "visor"),
    ],
)
def test_what_is_no_data_set_is_said(tmp_path, folders, words):
    for folder in folders:
        write(tmp_path / folder / "a.png")
    with pytest.raises(DataError, match=words) as caught:
        read_dataset(tmp_path)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)


def test_missing_folders_and_layouts_are_said(tmp_path):
    write(tmp_path / "mask" / "a.png")
    with pytest.raises(DataError, match=r"no folder .*absent"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match=r"unknown layout 'coco'.*voc"):
        read_dataset(tmp_path, "coco")
    with pytest.raises(DataError, match="not laid out as Face Mask 12K"):
        read_dataset(tmp_path, "12k")
    with pytest.raises(DataError, match="no annotated scenes"):
        read_dataset(tmp_path, "voc")


def test_a_wrapping_folder_may_be_called_like_a_class(tmp_path):
    for name in ("mask", "no_mask"):
        write(tmp_path / "face-mask" / name / "a.png")
    found = read_dataset(tmp_path)
    assert (found.root.name, found.classes) == ("face-mask", (WITH_MASK, WITHOUT_MASK))
    write(tmp_path / "lone" / "mask" / "deeper" / "a.png")
    assert read_dataset(tmp_path / "lone").root.name == "lone"


def test_a_class_without_a_picture_is_an_error(tmp_path):
    write(tmp_path / "mask" / "a.png")
    (tmp_path / "no_mask").mkdir()
    with pytest.raises(DataError, match=r"class without a picture.*no_mask"):
        read_dataset(tmp_path)


def test_a_class_without_a_readable_picture_is_an_error(tmp_path):
    write(tmp_path / "mask" / "a.png")
    (tmp_path / "no_mask").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "no_mask" / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"class without_mask .*all 2 are broken.*a\.jpg"):
        read_dataset(tmp_path)
    write(tmp_path / "no_mask" / "c.jpg")
    assert len(read_dataset(tmp_path).splits[""]) == 4


# --- Pascal VOC -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "annotations"),
    [("images", "annotations"), ("JPEGImages", "Annotations"), (".", "."), ("train", "train")],
)
def test_pascal_voc(tmp_path, pictures, annotations):
    path = write(tmp_path / pictures / "one.png")
    annotate(
        tmp_path / annotations / "one.xml",
        ("with_mask", (1, 2, 30, 40)),
        ("mask_weared_incorrect", (5, 5, 25, 25.5)),
    )
    found = read_dataset(tmp_path)
    assert (found.layout, found.classes) == ("voc", (WITH_MASK, INCORRECT))
    (faces,) = found.splits.values()
    assert faces == (
        LabelledFace(path, WITH_MASK, (1, 2, 30, 40)),
        LabelledFace(path, INCORRECT, (5, 5, 25, 25.5)),
    )
    assert scenes_of(faces)[0].faces == ((0, 1, 2, 30, 40), (2, 5, 5, 25, 25.5))


def test_annotations_in_capitals_and_in_folders_of_their_own(tmp_path):
    for place in ("a", "b"):
        write(tmp_path / "images" / place / "one.PNG")
        annotate(tmp_path / "annotations" / place / "one.XML", ("No Mask", (1, 2, 30, 40)))
    found = read_dataset(tmp_path)
    assert [face.path.parent.name for face in found.splits[""]] == ["a", "b"]
    assert found.problems == ()
    annotate(tmp_path / "flat" / "one.XML", ("with mask", (1, 2, 30, 40)))
    write(tmp_path / "flat" / "one.JPG")
    assert read_dataset(tmp_path / "flat").layout == "voc"


def test_broken_annotations_are_named_and_skipped(tmp_path):
    for name in ("good", "torn", "words", "endless", "bare"):
        write(tmp_path / "images" / f"{name}.png")
    box = ("with_mask", (1, 1, 20, 20))
    annotate(tmp_path / "annotations" / "good.xml", box, ("with_mask", (9, 9, 9, 20)))
    (tmp_path / "annotations" / "torn.xml").write_text("<annotation><object>")
    annotate(tmp_path / "annotations" / "words.xml", ("with_mask", ("left", 1, 2, 3)))
    annotate(tmp_path / "annotations" / "endless.xml", ("with_mask", (1, 1, "inf", 3)))
    annotate(tmp_path / "annotations" / "lost.xml", box)
    found = read_dataset(tmp_path)
    assert [face.box for face in found.splits[""]] == [(1, 1, 20, 20)]
    reasons = {problem.path.name: problem.reason for problem in found.problems}
    assert set(reasons) == {
        "good.xml",
        "torn.xml",
        "words.xml",
        "endless.xml",
        "lost.xml",
        "bare.png",
    }
    assert "empty" in reasons["good.xml"]
    assert "has no picture" in reasons["lost.xml"]
    assert "no annotation" in reasons["bare.png"]
    with pytest.raises(DataError, match="endless"):
        read_scenes(tmp_path)


def test_a_scene_without_a_face_is_kept_for_the_detector(tmp_path):
    for name in ("one", "none"):
        write(tmp_path / "train" / f"{name}.png")
    annotate(tmp_path / "train" / "one.xml", ("with_mask", (1, 1, 20, 20)))
    annotate(tmp_path / "train" / "none.xml")
    found = read_dataset(tmp_path)
    assert found.without == {"Train": (tmp_path / "train" / "none.png",)}
    assert (len(found.splits["Train"]), found.problems) == (1, ())


def test_an_unknown_class_of_a_box_is_an_error(tmp_path):
    write(tmp_path / "images" / "a.png")
    annotate(tmp_path / "annotations" / "a.xml", ("visor", (1, 1, 20, 20)))
    with pytest.raises(DataError, match=r"a\.xml: unknown class 'visor'"):
        read_dataset(tmp_path)


# --- pictures -------------------------------------------------------------------------------------


def test_broken_pictures_are_named_and_the_others_come_in_order(tmp_path):
    paths = [write(tmp_path / "mask" / f"{n}.png", n) for n in range(4)]
    jpeg = write(tmp_path / "mask" / "4.jpg", 4)
    jpeg.write_bytes(jpeg.read_bytes()[:-200])
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    paths[2].write_bytes(b"")
    crops, problems = crops_of(read_dataset(tmp_path).splits[""])
    assert [problem.path.name for problem in problems] == ["1.png", "2.png", "4.jpg"]
    assert str(problems[1]) == f"{paths[2]}: not a picture: it is empty"
    whole = [crops_of([LabelledFace(paths[n], 0, None)])[0] for n in (0, 3)]
    assert (crops.images == np.concatenate([one.images for one in whole])).all()
    with pytest.raises(DataError, match=r"1\.png"):
        read_folder(tmp_path)


def test_a_picture_of_more_pixels_than_can_be_read_is_a_problem(tmp_path):
    path = write(tmp_path / "a.png")
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    crops, problems = crops_of([LabelledFace(path, 0, None)])
    assert (len(crops), problems[0].reason) == (0, "too large to be read")


def test_a_picture_that_went_away_is_a_problem(tmp_path):
    crops, problems = crops_of([LabelledFace(tmp_path / "gone.png", 0, None)])
    assert (len(crops), crops.images.shape) == (0, (0, WIDE, WIDE, 3))
    assert "No such file" in problems[0].reason


def test_boxes_are_clipped_to_the_picture(tmp_path):
    path = write(tmp_path / "a.png", height=60, width=80)
    boxes = [(-10, 5, 30, 45), (60, 40, 120, 90), (90, 10, 120, 40), (10, 10, 50, 50)]
    crops, problems = crops_of([LabelledFace(path, 1, box) for box in boxes])
    assert crops.width.tolist() == [30, 20, 40]
    assert ["(90, 10, 120, 40)" in problem.reason for problem in problems] == [True]
    inside, _ = crops_of([LabelledFace(path, 1, (0, 5, 30, 45))])
    assert (crops.images[0] == inside.images[0]).all()


def test_narrow_faces_are_left_out(tmp_path):
    path = write(tmp_path / "a.png")
    faces = [LabelledFace(path, 0, (0, 0, width, 30)) for width in (11, 12, 13)]
    crops, problems = crops_of(faces, min_width=12)
    assert crops.width.tolist() == [12, 13]
    assert problems == ()


@pytest.mark.parametrize("kind", ["grey", "alpha", "deep"])
def test_grey_transparent_and_16_bit_pictures_are_read(tmp_path, kind):
    bgr = picture(1)
    other = {
        "grey": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY),
        "alpha": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA),
        "deep": lambda: bgr.astype(np.uint16) * 257,
    }[kind]()
    cv2.imwrite(str(tmp_path / "other.png"), other)
    cv2.imwrite(str(tmp_path / "plain.png"), bgr)
    faces = [LabelledFace(tmp_path / name, 0, None) for name in ("other.png", "plain.png")]
    crops, problems = crops_of(faces)
    assert problems == ()
    assert crops.images.dtype == np.uint8
    reach = 130 if kind == "grey" else 1
    assert np.abs(crops.images[0].astype(int) - crops.images[1]).mean() < reach
    if kind == "grey":
        assert (crops.images[0][..., 0] == crops.images[0][..., 2]).all()


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    from PIL import Image

    upright = Image.fromarray(picture(2, 60, 40)[:, :, ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright.save(tmp_path / "b.jpg", quality=95)
    faces = [LabelledFace(tmp_path / name, 0, None) for name in ("a.jpg", "b.jpg")]
    crops, _ = crops_of(faces)
    assert np.abs(crops.images[0].astype(int) - crops.images[1]).mean() < 6


def test_names_that_are_not_ascii(tmp_path):
    write(tmp_path / "mask" / "a.png").rename(tmp_path / "mask" / "Gesicht müde 笑.png")
    assert len(crops_of(read_dataset(tmp_path).splits[""])[0]) == 1


# --- the real sets --------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_real_sets_are_read(shared_data):
    faces = read_dataset(shared_data / "face-mask-12k")
    assert (faces.layout, faces.problems) == ("12k", ())
    counts = {split: len(found) for split, found in faces.splits.items()}
    assert counts == {"Train": 10023, "Validation": 800, "Test": 486}
    scenes = read_dataset(shared_data / "face-mask-detection")
    assert (scenes.layout, scenes.classes, scenes.problems) == ("voc", (0, 1, 2), ())
    assert len(scenes.splits[""]) == 2386
    assert len({face.path for face in scenes.splits[""]}) == 503
