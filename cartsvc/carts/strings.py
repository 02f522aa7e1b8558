r"""Define what each string of a request may contain, once for the check in the domain and for the API document.

A pattern here means the same in Python's ``re`` and in ECMA-262 with the ``u`` flag, which JSON Schema requires. It is
written without surrogates (``\ud800``) and without ``\u{...}``, because validators in Rust and in Python read no such
escapes.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from msgspec import Struct, structs

# The Basic Multilingual Plane from U+0020 on, without DEL, the C1 controls and surrogates. The other planes are "not in
# the first", because no notation for them is common to all validators.
_BASIC = r"\x20-\x7e\xa0-\ud7ff\ue000-\uffff"
_OTHER_PLANES = r"[^\x00-\uffff]"
# Runs and single characters alternate, so no text can be split in two ways, and a match takes linear time.
_ONE_LINE = rf"[{_BASIC}]*(?:{_OTHER_PLANES}[{_BASIC}]*)*"
_LINES = rf"[\t\n\r{_BASIC}]*(?:{_OTHER_PLANES}[\t\n\r{_BASIC}]*)*"

# The most characters that NFC makes of one: U+FB2C becomes three (Unicode Standard Annex 15, "maximum expansion").
NFC_GROWTH = 3
# The characters that NFC adds to another one without being combining characters (canonical combining class 0).
GROWN = "\u0fb5\u0fb7"


class StringRule(Struct, frozen=True):
    """What one kind of string may be: a pattern that all of it matches, and how many characters (code points) it has.

    ``max_length`` None means that the pattern bounds the length.
    """

    pattern: str
    min_length: int = 0
    max_length: int | None = None

    def allows(self, text: str) -> bool:
        """Return whether the text is such a string."""
        return len(text) >= self.min_length and not self.is_too_long(text) and self.has_pattern(text)

    def is_too_long(self, text: str) -> bool:
        """Return whether the text exceeds the maximum length.

        Normalisation can make a text longer, so a text of a response may exceed the maximum, and still be sent back:
        combining characters of a text in NFC count up to the maximum only, and at most NFC_GROWTH times as many
        characters are allowed.
        """
        most = self.max_length
        if most is None or len(text) <= most:
            return False
        if len(text) > most * NFC_GROWTH or not unicodedata.is_normalized("NFC", text):
            return True
        return sum([not (unicodedata.combining(each) or each in GROWN) for each in text]) > most

    def has_pattern(self, text: str) -> bool:
        """Return whether all of the text matches the pattern."""
        return _compiled(self.pattern).fullmatch(text) is not None

    def up_to(self, max_length: int) -> StringRule:
        """Return this rule with another maximum length."""
        return structs.replace(self, max_length=max_length)

    def json_schema(self) -> dict[str, str | int]:
        """Return the rule as keywords of JSON Schema."""
        schema: dict[str, str | int] = {"pattern": f"^{self.pattern}$"}
        if self.min_length:
            schema["minLength"] = self.min_length
        if self.max_length is not None:
            schema["maxLength"] = self.max_length
        return schema


USER_ID = StringRule(r"(?!\.{1,2}$)[A-Za-z0-9._~@:+|\-]{1,255}")
CURRENCY = StringRule("[A-Z]{3}")
PRODUCT_ID = StringRule(_ONE_LINE, 1, 128)
STORED_PRODUCT_ID = StringRule(_ONE_LINE, 1, 128 * NFC_GROWTH)
OPTION_NAME = StringRule(_ONE_LINE, 1)
OPTION_VALUE = StringRule(_LINES)
METADATA_NAME = StringRule(_ONE_LINE, 1, 64)
METADATA_VALUE = StringRule(_LINES)

_compiled = cache(re.compile)  # re's own cache takes twice the time


def normalise(text: str) -> str:
    """Return the text in Unicode Normalization Form C, in which texts that look the same are the same.

    A few characters become up to NFC_GROWTH ones, so the result can be longer than the text.
    """
    return unicodedata.normalize("NFC", text)
