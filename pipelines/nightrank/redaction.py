"""Takes secrets out of what is printed or logged.

A secret is the value of an environment variable whose name says so, what stands before the `@` of a
URL, and what follows a name of a secret and `=` or `:`. Errors of libraries repeat all three.
"""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"(secret|passw|token|access_?key|api_?key|credential)", re.IGNORECASE)
IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
NAMED = re.compile(
    r"((?:secret|passw|token|access_?key|api_?key|credential|authorization)[\w-]*['\"]?\s*[=:]\s*)"
    r"(?:bearer\s+)?(['\"]?)[^\s'\",;)}&]{4,}\2",
    re.IGNORECASE,
)
# Shorter values are words such as `true`, of which other text is full.
SHORTEST = 6
MASK = "***"


def redacted(text: str) -> str:
    """The text with every secret masked."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET_NAME.search(name) and not os.path.exists(value):
            text = text.replace(value, MASK)
    text = IN_URL.sub(rf"\1{MASK}@", text)
    return NAMED.sub(rf"\1{MASK}", text)
