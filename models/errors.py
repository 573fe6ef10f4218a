"""What can go wrong with weights."""


class WeightsError(Exception):
    """Weights or their card are missing, broken or changed; the message names file and mend.

    A retry does not help: the files must be put right first.
    """
