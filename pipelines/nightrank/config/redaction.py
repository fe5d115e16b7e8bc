"""Takes secrets out of what is printed or logged.

A secret is the value of an environment variable whose name says so, what is before the `@` of a
URL, and what is assigned to a name of a secret: `token=…`, `'secret': '…'`, `Authorization: …`.
Errors of libraries repeat all three. In `no usable credentials: NoCredentialsError` and
`ExpiredToken: The provided token …` the colon assigns nothing: what it precedes is kept.
"""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"(secret|passw|token|access_?key|api_?key|credential)", re.IGNORECASE)
# Variables that say where a secret is, or that belong to the tokenizers library.
NO_SECRET = re.compile(r"(_(FILE|PATH|DIR|URI|URL|EXPIRATION)$)|^TOKENIZERS_", re.IGNORECASE)
IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
# Lengths are in tokens, plural: `max_length_tokens: expected a whole number`.
WORD = r"secret|passw|token(?!s(?![a-z])|iz)|access_?key|api_?key|credential|authorization"
ASSIGNED = re.compile(
    rf"(?<![\w.-])(?P<key>(?P<quoted>['\"]?)[\w.-]*?(?:{WORD})[\w.-]*['\"]?)(?P<sign>\s*[=:]\s*)"
    r"(?:(?:bearer|basic)\s+)?(?P<quote>['\"]?)(?P<value>[^\s'\",;)}&]{4,})(?P=quote)",
    re.IGNORECASE,
)
# `token: …` may continue a sentence; these are followed by a secret alone.
ALWAYS = re.compile(r"[_-]|^(secret|passw|authorization|access_?key$|api_?key$)", re.IGNORECASE)
# InvalidAccessKeyId, NoCredentialsError, ExpiredToken: an error's name or code, not a variable.
CAMEL = re.compile(r"[A-Z]\w*[a-z][A-Z]\w*")
# A word, or an error's name with its module. A token without a digit is rarely this short.
SENTENCE = re.compile(
    r"[A-Za-z]{1,15}\W*|(?:\w+\.)*[A-Z]\w*(?:Error|Exception)\W*|(?:\w+\.)*[A-Z][A-Za-z]*:"
)
# Shorter values are words such as `true`, of which other text is full.
SHORTEST = 6
MASK = "***"


def redacted(text: str) -> str:
    """The text with every secret masked."""
    for name, value in os.environ.items():
        named = SECRET_NAME.search(name) and not NO_SECRET.search(name)
        if named and len(value) >= SHORTEST and not os.path.exists(value):
            text = text.replace(value, MASK)
    text = IN_URL.sub(rf"\1{MASK}@", text)
    return ASSIGNED.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    """An assignment without its value; a sentence as it is."""
    key, sign = found["key"], found["sign"]
    certain = "=" in sign or found["quoted"] or found["quote"]
    variable = ALWAYS.search(key) and not CAMEL.fullmatch(key)
    if not certain and not variable and SENTENCE.fullmatch(found["value"]):
        return found[0]
    return f"{key}{sign}{MASK}"
