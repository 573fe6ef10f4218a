"""What can go wrong with weights."""


class WeightsError(Exception):
    """Weights or their card are missing, broken or changed; the message names file and mend.

    A retry does not help: the files must be put right first.
    """


class InputError(Exception):
    """What the user gave cannot work: a data set, a setting, a file. The message names it."""
