"""The three classes and the names that data sets give them."""

from models.errors import InputError

WITH_MASK, WITHOUT_MASK, INCORRECT = range(3)

NAMES = {
    WITH_MASK: "with_mask mask masked mask_on face_mask face_with_mask correct correct_mask"
    " mask_correct mask_worn_correctly mask_weared_correct properly_worn_mask proper_mask"
    " masked_face with_a_mask wearing_mask wearing_a_mask wear_mask correctly_masked"
    " correctly_masked_face correctly_worn correctly_worn_mask mask_correctly_worn cmfd",
    WITHOUT_MASK: "without_mask no_mask not_masked unmasked mask_off without face_no_mask"
    " face_without_mask no_face_mask without_face_mask non_mask bare bare_face"
    " face unmasked_face without_a_mask not_wearing_mask not_wearing_a_mask unmask",
    INCORRECT: "mask_weared_incorrect incorrect incorrect_mask mask_incorrect incorrectly"
    " incorrectly_worn incorrectly_worn_mask incorrectly_masked mask_worn_incorrectly"
    " mask_worn_incorrect mask_weared_incorrectly mask_incorrectly_worn with_incorrect_mask"
    " improper improper_mask improperly_worn_mask wrong wrong_mask partial_mask"
    " incorrectly_masked_face worn_incorrectly improperly_worn mask_incorrectly"
    " mask_wear_incorrect weared_incorrect incorrectly_weared_mask with_mask_incorrect"
    " wrongly_worn imfd",
}
"""Known names of each class; case, digits and punctuation do not matter.

Those of FMLD, MaskedFace-Net (CMFD, IMFD) and AIZOO (face, face_mask) are among them.
"""


class DataError(InputError):
    """A data set is missing, empty or not laid out as expected; the message names the place."""


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalpha())


_CLASSES = {_key(name): label for label, names in NAMES.items() for name in names.split()}


def is_class(name: str) -> bool:
    """Whether `label_of` knows this name."""
    return _key(name) in _CLASSES


def label_of(name: str) -> int:
    """The class of a folder's or annotation's name. Raises DataError on an unknown one."""
    if not is_class(name):
        raise DataError(
            f"unknown class {name!r}: rename it to one of with_mask, without_mask, incorrect"
            f" (also known: {', '.join(_others())})"
        )
    return _CLASSES[_key(name)]


def _others() -> list[str]:
    """A few more names a user is likely to have, so that the mend is a short one."""
    return ["mask", "no_mask", "mask_weared_incorrect", "incorrect_mask", "improper"]
