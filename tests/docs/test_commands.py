"""Every command that a page shows is one that the program, make, pip, Ray or kubectl accepts."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
from packaging.requirements import Requirement

from nightrank.errors import EXIT_CODES
from tests.support.commands import VERBS, parse, words_of
from tests.support.pages import REPOSITORY, commands, page, pages

PACKAGE = REPOSITORY / "pipelines" / "nightrank"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir())
SHOWN = [(name, line) for name in pages() for line in commands(page(name))]
# `nightrank run my.yaml` between backticks; words in capitals are what the reader replaces.
INLINE = re.compile(r"`nightrank ([a-z][a-z-]*(?: [^`\n]+)?)`")
# A place in the repository: `infra/RUNBOOK.md`, `benchmarks/results/scale.md`.
PLACE = re.compile(r"`((?:benchmarks|configs|constraints|infra|jobs|pipelines|tests)/[^`*<\s]*)`")
# A module below pipelines/nightrank: `storage/log.py`, `models/`; of several in one cell the first.
MODULE = re.compile(rf"`((?:{'|'.join(ROOMS)})/[a-z0-9_/]*(?:\.py)?)`")
# Programs beside our own, with what a line of theirs must begin with.
OTHERS = ("git clone ", "umask 077", "export RAY_AUTH_MODE=token", "ray ", "kubectl apply -k ")


def test_commands_of_the_program_are_accepted() -> None:
    lines = [(name, line) for name, line in SHOWN if line.startswith("nightrank ")]
    assert len(lines) > 40
    for name, line in lines:
        try:
            parse(words_of(line))
        except Exception as error:
            raise AssertionError(f"{name}: {line}: {error}") from error


def test_commands_between_backticks_are_accepted() -> None:
    lines = [(name, line) for name in pages() for line in INLINE.findall(page(name))]
    assert len(lines) > 15
    for name, line in lines:
        verb, *rest = shlex.split(line.replace("[CONFIG]", "CONFIG").replace(" N", " 1"))
        assert verb in VERBS, f"{name}: {line}"
        if not rest or rest == ["VERB"]:
            continue
        if rest[0].startswith("--"):  # The config is clear from the text.
            rest.insert(0, "CONFIG")
        try:
            parse([verb, *rest])
        except Exception as error:
            raise AssertionError(f"{name}: {line}: {error}") from error


@pytest.mark.parametrize("line", ["run", "run my.yaml --no-such", "rollback my.yaml"])
def test_the_check_refuses_what_the_program_would(line: str) -> None:
    with pytest.raises(Exception, match=r"Missing (argument|parameter|option)|No such option"):
        parse(line.split())


def test_other_lines_are_of_known_programs() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", page("Makefile"), re.MULTILINE))
    extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
    for name, line in SHOWN:
        where = f"{name}: {line}"
        if line.startswith("make "):
            assert line.split()[1] in targets, where
        elif line.startswith("pip install "):
            for word in shlex.split(line, comments=True)[2:]:
                if word.startswith("constraints/"):
                    assert (REPOSITORY / word).is_file(), where
                elif "[" in word:
                    requirement = Requirement(word.replace(".[", "nightrank[", 1))
                    if requirement.name == "nightrank":
                        assert requirement.extras <= set(extras), where
        elif line.startswith("kubectl apply -k "):
            assert (REPOSITORY / line.split()[3] / "kustomization.yaml").is_file(), where
        else:
            assert line.startswith(("nightrank ", *OTHERS)), where


def test_places_in_the_repository_exist() -> None:
    places = [(name, place) for name in pages() for place in PLACE.findall(page(name))]
    assert len(places) > 40
    for name, place in places:
        assert (REPOSITORY / place).exists(), f"{name}: {place}"


def test_modules_exist() -> None:
    modules = [(name, module) for name in pages() for module in MODULE.findall(page(name))]
    assert len(modules) > 15
    for name, module in modules:
        assert (PACKAGE / module).exists(), f"{name}: {module}"


def test_the_overview_has_every_room() -> None:
    rooms = page("ARCHITECTURE.md").split("```text\n")[1].split("```")[0]
    table = page("docs/architecture/index.md").split("| room |")[1].split("\n\n")[0]
    for room in [*ROOMS, "errors"]:
        if (PACKAGE / room / "__init__.py").is_file() or room == "errors":
            assert re.search(rf"^(\w+ +)*{room}\b", rooms, re.MULTILINE), room
            assert f"`{room}`" in table, room


def test_the_page_of_commands_has_every_verb() -> None:
    rows = re.findall(r"^\| `nightrank ([a-z-]+)", page("docs/commands.md"), re.MULTILINE)
    assert sorted(rows) == sorted(VERBS)


@pytest.mark.parametrize("option", ["--set", "--json"])
def test_verbs_without_an_option_are_named(option: str) -> None:
    text = page("docs/commands.md").split(f"- `{option}")[1].split("\n- ")[0].split("\n\n")[0]
    lacking = re.findall(r"`([a-z-]+)`", text[text.index("`init`") :])
    without = [
        name
        for name, verb in VERBS.items()
        if not any(option in parameter.opts for parameter in verb.params)
    ]
    assert sorted(lacking) == sorted(without)


def test_the_table_of_exit_codes_has_every_error() -> None:
    table = page("docs/troubleshooting.md").split("## Exit codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|([^|]*)\|", table, re.MULTILINE)
    shown = {error: int(code) for code, errors in rows for error in re.findall(r"E_\w+", errors)}
    assert shown == EXIT_CODES
    named = {error for name in pages() for error in re.findall(r"\bE_[A-Z_]+\b", page(name))}
    assert named <= set(EXIT_CODES)
