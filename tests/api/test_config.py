"""What a config may be, how it is overridden, and how errors name what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nightrank
from tests.support.collection import Collection


def test_a_config_is_a_path_a_mapping_or_a_pipeline_config(
    small: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    plain = small.config(tmp_path / "lake")
    path = write_config(plain)
    loaded = nightrank.load_config(path)
    assert nightrank.load_config(Path(path)) == nightrank.load_config(plain) == loaded
    assert nightrank.load_config(loaded) is loaded
    paths = {**plain, "root": tmp_path / "lake", "corpus": {"path": small.folder / "corpus.jsonl"}}
    assert nightrank.load_config(paths) == loaded


def test_overrides_are_texts_or_a_mapping(
    small: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    plain = small.config(tmp_path / "lake")
    texts = ["rerank.depth=7", "results.keep=3", "retrieve.bm25.weight=0", "name=2024"]
    values: dict[str, Any] = {"rerank.depth": 7, "results.keep": 3, "name": "2024"}
    values["retrieve.bm25.weight"] = 0.0
    given = (write_config(plain), plain, nightrank.load_config(plain))
    configs = [nightrank.load_config(c, o) for c in given for o in (texts, values)]
    assert all(config == configs[0] for config in configs)
    assert (configs[0].rerank[0].depth, configs[0].name) == (7, "2024")
    assert plain == small.config(tmp_path / "lake")
    # What was not set stays a default: the plan's identity is that of the same file.
    assert (
        "index" not in nightrank.load_config(configs[2], {"name": "x"}).rerank[0].model_fields_set
    )
    assert configs[2].semantic() == configs[0].semantic()


@pytest.mark.parametrize(
    ("overrides", "code", "where", "what"),
    [
        ({"rerank.depht": 5}, "E_CONFIG", "overrides['rerank.depht']", "did you mean 'depth'?"),
        (["rerank.depht=5"], "E_CONFIG", "--set rerank.depht", "did you mean 'depth'?"),
        ({"results.keep": "many"}, "E_CONFIG", "overrides['results.keep']", "a whole number"),
        (["results.keep"], "E_USAGE", "", "is not KEY=VALUE"),
        ({"name.first": "a"}, "E_USAGE", "", "overrides['name.first']: 'first' is inside a plain"),
        ("results.keep=5", "E_USAGE", "", "expected a list or a mapping of overrides"),
    ],
)
def test_a_wrong_override_is_named(
    small: Collection, tmp_path: Path, overrides: Any, code: str, where: str, what: str
) -> None:
    with pytest.raises(nightrank.NightrankError) as caught:
        nightrank.load_config(small.config(tmp_path / "lake"), overrides)
    assert caught.value.code == code and caught.value.where == where
    assert what in caught.value.what


def test_a_wrong_config_is_named(small: Collection, tmp_path: Path) -> None:
    plain = small.config(tmp_path / "lake")
    for wrong, what in (
        ({**plain, "retreive": {}}, "retreive: unknown key; did you mean 'retrieve'?"),
        ({key: plain[key] for key in ("name", "root", "queries")}, "corpus: this key is required"),
    ):
        with pytest.raises(nightrank.NightrankError) as caught:
            nightrank.run(wrong)
        assert caught.value.code == "E_CONFIG" and caught.value.where == "config mapping"
        assert caught.value.what.startswith(what)
    with pytest.raises(nightrank.NightrankError, match="cannot read config: No such file"):
        nightrank.run(tmp_path / "missing.yaml")
