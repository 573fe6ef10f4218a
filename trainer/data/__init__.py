"""Faces from public data sets, split so that no picture stands on both sides."""

from trainer.data.classes import INCORRECT, WITH_MASK, WITHOUT_MASK, DataError, label_of
from trainer.data.crops import MARGIN, SIZE, WIDE, Crops, crops_of, join, read_folder, whole_crop
from trainer.data.duplicates import NEAR, distances, hashes, without_leaks, without_siblings
from trainer.data.faces import DataSet, LabelledFace, Problem
from trainer.data.layouts import LAYOUTS, read_dataset
from trainer.data.scenes import Scene, read_scenes, scene_crops, scenes_of, split_scenes

__all__ = [
    "INCORRECT",
    "LAYOUTS",
    "MARGIN",
    "NEAR",
    "SIZE",
    "WIDE",
    "WITHOUT_MASK",
    "WITH_MASK",
    "Crops",
    "DataError",
    "DataSet",
    "LabelledFace",
    "Problem",
    "Scene",
    "crops_of",
    "distances",
    "hashes",
    "join",
    "label_of",
    "read_dataset",
    "read_folder",
    "read_scenes",
    "scene_crops",
    "scenes_of",
    "split_scenes",
    "whole_crop",
    "without_leaks",
    "without_siblings",
]
