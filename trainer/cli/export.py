"""`maskstream export`."""


def export() -> None:
    """Not there yet."""
    raise NotImplementedError
