"""The home folder: `~` in paths, and a substitute if the system has none for this user.

Containers often run under an arbitrary user id, without an entry in /etc/passwd and without HOME.
Then `Path.home()` and `getpass.getuser()` raise, which libraries call (torch's compiler for its
cache, Ray for its token), and `expanduser("~")` returns "~", a folder in the working directory.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Sets HOME and LOGNAME, also for child processes, if the user has no entry in /etc/passwd."""
    user = os.getuid()
    try:
        pwd.getpwuid(user)
    except KeyError:
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            os.environ["LOGNAME"] = f"uid-{user}"
        if not os.environ.get("HOME"):
            os.environ["HOME"] = str(_private_folder(user))


def at_home(path: str) -> str:
    """A path with the home folder in place of a leading `~` or `~user`.

    Raises:
        ValueError: no home folder is known for the user.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded == path:
        user = path.partition("/")[0]
        what = f"no home folder is known for {user!r}"
        raise ValueError(f"{what}; write ./{path} for a file of this name")
    return expanded


def _private_folder(user: int) -> Path:
    """A temporary folder that only this user may enter, the same for every process."""
    folder = Path(tempfile.gettempdir()) / f"nightrank-home-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != user or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="nightrank-home-"))  # Another user created it.
    return folder
