"""What code must not do outside the one place for it, read from the source itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = {
    str(path.relative_to(REPOSITORY)): ast.parse(path.read_text())
    for folder in ("jobs", "pipelines")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
# Imports that turn bytes into code.
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Who may start other programs: what may crash is tried in a Python of its own.
STARTERS = {"pipelines/nightrank/diagnosis/machine.py"}
# Calls by their last names; a module may be named as the one that is allowed to.
FORBIDDEN_CALLS = {
    "os.system": "",
    "os.popen": "",
    "torch.load": "",
    "torch.save": "",
    "torch.jit.load": "",
    "export.load": "",
    "yaml.load": "",
    "yaml.unsafe_load": "",
    "yaml.full_load": "",
    "np.load": "",
    "read_webdataset": "",
    "import_string": "",
    "write_index": "pipelines/nightrank/retrieval/faiss_files.py",
    "read_index": "pipelines/nightrank/retrieval/faiss_files.py",
}
# Who writes files by other means than the store: nothing of the lake.
WRITERS = {
    "pipelines/nightrank/storage/disk.py",  # The store itself.
    "pipelines/nightrank/storage/node_cache.py",  # A node's copies of lake files.
    "pipelines/nightrank/runtime/events.py",  # Lines of a run in progress, on this machine.
    "pipelines/nightrank/forecast/miniature.py",  # A sample in a temporary folder.
    "pipelines/nightrank/training/checkpoints.py",
    "pipelines/nightrank/training/exporting.py",  # Model folders for other programs.
    "pipelines/nightrank/models/engines/reranker_tensors.py",
    "pipelines/nightrank/training/trainee.py",
    "pipelines/nightrank/models/engines/builtin_reranker.py",
    "pipelines/nightrank/config/reference.py",  # Documentation, where the user asks for it.
    "pipelines/nightrank/cli/paths.py",  # A run or a report where the user asks for it.
    "pipelines/nightrank/cli/init.py",
    "pipelines/nightrank/cli/quickstart.py",
    "pipelines/nightrank/cli/submit.py",  # The config, in a temporary folder.
    "pipelines/nightrank/cli/terminal.py",  # The log of a bug.
    "pipelines/nightrank/training/job.py",
}
# Files of stores are opened where their errors are told and their digests checked.
OPENERS = {
    "pipelines/nightrank/storage/",
    "pipelines/nightrank/inputs/",
    "pipelines/nightrank/datasets/judgements.py",
    "pipelines/nightrank/forecast/sampling.py",
}
# Classes that are named in the source: no file decides which one is made.
OWN_CLASSES = {"BertConfig.from_pretrained", "NightrankConfig.from_pretrained"}
WRITE_MODES = set("wax+")


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of the product: file, dotted name of what is called, the call."""
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, ast.unparse(node.func), node


def ends_with(called: str, name: str) -> bool:
    return called == name or called.endswith(f".{name}")


def is_true(call: ast.Call, keyword: str) -> bool:
    return any(
        word.arg == keyword and not (isinstance(word.value, ast.Constant) and not word.value.value)
        for word in call.keywords
    )


def test_nothing_turns_bytes_into_code() -> None:
    found = []
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            found += [f"{name}: {m}" for m in modules if m.split(".")[0] in FORBIDDEN_IMPORTS]
            if "subprocess" in modules and name not in STARTERS:
                found.append(f"{name}: subprocess")
    for name, called, call in calls():
        for forbidden, allowed in FORBIDDEN_CALLS.items():
            if ends_with(called, forbidden) and name != allowed:
                found.append(f"{name}:{call.lineno}: {called}")
        if called in ("eval", "exec", "__import__"):
            found.append(f"{name}:{call.lineno}: {called}")
        for keyword in ("shell", "trust_remote_code", "allow_pickle"):
            if is_true(call, keyword):
                found.append(f"{name}:{call.lineno}: {keyword}")
    assert not found


def test_models_are_loaded_from_safetensors_without_code_of_their_own() -> None:
    loads = [
        (f"{name}:{call.lineno}", called, {word.arg for word in call.keywords})
        for name, called, call in calls()
        if any(ends_with(called, name) for name in ("SentenceTransformer", "CrossEncoder"))
        or (called.endswith("from_pretrained") and called not in OWN_CLASSES)
    ]
    assert len(loads) >= 5
    for where, called, given in loads:
        assert "trust_remote_code" in given, where
        by_library = ("AutoConfig", "AutoTokenizer", "SentenceTransformer", "CrossEncoder")
        weights = not called.startswith(by_library)
        assert not weights or "use_safetensors" in given, where


def test_files_are_written_by_the_store_alone() -> None:
    found = []
    for name, called, call in calls():
        writes = called.rpartition(".")[2] in ("write_text", "write_bytes", "save_file")
        if called.rpartition(".")[2] in ("open", "fdopen", "NamedTemporaryFile"):
            given = [a.value for a in call.args[:2] if isinstance(a, ast.Constant)]
            # The first argument of a path's `open` is a mode, of any other it is a name.
            modes = [value for value in given if re.fullmatch("[rwxabt+]{1,3}", str(value))]
            modes += [w.value.value for w in call.keywords if w.arg == "mode"]  # type: ignore[attr-defined]
            writes = any(set(str(mode)) & WRITE_MODES for mode in modes)
            writes = writes or called.endswith("NamedTemporaryFile")
            opens_store = called.endswith(("filesystem.open", "_fs.open", "fs.open"))
            if opens_store and not name.startswith(tuple(OPENERS)):
                found.append(f"{name}:{call.lineno}: {called}")
        if writes and name not in WRITERS:
            found.append(f"{name}:{call.lineno}: {called}")
    assert not found


def test_tests_share_helpers_through_the_support_package_alone() -> None:
    """A test module that another one imports cannot be changed, moved or run by itself."""
    imports = []
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        name = str(path.relative_to(REPOSITORY))
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level:
                imports.append(f"{name}:{node.lineno}: a relative import")
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            imports += [
                f"{name}:{node.lineno}: {module}"
                for module in modules
                if module.split(".")[0] in ("tests", "conftest")
                and not module.startswith("tests.support.")
            ]
    assert not imports, "move what tests share to tests/support"
