"""The manifests as `kubectl apply -k` would send them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"

Manifest = dict[str, Any]


def render(folder: str) -> list[Manifest]:
    """Every object of one kustomization."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl renders the manifests and is not installed")
    made = subprocess.run(
        ["kubectl", "kustomize", str(INFRA / "kubernetes" / folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The object of a kind (and a name), of which there is exactly one."""
    found = [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {[m['metadata']['name'] for m in found]}"
    return found[0]


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template with where it stands, those inside custom resources too."""
    for manifest in manifests:
        yield from _templates(f"{manifest['kind']}/{manifest['metadata']['name']}", manifest)


def _templates(where: str, value: Any) -> Iterator[tuple[str, Manifest]]:
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield where, value
            return
        for key, inner in value.items():
            yield from _templates(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _templates(f"{where}[{number}]", inner)
