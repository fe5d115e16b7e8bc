"""Declarations that change what outputs mean: kind, similarity, prompts, activation.

Each is applied or refused; docs/models.md has the table.
"""

from __future__ import annotations

from pathlib import Path

from nightrank.errors import NightrankError
from nightrank.models.folders.files import read_json
from nightrank.models.folders.settings import DECLARED, config_folder, declared, modules

KINDS = {"bi_encoder": "SentenceTransformer", "cross_encoder": "CrossEncoder"}
# Activations that preserve the order of the logits, which are the scores that are stored.
MONOTONE = ("Identity", "Sigmoid", "Tanh", "LogSigmoid", "Softplus", "Softsign")


def require_kind(folder: Path, role: str, model: str) -> None:
    """Refuses a folder that declares another kind of model.

    sentence-transformers would load its encoder and use defaults for the rest.

    Raises:
        NightrankError: E_MODEL.
    """
    kind = declared(folder).get("model_type", KINDS["bi_encoder"])
    if modules(folder) and kind != KINDS[role]:
        raise NightrankError(
            "E_MODEL",
            f"expected a {KINDS[role]}, the folder declares model_type {kind!r:.40} in {DECLARED}",
            model,
            f"use a {role.replace('_', '-')}",
        )


def default_prompt(folder: Path) -> str:
    """The prompt of every query of a cross-encoder: the one that `default_prompt_name` names.

    Raises:
        NightrankError: E_MODEL, where the name is not among the prompts.
    """
    settings = declared(folder)
    prompts, name = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if name is None:
        return ""
    if name not in prompts:
        raise NightrankError(
            "E_MODEL",
            f"default_prompt_name {name!r:.40} is not one of the declared prompts",
            str(folder / DECLARED),
            "correct the name, or remove it",
        )
    return str(prompts[name] or "")


def bi_encoder_prompts(
    folder: Path, model: str, query: str | None, document: str | None
) -> tuple[str, str]:
    """The prompts of queries and documents, as `encode_query` and `encode_document` apply them.

    These methods apply the prompts named "query" and "document", and no other.

    Args:
        folder: a sentence-transformers folder.
        model: its name in the configuration.
        query: the configuration's prompt; None takes the model's own.
        document: the same for documents.

    Raises:
        NightrankError: E_MODEL, where the folder declares a prompt that would not be applied.
    """
    settings = declared(folder)
    prompts = {name: text or "" for name, text in (settings.get("prompts") or {}).items()}
    default = settings.get("default_prompt_name")
    unclear = [n for n in ("passage", "corpus") if prompts.get(n) and not prompts.get("document")]
    if document is None and unclear:
        raise NightrankError(
            "E_MODEL",
            f"the folder has a prompt {unclear[0]!r} and none named 'document', which is the one"
            " that sentence-transformers puts before documents",
            model,
            "set encoder.document_prompt to the text of that prompt, or to '' for none",
        )
    left_out = default not in (None, "query", "document") and prompts.get(default or "")
    if left_out and (query is None or document is None):
        raise NightrankError(
            "E_MODEL",
            f"the folder's default prompt {default!r:.40} is not applied to queries and documents:"
            " those take the prompts named 'query' and 'document'",
            model,
            "set encoder.query_prompt and encoder.document_prompt, '' for none",
        )
    own = prompts.get("query", ""), prompts.get("document", "")
    return (own[0] if query is None else query, own[1] if document is None else document)


def require_similarity(similarity: str, model: str) -> None:
    """Refuses a model whose similarity is neither cosine nor dot product.

    Raises:
        NightrankError: E_MODEL.
    """
    if similarity not in ("cosine", "dot"):
        raise NightrankError(
            "E_MODEL",
            f"the model declares similarity {similarity!r}; the first stage compares by cosine or"
            " dot product",
            model,
            "use another model; if this one also works with cosine, set similarity_fn_name to"
            f" 'cosine' in its {DECLARED}",
        )


def activation(folder: Path) -> str:
    """The activation that sentence-transformers applies to a cross-encoder's logits.

    Read in the order of that library: the folder's declaration, then config.json under its new and
    its old key. It ignores a class outside torch; for one label it then takes Sigmoid.
    """
    config = config_folder(folder) / "config.json"
    plain = read_json(config) if config.is_file() else {}
    nested = plain.get("sentence_transformers")
    name = (
        declared(folder).get("activation_fn")
        or (nested.get("activation_fn") if isinstance(nested, dict) else None)
        or plain.get("sbert_ce_default_activation_function")
    )
    return str(name) if str(name).startswith("torch.") else "torch.nn.modules.activation.Sigmoid"


def require_monotone(folder: Path, model: str) -> None:
    """Refuses a cross-encoder whose activation does not preserve the order of its logits.

    Raises:
        NightrankError: E_MODEL.
    """
    name = activation(folder)
    if name.rpartition(".")[2] not in MONOTONE:
        raise NightrankError(
            "E_MODEL",
            f"the activation {name!r:.80} does not preserve the order of the logits, which are"
            " used as scores",
            model,
            f"use a model with one of {', '.join(MONOTONE)}",
        )
