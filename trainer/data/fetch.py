"""The two public data sets, from Kaggle."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from models.errors import InputError
from trainer.data.classes import DataError
from trainer.data.faces import DataSet
from trainer.data.layouts import read_dataset

SETS = {
    "face-mask-12k": ("ashishjangra27/face-mask-12k-images-dataset", "12k"),
    "face-mask-detection": ("andrewmvd/face-mask-detection", "voc"),
}
"""Folder to Kaggle's name and layout."""


def fetch(name: str, into: Path, tell: Callable[[str], object] = lambda _: None) -> DataSet:
    """Download the set `name` of SETS to into/name, unless it is there already.

    What was interrupted leaves nothing behind. Raises InputError when the download fails, when it
    is not the data set that was expected, or when something else is in its place.
    """
    handle, layout = SETS[name]
    target = into / name
    if target.exists():
        return _there_already(target, layout)
    tell(f"{name}: from Kaggle, {handle}")
    try:
        into.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the move at the end is one step.
        with TemporaryDirectory(prefix=f".{name}-", dir=into) as folder:
            _download(handle, Path(folder) / name, target)
            read_dataset(Path(folder), layout).root.rename(target)
    except DataError as error:
        raise InputError(f"Kaggle's {handle} has changed its layout: {error}") from error
    except OSError as error:
        raise InputError(f"cannot write to {into}: {error}; give another --into") from error
    return read_dataset(target, layout)


def _there_already(target: Path, layout: str) -> DataSet:
    try:
        return read_dataset(target, layout)
    except DataError as error:
        raise InputError(
            f"{target} is in the way, it is not the data set: {error}; move it or give --into"
        ) from error


def _download(handle: str, folder: Path, target: Path) -> None:
    import kagglehub
    from kagglehub import exceptions as kaggle
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RequestException, Timeout

    refused = (
        kaggle.BackendError,
        kaggle.CredentialError,
        kaggle.DataCorruptionError,
        kaggle.KaggleEnvironmentError,
        kaggle.NotFoundError,
        kaggle.UnauthenticatedError,
        RequestException,
    )
    try:
        kagglehub.dataset_download(handle, output_dir=str(folder))
    except refused as error:
        offline = isinstance(error, NoConnection | Timeout)
        line = next(iter(str(error).splitlines()), type(error).__name__)
        reason = "no connection to Kaggle" if offline else line
        raise InputError(
            f"could not download {handle}: {reason}. Check the network (HTTPS_PROXY where there is"
            f" a proxy), or get it on another machine and unpack it to {target}"
        ) from error
