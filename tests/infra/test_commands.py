"""Every `nightrank` command that infra/ types or advises is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nightrank.cli.submit import entrypoint
from tests.support.commands import parse
from tests.support.manifests import INFRA, Manifest, one, pod_templates

# In the text: code between backticks, or a line of a block; "-n nightrank" is kubectl's namespace.
WRITTEN = re.compile(r"(?:^|`)nightrank ([a-z][a-z-]* [^`\n]+)", re.MULTILINE)


def written(path: Path) -> list[str]:
    return [line.split(" #")[0].strip() for line in WRITTEN.findall(path.read_text())]


@pytest.mark.parametrize("page", [INFRA / "RUNBOOK.md"], ids=lambda page: page.name)
def test_commands_of_the_text_are_taken(page: Path) -> None:
    commands = written(page)
    assert len(commands) > 9
    for command in commands:
        parse(shlex.split(command))


@pytest.mark.parametrize("command", ["rollback my.yaml", "nightly my.yaml --no-such", "runn a"])
def test_the_check_refuses_what_the_program_would(command: str) -> None:
    with pytest.raises(Exception, match=r"Missing parameter|No such option|'runn'"):
        parse(command.split())


def test_commands_of_the_manifests_are_taken(manifests: list[Manifest]) -> None:
    job = one(manifests, "RayJob")["spec"]["entrypoint"]
    assert job == entrypoint("nightly", "/etc/nightrank/config.yaml", [])
    found = [[*job.split()[3:], "--began", "2026-01-31T23:30:00Z"]]  # As nightly.py adds.
    for _, template in pod_templates(manifests):
        for container in template["spec"]["containers"]:
            arguments = container.get("args", [])
            found += [arguments[1:]] if arguments[:1] == ["nightrank"] else []
    assert len(found) >= 3
    for words in found:
        context = parse(words)
        config = context.params.get("config") or context.params.get("configs")
        assert config in ("/etc/nightrank/config.yaml", ["/etc/nightrank/config.yaml"]), words
