"""The settings that a sentence-transformers folder declares, read from its JSON alone.

sentence-transformers 6 reads these files (`base/model.py`, `base/modules/transformer.py`):
`modules.json` lists the modules; `config_sentence_transformers.json` names the kind of model,
prompts and similarity, and is read only next to a `modules.json`; the first module's
`sentence_bert_config.json`, or one of its older names, changes how texts become tokens. The fast
engines run a folder only if they implement every setting. docs/models.md has the
table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightrank.models.folders.files import module_list, read_json

DECLARED = "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TASKS = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
}
# Settings of the first module that change no output of a single text or pair.
WITHOUT_EFFECT = ("unpad_inputs",)
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


@dataclass(frozen=True)
class Module:
    """One entry of a modules.json.

    Attributes:
        name: its class, without the package.
        path: its folder within the model's, "" for the model's own.
        bare: whether the entry has no arguments.
    """

    name: str
    path: str
    bare: bool


def modules(folder: Path) -> tuple[Module, ...]:
    """The modules of a folder, in order; empty without a modules.json."""
    if not (folder / "modules.json").is_file():
        return ()
    listed = module_list(folder / "modules.json")
    return tuple(
        Module(
            str(entry.get("type")).rpartition(".")[2],
            str(entry.get("path", "")),
            not entry.get("kwargs"),
        )
        for entry in listed
    )


def declared(folder: Path) -> dict[str, Any]:
    """`config_sentence_transformers.json`; empty where sentence-transformers does not read it."""
    file = folder / DECLARED
    return read_json(file) if modules(folder) and file.is_file() else {}


def config_folder(folder: Path) -> Path:
    """The folder of the network's config.json: older models keep it with the first module."""
    listed = modules(folder)
    return folder / listed[0].path if listed else folder


def transformer_settings(folder: Path) -> dict[str, Any]:
    """The settings of the first module, from the first of its files that is not empty."""
    if not modules(folder):
        return {}
    for name in TRANSFORMER_FILES:
        file = config_folder(folder) / name
        if file.is_file() and (settings := read_json(file)):
            return settings
    return {}


def plain_transformer(folder: Path, task: str) -> bool:
    """Whether the first module declares nothing but a task and a limit in tokens.

    Args:
        folder: with or without a modules.json.
        task: "feature-extraction" or "sequence-classification".
    """
    if not modules(folder):
        return not has_chat_template(folder)
    method_output, output = TASKS[task]
    text = {"text": {"method": "forward", "method_output_name": method_output}}
    settings = transformer_settings(folder)
    expected = {
        "transformer_task": task,
        "modality_config": text,
        "module_output_name": output,
    }
    allowed = set(WITHOUT_EFFECT) | {"max_seq_length"}
    # Without a task sentence-transformers takes a folder for an encoder.
    if settings.get("transformer_task", "feature-extraction") != task:
        return False
    for name, value in settings.items():
        if name in expected and value != expected[name]:
            return False
        if name not in expected and name not in allowed and value:
            return False
    return True


def max_seq_length(folder: Path) -> int | None:
    """The limit that the first module declares instead of the tokenizer's; None without one."""
    limit = transformer_settings(folder).get("max_seq_length")
    return int(limit) if limit is not None else None


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer has a chat template.

    sentence-transformers applies it to texts unless the settings say otherwise.
    """
    if any((folder / name).exists() for name in CHAT_TEMPLATES):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(read_json(file).get("chat_template"))


def plain_classifier(folder: Path) -> bool:
    """Whether a folder is one sequence classifier over pairs and nothing else."""
    listed = modules(folder)
    alone = not listed or listed == (Module("Transformer", "", True),)
    return alone and plain_transformer(folder, "sequence-classification")


def pools_by_mean(folder: Path) -> bool | None:
    """Whether a sentence-transformers model takes the mean (True) or the first token (False).

    None where it does something else, or declares it in another form.
    """
    listed = modules(folder)
    names = [module.name for module in listed]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]):
        return None
    if listed[0].path or not all(module.bare for module in listed):
        return None
    if not plain_transformer(folder, "feature-extraction"):
        return None
    pooling = read_json(folder / listed[1].path / "config.json")
    if not pooling.get("include_prompt", True) or not _normalizes_sentences(folder, listed):
        return None
    flags = [name.removeprefix("pooling_mode_") for name, on in pooling.items() if on is True]
    modes = pooling.get("pooling_mode", [mode for mode in flags if mode != "include_prompt"])
    modes = [modes] if isinstance(modes, str) else list(modes or ["mean"])
    known = {"mean_tokens": True, "mean": True, "cls_token": False, "cls": False}
    return known.get(modes[0]) if len(modes) == 1 else None


def normalizes(folder: Path) -> bool:
    """Whether the last module scales vectors to unit length."""
    listed = modules(folder)
    return bool(listed) and listed[-1].name == "Normalize" and _normalizes_sentences(folder, listed)


def _normalizes_sentences(folder: Path, listed: tuple[Module, ...]) -> bool:
    """Whether every Normalize replaces a text's vector, and not another output."""
    for module in listed:
        file = folder / module.path / "config.json"
        if module.name != "Normalize" or not module.path or not file.is_file():
            continue
        names = read_json(file)
        if {names.get("module_input_name"), names.get("module_output_name")} - {
            None,
            "sentence_embedding",
        }:
            return False
    return True
