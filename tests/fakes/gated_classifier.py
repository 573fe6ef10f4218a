"""A `FaceClassifier` whose answers tell which crop they belong to, and which a test can hold."""

import threading

import numpy as np
import numpy.typing as npt

from stream_server.frames import Pixels

SIZE = 4


def crop(number: int) -> Pixels:
    """A crop whose answer is `answer(number)`."""
    return np.full((SIZE, SIZE, 3), number, np.uint8)


def answer(number: int) -> list[float]:
    return [number / 256, 0.5, 0.5 - number / 256]


class GatedClassifier:
    """Notes the batches it was given. `gate` holds every run while it is clear; `fail_on` a crop's
    number makes the batch that holds it fail."""

    labels = ("a", "b", "c")
    input_size = SIZE

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.fail_on: int | None = None
        self._busy = threading.Lock()

    def classify(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Rows (n, 3), see `answer`."""
        assert self._busy.acquire(blocking=False), "called from two threads at a time"
        try:
            self.threads.add(threading.get_ident())
            numbers = crops[:, 0, 0, 0].tolist()
            self.batches.append(numbers)
            self.entered.set()
            assert self.gate.wait(10)
            if self.fail_on in numbers:
                raise RuntimeError(f"cannot run crop {self.fail_on}")
            return np.array([answer(number) for number in numbers], np.float32)
        finally:
            self._busy.release()
