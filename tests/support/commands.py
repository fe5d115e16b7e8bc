"""Commands as texts write them: their words, and whether the program accepts them."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer
from typer.core import TyperGroup

from nightrank.cli.app import app

PROGRAM = typer.main.get_command(app)
assert isinstance(PROGRAM, TyperGroup)
VERBS = PROGRAM.commands


def parse(words: list[str]) -> Any:
    """The context of a verb and its arguments; raises where the program would refuse them."""
    return VERBS[words[0]].make_context(words[0], words[1:])


def words_of(line: str) -> list[str]:
    """The words of a line after the program's name, without a redirection."""
    return shlex.split(re.sub(r" >>? \S+$", "", line))[1:]
