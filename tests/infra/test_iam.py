"""What each role can do on a lake's objects, by a small evaluation of the policies themselves."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

IAM = Path(__file__).resolve().parents[2] / "infra" / "iam"
BUCKET = "arn:aws:s3:::example-nightrank-lake"
LAKE = f"{BUCKET}/lake/catalogue"
RECORD = f"{LAKE}/results/plan.0/rank/_done/part-00.a0.json"
DATA = f"{LAKE}/results/plan.0/rank/_data/part-00.ranked-3f.parquet"
ENTRY = f"{LAKE}/results/_log/00000000000000000007.json"
MODEL = f"{LAKE}/models/5e/_data/file-00000-of-00001.file-3f.bin"
PROBE = f"{LAKE}/_probe/3f"
INPUT = "arn:aws:s3:::example-nightrank-input/documents/a.jsonl"
KEYS = {
    name: f"arn:aws:kms:eu-central-1:111122223333:key/{number}0000000-0000-4000-8000-000000000000"
    for number, name in enumerate(("lake", "input", "exports"), start=1)
}
VIA_S3 = {"kms__ViaService": "s3.eu-central-1.amazonaws.com"}
EXPORT = "arn:aws:s3:::example-nightrank-analytics/exports/run_date=2026-01-31/a.parquet"
ROLES = {
    "writer": ("writer", "input"),
    "reader": ("reader",),
    "gc": ("gc",),
    "exporter": ("reader", "export"),
}


def statements(*names: str) -> list[dict[str, Any]]:
    return [s for n in names for s in json.loads((IAM / f"{n}.json").read_text())["Statement"]]


def many(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def holds(condition: dict[str, Any], request: dict[str, str]) -> bool:
    for operator, keys in condition.items():
        for key, wanted in keys.items():
            found = request.get(key)
            if operator == "Null":
                good = (found is None) == (wanted == "true")
            elif operator == "Bool":
                good = found == wanted
            elif operator == "StringLike":
                good = found is not None and any(fnmatchcase(found, w) for w in many(wanted))
            elif operator == "StringLikeIfExists":
                good = found is None or any(fnmatchcase(found, w) for w in many(wanted))
            else:
                raise AssertionError(f"unknown operator {operator}")
            if not good:
                return False
    return True


def applies(statement: dict[str, Any], action: str, resource: str, request: dict[str, str]) -> bool:
    inside = any(fnmatchcase(resource, pattern) for pattern in many(statement["Resource"]))
    return (
        any(fnmatchcase(action, pattern) for pattern in many(statement["Action"]))
        and inside
        and holds(statement.get("Condition", {}), request)
    )


def allowed(role: str, action: str, resource: str, **request: str) -> bool:
    """Denied by any Deny of the role or the bucket, else allowed by any Allow of the role."""
    context = {"aws:SecureTransport": "true"}
    if action == "s3:PutObject":
        context["s3:ObjectCreationOperation"] = "true"
    context |= {key.replace("__", ":").replace("_", "-"): v for key, v in request.items()}
    mine = statements(*ROLES[role])
    bucket = statements("bucket") if resource.startswith(BUCKET) else []
    found = [s for s in (*mine, *bucket) if applies(s, action, resource, context)]
    return any(s["Effect"] == "Allow" for s in found) and all(s["Effect"] != "Deny" for s in found)


CREATE = {"s3__if_none_match": "*"}


def test_the_writer_adds_and_takes_nothing_away() -> None:
    for key in (RECORD, ENTRY, PROBE, DATA, MODEL):
        assert allowed("writer", "s3:PutObject", key, **CREATE)
        # Without the condition a record, a log entry or a published file could be overwritten.
        assert not allowed("writer", "s3:PutObject", key)
        # The parts of an upload carry none; its completion does.
        assert allowed("writer", "s3:PutObject", key, s3__ObjectCreationOperation="false")
    assert allowed("writer", "s3:AbortMultipartUpload", DATA)
    for key in (RECORD, DATA, ENTRY, PROBE):
        assert allowed("writer", "s3:GetObject", key)
        assert not allowed("writer", "s3:DeleteObject", key)
        assert not allowed("writer", "s3:DeleteObjectVersion", key)
    assert not allowed("writer", "s3:PutObject", f"{BUCKET}/elsewhere/x", **CREATE)


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [
        ("writer", {"lake", "input"}, {"lake"}),
        ("reader", {"lake"}, set()),
        ("gc", {"lake"}, {"lake"}),  # It condemns in the log.
        ("exporter", {"lake", "exports"}, {"exports"}),
    ],
)
def test_a_role_may_use_the_keys_of_what_it_reads_and_writes_and_no_others(
    role: str, reads: set[str], writes: set[str]
) -> None:
    # S3 asks for both where a file goes up in parts: it reads back what it has encrypted.
    for action, names in (("kms:Decrypt", reads), ("kms:GenerateDataKey", writes)):
        assert {n for n, key in KEYS.items() if allowed(role, action, key, **VIA_S3)} == names
        for key in KEYS.values():  # Through S3 alone.
            assert not allowed(role, action, key)
            assert not allowed(role, action, key, kms__ViaService="ec2.eu-central-1.amazonaws.com")
    assert writes <= reads


def test_inputs_are_only_read() -> None:
    assert allowed("writer", "s3:GetObject", INPUT)
    assert not allowed("writer", "s3:PutObject", INPUT, **CREATE)
    assert not allowed("reader", "s3:GetObject", INPUT)


def test_the_reader_only_reads() -> None:
    assert allowed("reader", "s3:GetObject", DATA)
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
        assert not allowed("reader", action, DATA, **CREATE)


def test_exports_are_copies_outside_the_lake() -> None:
    for action in ("s3:PutObject", "s3:GetObject", "s3:DeleteObject"):  # A day may be replaced.
        assert allowed("exporter", action, EXPORT)
    assert allowed("exporter", "s3:GetObject", DATA)
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not allowed("exporter", action, DATA, **CREATE)
    for role in ("writer", "reader", "gc"):
        assert not allowed(role, "s3:PutObject", EXPORT, **CREATE)


def test_gc_condemns_and_deletes_and_never_touches_a_log() -> None:
    assert allowed("gc", "s3:PutObject", ENTRY, **CREATE)
    assert not allowed("gc", "s3:PutObject", ENTRY)
    assert not allowed("gc", "s3:PutObject", DATA, **CREATE)
    assert all(allowed("gc", "s3:DeleteObject", key) for key in (DATA, RECORD, MODEL))
    for log in (ENTRY, ENTRY.replace("/results/", "/index/")):
        assert not allowed("gc", "s3:DeleteObject", log)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_listing_is_bound_to_the_lake_and_missing_keys_are_not_forbidden(role: str) -> None:
    prefix = {"s3__prefix": "lake/catalogue/results/_log/"}
    assert allowed(role, "s3:ListBucket", BUCKET, **prefix)
    assert not allowed(role, "s3:ListBucket", BUCKET, s3__prefix="elsewhere/")
    # S3 answers 404 rather than 403 for a missing key to who may list, and then names no prefix.
    assert allowed(role, "s3:ListBucket", BUCKET)


def test_nothing_is_allowed_without_tls() -> None:
    assert not allowed("reader", "s3:GetObject", DATA, aws__SecureTransport="false")


def test_abandoned_uploads_are_cleared_and_pods_alone_take_the_roles() -> None:
    rules = json.loads((IAM / "lifecycle.json").read_text())["Rules"]
    days = [r["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for r in rules[:1]]
    assert days == [7] and all(rule["Status"] == "Enabled" for rule in rules)
    # Nothing current may expire: a generation's files are as old as the night that made them.
    assert all("Expiration" not in rule for rule in rules)
    trust = statements("trust")
    assert [s["Principal"] for s in trust] == [{"Service": "pods.eks.amazonaws.com"}]
