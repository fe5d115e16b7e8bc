"""Exports a model as a folder that sentence-transformers loads.

Classifiers and bi-encoders become plain folders. The built-in reranker, and any fine-tuned from it,
becomes a folder that contains its code, since transformers has no such architecture: the difference
is merged into the published weights, and `CrossEncoder(folder, trust_remote_code=True)` returns the
same raw scores.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nightrank.errors import NightrankError
from nightrank.models import engines
from nightrank.models.engines.builtin_reranker import load_reranker
from nightrank.models.folders import builtin
from nightrank.models.folders.locating import locate
from nightrank.models.text.tokenizers import pretrained_tokenizer
from nightrank.training.trainee import NO_ACTIVATION

CODE = ("hugging_face_reranker.py", "interaction.py")
USE = """from sentence_transformers import CrossEncoder

model = CrossEncoder("{folder}", trust_remote_code=True)
model.predict([("a query", "a document")])  # raw scores: only their order is meaningful
"""
USE_ENCODER = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
"""


def export_model(model: str, target: Path) -> str:
    """Writes a model as a Hugging Face folder.

    Args:
        model: builtin:reranker, builtin:minilm, or a folder that `train-reranker` wrote.
        target: a folder that does not exist yet, or is empty.

    Returns:
        A few lines of Python that load it.

    Raises:
        NightrankError: E_MODEL for a model that cannot be exported, E_CONFIG where the target is
            not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "the folder to export into is not empty"
        raise NightrankError("E_CONFIG", what, str(target), "choose a new folder")
    if model == "builtin:minilm":
        shutil.copytree(builtin.minilm_folder(), target, dirs_exist_ok=True)
        return USE_ENCODER.format(folder=target)
    folder = builtin.RERANKER_FOLDER if model == "builtin:reranker" else locate(model, None)[0]
    if (folder / builtin.DELTA).exists():
        _export_interaction(builtin.reranker_folder(folder), target)
        return USE.format(folder=target)
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return USE.format(folder=target).replace(", trust_remote_code=True", "")


def _export_interaction(folder: Path, target: Path) -> None:
    """The whole network, the tokenizer and the code."""
    from nightrank.models.engines.hugging_face_reranker import NightrankConfig, NightrankReranker

    base, settings = builtin.minilm_folder(), builtin.read_reranker_config(folder)
    config = NightrankConfig.from_pretrained(base)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.num_labels = 1
    config.sentence_transformers = NO_ACTIVATION
    module = CODE[0].removesuffix(".py")
    config.auto_map = {
        "AutoConfig": f"{module}.{NightrankConfig.__name__}",
        "AutoModelForSequenceClassification": f"{module}.{NightrankReranker.__name__}",
    }
    model = NightrankReranker(config)
    model.network.load_state_dict(load_reranker(base, folder).state_dict())
    model.save_pretrained(target)
    tokenizer = pretrained_tokenizer(base)
    tokenizer.model_max_length = settings.max_length_tokens
    tokenizer.save_pretrained(target)
    for name in CODE:
        shutil.copyfile(Path(engines.__file__).parent / name, target / name)
