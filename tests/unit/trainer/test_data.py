"""Reading the data sets, and splits without leaks."""

import cv2
import numpy as np
import pytest

from trainer.data import (
    INCORRECT,
    SIZE,
    WIDE,
    WITH_MASK,
    WITHOUT_MASK,
    DataError,
    distances,
    hashes,
    join,
    label_of,
    read_folder,
    read_scenes,
    scene_crops,
    split_scenes,
    whole_crop,
    without_leaks,
)

ANNOTATION = """<annotation><object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>
<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>stray text</object></annotation>"""


def picture(seed, height=64, width=64):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write_scenes(folder, boxes):
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    for number, (name, box) in enumerate(boxes):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture(number, 80, 100))
        x0, y0, x1, y1 = box
        text = ANNOTATION.format(name=name, x0=x0, y0=y0, x1=x1, y1=y1)
        (folder / "annotations" / f"{number}.xml").write_text(text)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("WithMask", WITH_MASK),
        ("with_mask", WITH_MASK),
        ("without-mask", WITHOUT_MASK),
        ("mask_weared_incorrect", INCORRECT),
        ("Incorrect", INCORRECT),
        ("masked_face", WITH_MASK),
        ("face", WITHOUT_MASK),
        ("Without a mask", WITHOUT_MASK),
        ("worn incorrectly", INCORRECT),
        ("IMFD", INCORRECT),
    ],
)
def test_the_names_of_the_usual_sets_are_known(name, label):
    assert label_of(name) == label


def test_an_unknown_class_is_named():
    with pytest.raises(DataError, match="visor"):
        label_of("visor")


def test_a_folder_of_faces_is_read_in_order(tmp_path):
    for index, name in enumerate(("WithMask", "WithoutMask")):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), picture(index))
    crops = read_folder(tmp_path)
    assert crops.labels.tolist() == [WITH_MASK, WITHOUT_MASK]
    assert crops.images.shape == (2, WIDE, WIDE, 3)
    assert crops.centres().shape == (2, SIZE, SIZE, 3)
    assert crops.centres(80).shape == (2, 80, 80, 3)


def test_missing_empty_and_broken_data_are_named(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        read_folder(tmp_path / "absent")
    with pytest.raises(DataError, match="no pictures"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="no annotated scenes"):
        read_scenes(tmp_path)
    (tmp_path / "WithMask").mkdir()
    (tmp_path / "WithMask" / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        read_folder(tmp_path)


def test_scenes_give_their_boxes_and_small_faces_are_skipped(tmp_path):
    write_scenes(
        tmp_path, [("mask_weared_incorrect", (10, 10, 40, 50)), ("with_mask", (0, 0, 11, 20))]
    )
    crops = scene_crops(read_scenes(tmp_path))
    assert crops.labels.tolist() == [INCORRECT]
    assert crops.width.tolist() == [30.0]


def test_a_broken_annotation_is_named(tmp_path):
    write_scenes(tmp_path, [("with_mask", ("left", 0, 11, 20))])
    with pytest.raises(DataError, match=r"0\.xml"):
        read_scenes(tmp_path)


def test_near_identical_scenes_stay_on_one_side(tmp_path):
    names = ["with_mask", "mask_weared_incorrect", "without_mask"] * 8
    write_scenes(tmp_path, [(name, (10, 10, 40, 50)) for name in names])
    for number in range(24):
        image = cv2.imread(str(tmp_path / "images" / f"{number}.png"))
        cv2.imwrite(str(tmp_path / "images" / f"copy{number}.jpg"), image)
        text = (tmp_path / "annotations" / f"{number}.xml").read_text()
        (tmp_path / "annotations" / f"copy{number}.xml").write_text(text)
    train, held = split_scenes(read_scenes(tmp_path))
    assert len(train) + len(held) == 48
    assert 6 <= len(held) <= 18
    stems = [{scene.path.stem.removeprefix("copy") for scene in side} for side in (train, held)]
    assert not stems[0] & stems[1]
    assert any(face[0] == INCORRECT for scene in held for face in scene.faces)


def test_held_faces_leave_training_even_recoded_or_mirrored():
    faces = [whole_crop(picture(seed), seed % 2) for seed in range(12)]
    _, coded = cv2.imencode(".jpg", picture(3), [cv2.IMWRITE_JPEG_QUALITY, 60])
    held = [
        whole_crop(cv2.imdecode(coded, cv2.IMREAD_COLOR), 0),
        whole_crop(np.ascontiguousarray(picture(5)[:, ::-1]), 0),
    ]
    clean = without_leaks(join(faces), [join(held)])
    kept = [seed for seed in range(12) if (clean.images == faces[seed].images).all((1, 2, 3)).any()]
    assert kept == [seed for seed in range(12) if seed not in (3, 5)]


def test_distance_counts_differing_bits():
    codes = hashes(np.stack([picture(1), picture(1), picture(2)]))
    table = distances(codes, codes)
    assert table[0, 1] == 0
    assert table[0, 2] == (int(codes[0]) ^ int(codes[2])).bit_count() > 8
