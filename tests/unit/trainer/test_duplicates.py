"""What counts as the same picture, and what must not."""

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import (
    Crops,
    LabelledFace,
    crops_of,
    join,
    read_dataset,
    read_scenes,
    scenes_of,
    split_scenes,
    whole_crop,
    without_leaks,
    without_siblings,
)
from trainer.data.duplicates import alike_pairs, fingerprints, groups_of, source_of


def portrait(seed):
    """A drawn head: all have the coarse light and dark in common, the details differ."""
    head = np.full((112, 112, 3), 40, np.uint8)
    cv2.ellipse(head, (56, 60), (38, 48), 0, 0, 360, (140, 160, 190), -1)
    head = cv2.GaussianBlur(head, (0, 0), 6)
    details = np.random.default_rng(seed).normal(0, 18, (18, 18, 3))
    details = cv2.resize(details, (112, 112), interpolation=cv2.INTER_CUBIC)
    return np.clip(head + details, 0, 255).astype(np.uint8)


def recoded(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)


COPIES = {
    "recoded": recoded,
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "half the size": lambda image: cv2.resize(image, (56, 56), interpolation=cv2.INTER_AREA),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.9),
    "darker": lambda image: (image * 0.5).astype(np.uint8),
    "grey": lambda image: cv2.cvtColor(cv2.cvtColor(image, 6), 8),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_of_a_held_face_leaves_training(change):
    faces = [portrait(seed) for seed in range(20)]
    train = join(whole_crop(face, 0) for face in faces)
    held = whole_crop(COPIES[change](faces[7]), 0)
    clean = without_leaks(train, [held])
    assert len(clean) == 19
    assert not (clean.images == train.images[7]).all((1, 2, 3)).any()


def test_different_faces_stay():
    train = join(whole_crop(portrait(seed), 0) for seed in range(60))
    held = join(whole_crop(portrait(seed), 0) for seed in range(100, 160))
    assert len(without_leaks(train, [held])) == 60


def test_an_empty_held_set_takes_nothing():
    train = join(whole_crop(portrait(seed), 0) for seed in range(3))
    assert len(without_leaks(train, [train.where(np.zeros(3, np.bool_))])) == 3


def test_pairs_are_found_across_blocks():
    images = np.stack([portrait(seed) for seed in range(1100)])
    images[1050] = images[3]
    images[1060] = images[1055][:, ::-1]
    pairs = alike_pairs(fingerprints(images))
    assert pairs.tolist() == [[3, 1050], [1055, 1060]]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_groups_are_the_connected_ones(pairs):
    groups = groups_of(20, pairs)
    assert all(groups[one] == groups[other] for one, other in pairs)
    links = len({tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1]})
    assert len(set(groups)) >= 20 - links
    assert all(groups[group] == group for group in groups)
    touched = {thing for pair in pairs for thing in pair}
    assert all(groups[thing] == thing for thing in range(20) if thing not in touched)


# --- by their names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Augmented_235_4640860.jpg", "235"),
        ("face_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "face_jpg"),
        ("1835.jpg", None),
        ("maksssksksss12.png", None),
        ("Augmented_235.jpg", None),
    ],
)
def test_a_name_may_tell_the_source(tmp_path, name, source):
    assert source_of(tmp_path / name) == source


def test_siblings_of_held_faces_leave_training(tmp_path):
    def face(name, label=0):
        return LabelledFace(tmp_path / name, label, None)

    train = [face("Augmented_1_10.jpg"), face("Augmented_2_11.jpg"), face("1.jpg")]
    train.append(face("Augmented_1_12.jpg", label=1))
    held = [face("Augmented_1_99.jpg"), face("2.jpg")]
    assert without_siblings(train, held) == tuple(train[1:])


def test_siblings_stand_on_one_side_of_our_split(tmp_path):
    faces = []
    for number in range(40):
        path = tmp_path / f"Augmented_{number // 4}_{number}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (40, 40, 3)))
        faces.append(LabelledFace(path, 0, (1, 1, 30, 30)))
    sides = [
        {scene.path.name.split("_")[1] for scene in side} for side in split_scenes(scenes_of(faces))
    ]
    assert len(sides[1]) == 2
    assert not sides[0] & sides[1]


# --- the real sets --------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_split_of_the_scenes_is_the_one_the_shipped_figures_were_measured_on(shared_data):
    _, held = split_scenes(read_scenes(shared_data / "face-mask-detection"))
    stems = "\n".join(sorted(scene.path.stem for scene in held))
    assert len(held) == 110
    digest = hashlib.sha256(stems.encode()).hexdigest()
    assert digest == "6afe60e42f3218fff6296cf676ef5dfa88ef3f99588f36168b0e13791cd69bde"


@pytest.mark.shared
def test_no_two_different_bare_faces_are_taken_for_one(shared_data):
    faces = read_dataset(shared_data / "face-mask-12k").splits
    bare = {
        split: [face for face in faces[split] if face.label == 1]
        for split in ("Train", "Validation")
    }
    train, _ = crops_of(bare["Train"][:2000])
    held, _ = crops_of(bare["Validation"])
    assert len(without_leaks(train, [held])) >= 1999


@pytest.mark.shared
def test_real_faces_are_known_again(shared_data):
    chosen = read_dataset(shared_data / "face-mask-12k").splits["Validation"][::20]
    train, _ = crops_of(chosen)
    for name, change in COPIES.items():
        held = join(whole_crop(change(centre), 0) for centre in train.centres())
        left: Crops = without_leaks(train, [held])
        assert len(left) <= len(train) * 0.05, name
