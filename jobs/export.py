"""Results in other forms: `nightrank export CONFIG --trec run.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import ConfigPath, Generation, Sets, command

Trec = Annotated[Path, typer.Option("--trec", metavar="FILE", help="TREC run file to write.")]
Full = Annotated[bool, typer.Option("--full", help="Every scored candidate, not just the kept.")]
Tag = Annotated[str, typer.Option("--tag", help="The run's name, last column of the file.")]


def export(
    config: ConfigPath,
    trec: Trec,
    sets: Sets = None,
    generation: Generation = None,
    full: Full = False,
    tag: Tag = "nightrank",
) -> None:
    """Writes a TREC run; trec_eval derives from it the very ranks that were published."""
    from pipelines.config_file import load_config
    from pipelines.errors import NightrankError
    from pipelines.results import full_lists, generation_of, open_lake, read_results
    from pipelines.retrieval.trec import write_run

    if tag.split() != [tag]:
        do = "choose a tag without white space"
        raise NightrankError("E_USAGE", f"--tag {tag!r} cannot stand in a TREC run", "", do)
    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    if full:
        table = full_lists(store, entry)
    else:
        options = loaded.storage_options
        found = read_results(loaded.root, loaded.name, "ranked", entry.generation, options)
        table = found.to_table()
    try:
        unfinished = trec.with_name(f"{trec.name}.part")
        try:
            with open(unfinished, "wb") as file:
                write_run(table.select(["query_id", "doc_id", "rank", "score"]), file, tag)
            unfinished.replace(trec)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot write: {error.strerror}"
        raise NightrankError("E_USAGE", what, str(trec), "choose another file") from None
    print(f"{table.num_rows} rows of generation {entry.generation} -> {trec}")


if __name__ == "__main__":
    command(export)
