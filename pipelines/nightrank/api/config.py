"""What every function of the API takes as a config: a path, a mapping or a `PipelineConfig`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nightrank.config import file
from nightrank.config.overrides import Overrides
from nightrank.config.schema import PipelineConfig

Config = str | os.PathLike[str] | Mapping[str, Any] | PipelineConfig


def load_config(config: Config, overrides: Overrides = ()) -> PipelineConfig:
    """Loads and checks a config.

    Args:
        config: path of a YAML file, the same keys as a mapping, or a `PipelineConfig`. Paths within
            it are relative to the working directory.
        overrides: `["rerank.depth=50"]`, as `--set` takes them, or `{"rerank.depth": 50}`.

    Returns:
        A frozen `PipelineConfig`, with defaults for the keys that are not given.

    Raises:
        NightrankError: E_CONFIG with the file, the line and the key; E_USAGE for an override that
            does not fit.
    """
    if isinstance(config, PipelineConfig):
        return file.changed(config, overrides)
    if isinstance(config, Mapping):
        return file.load_mapping(PipelineConfig, config, overrides)
    return file.load_config(os.fspath(config), overrides)
