"""The introductions of the generated pages; everything else on them is that of the models."""

from __future__ import annotations

EXPERIMENT = """\
# Configuration

<!-- Written by `make reference` from pipelines/nightrank/config. Do not edit. -->

One YAML file is one experiment. This is a complete one; every other key has a default:

```yaml
# yaml-language-server: $schema=config.schema.json
name: my-experiment
root: ./lake
corpus: {path: data/corpus.jsonl}
queries: {path: data/queries.jsonl}
```

- **Editors.** The first line makes editors with the YAML language server (VS Code, Neovim, and
  others) complete, explain and check keys. It takes the path or the URL of
  [config.schema.json](config.schema.json). `python -m nightrank.config.reference FOLDER` writes
  this file, and this page, for the installed version.
- **Checks.** Unknown keys, wrong types and values out of range end the command with exit code 2 and
  one line that names the file, the line and the key. YAML is read strictly: repeated keys, aliases,
  tags and `${...}` are errors, and only `true` and `false` are booleans.
- **Overrides.** `--set KEY=VALUE` sets a key for one command, e.g. `--set rerank.depth=50` or
  `--set rerank.0.depth=50` for the first of several steps. The value of a text key is taken as it
  is typed; other values are read as YAML.
- **Paths** are relative to the working directory. `~` is the home directory.
- **Changes the plan.** A plan is what a run computes. A key that changes the plan may change
  results: the next run computes again what depends on the key, and reuses the rest. Any other key
  can be changed between two runs of one plan; the second resumes the first.

## Keys of the experiment
"""
TRAINING = """\
# Training configuration

<!-- Written by `make reference` from pipelines/nightrank/config. Do not edit. -->

One YAML file is one training of `nightrank train-reranker`. This is a complete one; every other key
has a default:

```yaml
# yaml-language-server: $schema=training.schema.json
output: build/my-reranker
collections:
  - {name: help-desk, corpus: docs.jsonl, queries: queries.jsonl, qrels: [qrels.tsv], weight: 1.0}
steps: 60
learning_rate: 1.0e-4
```

[training.schema.json](training.schema.json) is its schema for editors. Checks, overrides and paths
are as in the [configuration of experiments](configuration.md). A key that changes the weights
starts a new training; with any other key changed, the same command continues from the last
checkpoint.

## Keys of the training
"""
