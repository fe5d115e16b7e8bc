"""Moto's S3 server with conditional writes that are atomic, as S3's are.

Moto looks whether a key is there and writes it in two steps, on as many threads as there are
requests: of six writers of one key it has told two that they were the first. Here one object is
written at a time.
"""

import sys
import threading
from functools import wraps
from typing import Any

from moto.s3.responses import S3Response
from moto.server import main

_lock = threading.Lock()


def _one_at_a_time(name: str) -> None:
    plain = getattr(S3Response, name)

    @wraps(plain)
    def alone(*args: Any, **settings: Any) -> Any:
        with _lock:
            return plain(*args, **settings)

    setattr(S3Response, name, alone)


for _name in ("_key_response_put", "_key_response_post"):
    _one_at_a_time(_name)

if __name__ == "__main__":
    main(sys.argv[1:])
