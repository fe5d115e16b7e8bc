"""A user without an entry in /etc/passwd and without HOME, as arbitrary users of containers are."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nightrank.process.home import ensure_home

NOBODY = 54_321
BECOME = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
PROGRAM = """
import getpass, sys
from pathlib import Path
from nightrank.process.home import ensure_home
ensure_home()
first = Path.home()
ensure_home()
import nightrank.models.engines.openvino_engine, torch, huggingface_hub
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
assert "openvino" in sys.modules and not sys.modules["openvino_telemetry"]
print(getpass.getuser(), first == Path.home(), default_cache_dir())
(first / "written").write_text("x")
"""


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="only root becomes another user"
)
@pytest.mark.models
def test_libraries_that_ask_for_a_home_directory_find_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
        environment = {n: value for n, value in os.environ.items() if n not in names}
        done = subprocess.run(
            [*BECOME, sys.executable, "-c", PROGRAM],
            env={**environment, "TMPDIR": folder},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and done.stderr == ""
        assert done.stdout.split() == [
            f"uid-{NOBODY}", "True", f"{folder}/torchinductor_uid-{NOBODY}",
        ]  # fmt: skip
        home = Path(folder) / f"nightrank-home-{NOBODY}"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700 and (home / "written").exists()


def test_a_folder_that_another_user_put_there_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)  # Not who owns what this test makes.
    monkeypatch.setattr(os, "environ", {})
    ensure_home()
    taken = tmp_path / f"nightrank-home-{NOBODY}"
    assert Path(os.environ["HOME"]) != taken and Path(os.environ["HOME"]).parent == tmp_path


def test_what_is_there_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"HOME": "/nonexistent", "USER": "somebody"}
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    ensure_home()
    assert os.environ == given
