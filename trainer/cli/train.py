"""`maskstream train`."""


def train() -> None:
    """Not there yet."""
    raise NotImplementedError
