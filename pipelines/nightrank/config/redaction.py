"""Masks secrets in printed and logged text.

A secret is the value of an environment variable with a secret's name, the part of a URL before `@`,
and a value assigned to a secret's name: `token=…`, `'secret': '…'`, `Authorization: …`. Errors of
libraries repeat all three. In `no usable credentials: NoCredentialsError` and `ExpiredToken: The
provided token …` the colon is no assignment, and the text after it is kept.
"""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"(secret|passw|token|access_?key|api_?key|credential)", re.IGNORECASE)
# Variables that hold a secret's location, or that belong to the tokenizers library.
NO_SECRET = re.compile(r"(_(FILE|PATH|DIR|URI|URL|EXPIRATION)$)|^TOKENIZERS_", re.IGNORECASE)
IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
# Lengths are in tokens, plural: `max_length_tokens: expected a whole number`.
WORD = r"secret|passw|token(?!s(?![a-z])|iz)|access_?key|api_?key|credential|authorization"
ASSIGNED = re.compile(
    rf"(?<![\w.-])(?P<key>(?P<quoted>['\"]?)[\w.-]*?(?:{WORD})[\w.-]*['\"]?)(?P<sign>\s*[=:]\s*)"
    r"(?:(?:bearer|basic)\s+)?(?P<quote>['\"]?)(?P<value>[^\s'\",;)}&]{4,})(?P=quote)",
    re.IGNORECASE,
)
# `token: …` may continue a sentence; after these there is always a secret.
ALWAYS = re.compile(r"[_-]|^(secret|passw|authorization|access_?key$|api_?key$)", re.IGNORECASE)
# InvalidAccessKeyId, NoCredentialsError, ExpiredToken: an error's name or code, not a variable.
CAMEL = re.compile(r"[A-Z]\w*[a-z][A-Z]\w*")
# A word, or an error's name with its module. A token without a digit is rarely this short.
SENTENCE = re.compile(
    r"[A-Za-z]{1,15}\W*|(?:\w+\.)*[A-Z]\w*(?:Error|Exception)\W*|(?:\w+\.)*[A-Z][A-Za-z]*:"
)
# Shorter values are words such as `true`, which are frequent in other text.
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


def _masked(match: re.Match[str]) -> str:
    """An assignment without its value; a sentence as it is."""
    key, sign = match["key"], match["sign"]
    certain = "=" in sign or match["quoted"] or match["quote"]
    variable = ALWAYS.search(key) and not CAMEL.fullmatch(key)
    if not certain and not variable and SENTENCE.fullmatch(match["value"]):
        return match[0]
    return f"{key}{sign}{MASK}"
