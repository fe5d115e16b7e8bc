"""Files that would run code when read, ids that are paths, secrets in the environment and in URLs.

Each trap leaves a mark where it is sprung. No mark is ever left, and no secret is found in any
artifact, log or session folder.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.config.redaction import redacted
from nightrank.errors import NightrankError
from nightrank.retrieval import faiss_files
from tests.support.cluster import ON_RAY
from tests.support.collection import Collection, write_jsonl
from tests.support.input_files import read
from tests.support.lake import run, table

REPOSITORY = Path(__file__).resolve().parents[2]
Config = Callable[..., str]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that no test may find."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists(), "code of a file was executed"


def pickled(mark: Path) -> bytes:
    """A pickle that makes the mark."""
    return b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."


def test_the_traps_work(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "made"))
    assert (tmp_path / "made").exists()


def folder_of(path: Path, files: dict[str, Any]) -> str:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        target.write_bytes(data)
    return str(path)


BERT = {"model_type": "bert", "num_labels": 1, "architectures": ["BertForSequenceClassification"]}
CODE = {"auto_map": {"AutoModelForSequenceClassification": "code.Model"}}


HEADER = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"\0" * 4


def model_folders(mark: Path) -> dict[str, dict[str, Any]]:
    trap, code = pickled(mark), f"open({str(mark)!r}, 'w').close()".encode()
    foreign = [{"idx": 0, "name": "0", "path": "", "type": "code.Model"}]
    other = [{"idx": 0, "name": "0", "path": "", "type": "os.system"}]
    return {
        "pytorch_model.bin": {"config.json": BERT, "pytorch_model.bin": trap},
        "model.pt": {"config.json": BERT, "model.pt": trap},
        "model.ckpt": {"config.json": BERT, "model.ckpt": trap},
        "a pickle beside broken weights": {
            "config.json": BERT,
            "pytorch_model.bin": trap,
            "model.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
        },
        "a pickle called safetensors": {"config.json": BERT, "model.safetensors": trap},
        "auto_map": {
            "config.json": {**BERT, **CODE},
            "model.safetensors": WEIGHTS,
            "code.py": code,
        },
        "auto_map of the tokenizer": {
            "config.json": BERT,
            "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["code.Model", None]}},
            "model.safetensors": WEIGHTS,
            "code.py": code,
        },
        "modules.json with code of the folder": {
            "config.json": BERT,
            "modules.json": foreign,
            "model.safetensors": WEIGHTS,
            "code.py": code,
        },
        "modules.json with code of Python": {
            "config.json": BERT,
            "modules.json": other,
            "model.safetensors": WEIGHTS,
        },
    }


@pytest.mark.parametrize("role", ["encoder", "rerank"])
@pytest.mark.parametrize("kind", list(model_folders(Path("x"))))
def test_model_folders_with_code_are_refused(
    collection: Collection,
    tmp_path: Path,
    write_config: Config,
    mark: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    role: str,
) -> None:
    folder = folder_of(tmp_path / "model", model_folders(mark)[kind])
    config = write_config(collection.config(tmp_path / "lake", **{role: {"model": folder}}))
    assert guarded(lambda **_: app(["run", config])) == 3
    said = capsys.readouterr().err
    assert "error[E_MODEL]" in said and said.count("\n") == 1
    expected = {
        "auto_map": "auto_map",
        "modules": "module of another package",
        "a pickle": "safetensors",
    }
    for begin, words in expected.items():
        assert words in said or not kind.startswith(begin), said


def test_yaml_tags_are_refused(
    tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!include", "!!set"):
        path = tmp_path / "tagged.yaml"
        path.write_text(f"name: x\nroot: {tag} ['touch {mark}']\n")
        assert guarded(lambda path=path, **_: app(["run", str(path)])) == 2
        assert "line 2" in capsys.readouterr().err


class Extension(pa.ExtensionType):
    """A type whose reading makes a mark, as Ray's and old pyarrow's did."""

    marked: Path

    def __init__(self) -> None:
        super().__init__(pa.string(), "ray.data.arrow_tensor_v9")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickled(self.marked)

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Any:
        pickle.loads(serialized)
        return cls()


def test_extension_types_of_parquet_are_read_as_what_they_store(tmp_path: Path, mark: Path) -> None:
    Extension.marked = mark
    kind = Extension()
    values = pa.ExtensionArray.from_storage(kind, pa.array(["a", "b"]))
    columns = {"_id": pa.array(["1", "2"]), "text": values}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    pa.register_extension_type(kind)
    try:
        accepted, rejects = read(tmp_path / "c.parquet")
        assert [row["text"] for row in accepted] == ["a", "b"] and not rejects
        assert not mark.exists()
        pq.read_schema(tmp_path / "c.parquet")  # Whoever asks for it does run it.
        assert mark.exists()
        mark.unlink()
    finally:
        pa.unregister_extension_type(kind.extension_name)


def test_ray_is_not_allowed_to_unpickle_data(
    collection: Collection,
    tmp_path: Path,
    write_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE", "1")
    assert guarded(lambda **_: app(["run", config])) == 2
    assert "unset RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE" in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


def test_an_index_cannot_name_other_files(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    vectors = np.random.default_rng(1).random((64, 8), dtype=np.float32)
    quantizer = faiss.IndexFlatIP(8)
    index = faiss.IndexIVFFlat(quantizer, 8, 2, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    lists = faiss.OnDiskInvertedLists(2, index.code_size, str(victim))
    index.replace_invlists(lists)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "i.faiss"))
    victim.write_bytes(b"precious")
    with pytest.raises(NightrankError, match="E_CORRUPT"):
        faiss_files.read(tmp_path / "i.faiss")
    assert victim.read_bytes() == b"precious"


def test_an_index_that_announces_more_than_it_is_costs_no_memory(tmp_path: Path) -> None:
    index = faiss.IndexFlatIP(8)
    index.add(np.ones((4, 8), np.float32))
    data = bytearray(faiss.serialize_index(index).tobytes())
    at = bytes(data).index((32).to_bytes(8, "little"))
    data[at : at + 8] = (1 << 38).to_bytes(8, "little")
    with pytest.raises(NightrankError, match="E_CORRUPT"):
        faiss_files.read(bytes(data))


def test_ids_never_become_paths(tmp_path: Path, write_config: Config) -> None:
    ids = ["../../escaped", "/etc/nightrank", "a/../../b", "..", ".", "x\0y", "\n", "CON", "-rf *"]
    made = Collection(tmp_path / "in", documents=20, queries=4)
    texts = [document["text"] for document in made.documents]
    rows = [{"_id": name, "text": text} for name, text in zip(ids, texts, strict=False)]
    write_jsonl(tmp_path / "in" / "corpus.jsonl", rows)
    write_jsonl(tmp_path / "in" / "queries.jsonl", rows)
    config = write_config(made.config(tmp_path / "deep" / "er" / "lake", evaluate={"qrels": None}))
    before = {str(path) for path in tmp_path.rglob("*")}
    run(config)
    new = {str(path) for path in tmp_path.rglob("*")} - before
    assert all(path.startswith(str(tmp_path / "deep")) for path in new)
    names = {part for path in new for part in Path(path).relative_to(tmp_path).parts}
    assert not names & {*ids, "escaped", "b", "nightrank"}
    found = set(table(tmp_path / "deep" / "er" / "lake")["query_id"].to_pylist())
    assert found == set(ids)


CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws-5f1c0a",
    "AWS_SESSION_TOKEN": "canary-session-77aa21",
    "HF_TOKEN": "canary-hub-0c9d1e",
    "RAY_AUTH_TOKEN": "canaryray0123456789abcdef00000000",
    "MY_PASSWORD": "canary-password-e41b",
}


def hits(*folders: Path) -> list[str]:
    """Files below that hold a canary."""
    return [
        f"{path}: {name}"
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
        for name, value in CANARIES.items()
        if value.encode() in path.read_bytes()
    ]


@pytest.mark.ray
def test_secrets_of_the_environment_reach_no_file(
    tmp_path: Path, write_config: Config, request: pytest.FixtureRequest
) -> None:
    """A run on Ray, a run that fails and one that hits a bug: lake, output, logs, Ray's session."""
    made = Collection(tmp_path / "in", documents=60, queries=6)
    # Ray's sockets need a short path.
    scratch = Path(tempfile.mkdtemp(prefix="nr"))
    request.addfinalizer(lambda: shutil.rmtree(scratch))
    environment = {**os.environ, **CANARIES, "TMPDIR": str(scratch), "RAY_TMPDIR": str(scratch)}
    environment["RAY_AUTH_MODE"] = "token"
    config = write_config(made.config(tmp_path / "lake", cluster=ON_RAY))
    bad = made.config(tmp_path / "other")
    bad["corpus"]["path"] = "s3://me:canary-password-e41b@bucket/corpus.jsonl"
    commands = [
        ["-m", "nightrank", "run", config],
        ["-m", "nightrank", "run", write_config(bad, "bad.yaml")],
        ["-c", BUG],
    ]
    codes = []
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        codes.append(done.returncode)
        assert not [v for v in CANARIES.values() if v in done.stdout + done.stderr]
    assert codes == [0, 2, 70]
    assert list(scratch.rglob("raylet*.out")), "Ray's session was looked for elsewhere"
    assert list(scratch.glob("nightrank-*.log")), "the log of the bug was looked for elsewhere"
    assert not hits(tmp_path / "lake", scratch)


BUG = """
import os, sys
from nightrank.cli.terminal import guarded
def verb(**_):
    key = os.environ["AWS_SECRET_ACCESS_KEY"]
    raise RuntimeError(f"cannot reach https://me:{os.environ['MY_PASSWORD']}@host with {key}")
sys.exit(guarded(verb))
"""


def test_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "abcdef123456")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/no/such/credentials")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "sometimes")
    shown = {
        "it was abcdef123456 then": "it was *** then",
        "s3://me:pw@bucket/x": "s3://***@bucket/x",
        "{'aws_secret_access_key': 'hunter22', 'anon': False}": (
            "{'aws_secret_access_key': ***, 'anon': False}"
        ),
        "token=abcd1234&x=1": "token=***&x=1",
        "token=abcdefgh": "token=***",
        "credentials=abcdefgh": "credentials=***",
        "token: ghp1abcd": "token: ***",
        "token: abcdefghijklmnopqrst": "token: ***",
        "password: hunter": "password: ***",
        "session_token: abcdefgh": "session_token: ***",
        "X-Amz-Security-Token: abcdefgh": "X-Amz-Security-Token: ***",
        '"SessionToken": "abcdefgh"': '"SessionToken": ***',
        "SecretAccessKey: wJalrXUtnFEMI/K7MDENG": "SecretAccessKey: ***",
        "Authorization: Bearer xyz12345": "Authorization: ***",
        "Authorization: Basic xyzabcde": "Authorization: ***",
        "NoCredentialsError: token=abcd1234": "NoCredentialsError: ***",
    }
    assert {text: redacted(text) for text in shown} == shown
    for text in (
        "max_length_tokens 3 is outside 8 to 512",
        "encoder.max_length_tokens: expected a whole number",
        "tokens_per_second: 12345",
        "see s3://bucket/x@v2",
        "no usable credentials: NoCredentialsError",
        "no usable credentials: botocore.exceptions.TokenRetrievalError",
        "cannot read /no/such/credentials, sometimes",
        "An error occurred (ExpiredToken) when calling the ListObjectsV2 operation: The token",
        "ExpiredToken: The provided token has expired",
        "InvalidAccessKeyId: This key does not exist",
    ):
        assert redacted(text) == text


def test_botocores_errors_are_not_eaten_by_redaction() -> None:
    import inspect

    from botocore import exceptions

    class Words(dict[str, str]):
        def __missing__(self, key: str) -> str:
            return "something"

    checked = 0
    for name, kind in inspect.getmembers(exceptions, inspect.isclass):
        if form := getattr(kind, "fmt", None):
            text = f"no usable credentials: {name}: {form.format_map(Words())}"
            assert redacted(text) == text
            checked += 1
    assert checked > 50
