"""Imports OpenVINO without its telemetry.

OpenVINO imports the package openvino_telemetry if it is installed, and a stub otherwise. That
package reads and writes the home directory, fails without one, and sends reports to its vendor; a
batch job must do none of that.
"""

from __future__ import annotations

import sys

# With None the import fails as if the package were not installed.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402
from openvino import opset15  # noqa: E402

__all__ = ["openvino", "opset15"]
