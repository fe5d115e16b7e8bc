"""The quickstart's corpus: the documentation strings of Python's standard library.

Every machine that can run Nightrank has this text already, so the quickstart downloads nothing and
still ranks real documents. Pure-Python modules are read with `ast`, never imported: importing all
of the standard library would open browsers and print poems. Functions written in C have no source
to read, so a short list of modules known to do nothing on import is inspected instead.

Run it alone with ``python -m nightrank.cli.quickstart_corpus corpus.jsonl.gz``.
"""

from __future__ import annotations

import ast
import gzip
import importlib
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, GetSetDescriptorType, MethodDescriptorType
from typing import TypeAlias

from nightrank.errors import NightrankError

MAX_CHARS = 1200
MAX_SIGNATURE = 100
MIN_WORDS = 3
MIN_DOCUMENTS = 1000
FIELDS = ("_id", "title", "text", "module", "kind")

# Demos, installers, tables, what distributions ship apart (tkinter), other systems' modules, and
# what Python 3.12 or 3.13 removed: every supported version gives nearly the same corpus.
SKIPPED = """
    aifc antigravity asynchat asyncore cgi cgitb chunk crypt curses distutils encodings ensurepip
    genericpath idlelib imghdr imp lib2to3 mailcap msilib nntplib ntpath nturl2path pipes posixpath
    pydoc_data smtpd sndhdr sre_compile sre_constants sre_parse sunau telnetlib this tkinter turtle
    turtledemo uu xdrlib
"""
SKIPPED_PARTS = frozenset({"test", "tests", "macholib", "windows_events", "windows_utils"})

# Modules (wholly or partly) in C; importing them has no effect. `_x` holds the C part of `x`.
INSPECTED = """
    array atexit binascii builtins _bz2 cmath _codecs _collections _contextvars _csv faulthandler
    fcntl _functools gc grp hashlib hmac _io itertools _locale _lzma marshal math mmap os _pickle
    pwd _queue re resource select _signal _socket _sqlite3 _ssl _struct sys syslog termios time
    _tracemalloc types unicodedata _weakref zlib
"""

# Names that reach the user by another way than an import statement.
BOUND = {"multiprocessing.context.BaseContext.": "multiprocessing.", "random.Random.": "random."}
LAZY = {"concurrent.futures": ["concurrent.futures.process", "concurrent.futures.thread"]}
FILES = {"os.path": "posixpath"}
DEPRECATED = re.compile(r"\b(?:method|function) is deprecated|\bDeprecated,|^Deprecated\b", re.M)

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Named: TypeAlias = Function | ast.ClassDef
CMembers: TypeAlias = BuiltinFunctionType | GetSetDescriptorType | MethodDescriptorType


@dataclass(frozen=True, slots=True)
class Document:
    """One documentation string; `name` is the qualified name by which a user imports it."""

    name: str
    title: str
    text: str
    module: str
    kind: str


@dataclass(slots=True)
class _Module:
    """What one source file defines and passes on."""

    text: str
    all: set[str] | None
    nodes: dict[str, Named] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def exports(self, name: str) -> bool:
        return not name.startswith("_") if self.all is None else name in self.all


def _clean(text: object) -> str:
    """The docstring without its indentation, cut at a paragraph or a sentence if it is long."""
    text = inspect.cleandoc(text).strip() if isinstance(text, str) else ""
    if len(text) <= MAX_CHARS:
        return text
    head = text[:MAX_CHARS]
    cut = max(head.rfind("\n\n"), head.rfind(".\n"), head.rfind(". "))
    return head[: cut + 1 if cut > MAX_CHARS // 3 else head.rfind(" ")].strip()


def _short(signature: str) -> str:
    signature = " ".join(signature.split())
    return signature if len(signature) <= MAX_SIGNATURE else signature[: MAX_SIGNATURE - 4] + "...)"


def _signature(node: Function, method: bool) -> str:
    """The parameters as written, without annotations and without self."""
    decorators = {ast.unparse(d) for d in node.decorator_list}
    if decorators & {"property", "functools.cached_property"}:
        return ""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    text = f"({ast.unparse(node.args)})"
    if method and "staticmethod" not in decorators:
        text = "(" + text.partition(", ")[2].removeprefix("/, ") if ", " in text else "()"
    return _short(text)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those inside try and if: that is how fallbacks are written."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            handlers = [line for handler in node.handlers for line in handler.body]
            yield from _statements(node.body + handlers + node.orelse)


def _literal_all(statements: list[ast.stmt]) -> set[str] | None:
    """The names in `__all__`, or None where there is none or it is computed."""
    names: set[str] = set()
    for node in statements:
        if not isinstance(node, ast.Assign | ast.AugAssign | ast.Expr):
            continue
        if not ast.unparse(node).startswith("__all__"):
            continue
        # An assignment, or a call of extend or append.
        value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
        try:
            found = ast.literal_eval(value)
        except ValueError:
            return None
        names.update([found] if isinstance(found, str) else found)
    return names or None


def _path(name: str) -> Path | None:
    """The source file of a module, or None if it has none."""
    base = Path(sysconfig.get_path("stdlib"), *FILES.get(name, name).split("."))
    candidates = (base / "__init__.py", base.with_name(base.name + ".py"))
    return next((path for path in candidates if path.is_file()), None)


@cache
def _parsed(name: str) -> _Module:
    """The parsed module; without a source, an empty one."""
    path = _path(name)
    tree = ast.parse(path.read_text(encoding="utf-8") if path else "")
    package = name.split(".") if path and path.stem == "__init__" else name.split(".")[:-1]
    statements = list(_statements(tree.body))
    module = _Module(_clean(ast.get_docstring(tree)), _literal_all(statements))
    for node in statements:
        if isinstance(node, Named):
            module.nodes.setdefault(node.name, node)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                if alias.name != "*":
                    module.imports[alias.asname or alias.name] = (source, alias.name)
                elif node.module not in SKIPPED_PARTS:
                    module.stars.append(source)
    module.stars += LAZY.get(name, [])
    return module


def _modules() -> Iterator[str]:
    """Names of all public modules that have a source."""
    skipped = SKIPPED.split()
    todo = [n for n in sys.stdlib_module_names if n[0] != "_" and n not in skipped] + [*FILES]
    while todo:
        name = todo.pop()
        path = _path(name)
        if path is not None:
            yield name
        if path is not None and path.stem == "__init__":
            inner = {p.stem for p in path.parent.glob("*.py")}
            inner |= {p.parent.name for p in path.parent.glob("*/__init__.py")}
            todo += [f"{name}.{p}" for p in inner - SKIPPED_PARTS if p[0] != "_"]


def _names(name: str) -> dict[str, Named]:
    """All that a module offers under its own name: defined there or passed on."""
    module = _parsed(name)
    found = {n: node for n, node in module.nodes.items() if module.exports(n)}
    for source in module.stars:
        found = {**_names(source), **found}
    for local, (source, original) in module.imports.items():
        # What comes from inside the package, or by `__all__` from a private module, is passed on;
        # the rest are helpers that the module uses.
        own = source.split(".")[0] == name.split(".")[0] or (module.all and source[0] == "_")
        if own and module.exports(local) and original in _parsed(source).nodes:
            found.setdefault(local, _parsed(source).nodes[original])
    return found


def _described(module: str, prefix: str, nodes: Mapping[str, Named]) -> Iterator[Document]:
    """Documents of functions and classes, the classes' public methods included."""
    method = prefix != module
    for name, node in nodes.items():
        qualified, text = f"{prefix}.{name}", _clean(ast.get_docstring(node))
        if name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            inner = {n.name: n for n in reversed(node.body) if isinstance(n, Named)}
            yield Document(qualified, qualified, text, module, "class")
            yield from _described(module, qualified, inner)
        else:
            title = qualified + _signature(node, method)
            yield Document(qualified, title, text, module, "method" if method else "function")


def _from_source() -> Iterator[Document]:
    for name in sorted(_modules()):
        yield Document(name, name, _parsed(name).text, name, "module")
        yield from _described(name, name, _names(name))


def _inspected(module: str, prefix: str, members: Mapping[str, object]) -> Iterator[Document]:
    """Documents of what is written in C; `prefix` is "" for the built-in names."""
    top = prefix in ("", module)
    homes = (module, "_" + module, "builtins") if module == "types" else (module, "_" + module)
    for name, value in sorted(members.items()):
        value = getattr(value, "__func__", value)
        qualified = f"{prefix}.{name}" if prefix else name
        text, title = _clean(getattr(value, "__doc__", None)), qualified
        if name.startswith("_"):
            continue
        if isinstance(value, type):
            if not top or value.__module__ not in homes:
                continue
            yield Document(qualified, title, text, module, "class")
            yield from _inspected(module, qualified, vars(value))
        elif isinstance(value, CMembers):
            signature = getattr(value, "__text_signature__", None) or ""
            title += _short(re.sub(r"\$(module|self|type)(, )?|, /|/, |/", "", signature))
            yield Document(qualified, title, text, module, "function" if top else "method")


def _from_c() -> Iterator[Document]:
    for private in INSPECTED.split():
        try:
            members = dict(vars(importlib.import_module(private)))
        except ModuleNotFoundError:  # some builds leave optional modules out
            continue
        name = private.lstrip("_")
        yield Document(name, name, _clean(members.get("__doc__")), name, "module")
        yield from _inspected(name, "" if name == "builtins" else name, members)


def documents() -> list[Document]:
    """All documents, each text once under its shortest name, sorted by name.

    Raises:
        NightrankError: this Python comes without the source of its library.
    """
    pool = [*_from_source(), *_from_c()]
    if len(pool) < MIN_DOCUMENTS:
        what = f"the standard library of this Python gave {len(pool)} documentation strings"
        do = "use a Python that ships its .py files, without -OO"
        raise NightrankError("E_EMPTY", what, sysconfig.get_path("stdlib"), do)
    names: dict[str, Document] = {}
    texts: dict[str, Document] = {}
    for document in pool:
        for long, short in BOUND.items():
            if document.name.startswith(long):
                name, title = (x.replace(long, short) for x in (document.name, document.title))
                document = replace(document, name=name, title=title)
        if len(document.text.split()) >= MIN_WORDS and not DEPRECATED.search(document.text):
            names.setdefault(document.name, document)
    for document in sorted(names.values(), key=lambda d: (len(d.name), d.name)):
        texts.setdefault(document.text, document)
    return sorted(texts.values(), key=lambda d: d.name)


def extract(output: Path) -> int:
    """Writes the corpus as JSON lines (compressed if the name ends in .gz); returns its size."""
    records = (dict(zip(FIELDS, astuple(document), strict=True)) for document in documents())
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    data = "".join(lines).encode("utf-8")
    # No time stamp: the same Python writes the same bytes.
    output.write_bytes(gzip.compress(data, mtime=0) if output.name.endswith(".gz") else data)
    return len(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m nightrank.cli.quickstart_corpus OUTPUT")
    print(f"{extract(Path(sys.argv[1]))} documents written to {sys.argv[1]}")
