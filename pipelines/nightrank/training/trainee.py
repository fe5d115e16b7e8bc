"""A network in training, with its tokenizer, its inputs, and how it is written.

There are two kinds: the built-in reranker's network (a MiniLM encoder with a late-interaction head,
written as a small difference), and any Hugging Face encoder with a classification head (written as
a plain folder). Both train a low-rank difference, or all weights but the embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from nightrank.errors import NightrankError
from nightrank.models.engines.builtin_reranker import build_reranker, write_reranker
from nightrank.models.engines.torch_models import cannot_load
from nightrank.models.folders import builtin
from nightrank.models.folders.locating import locate
from nightrank.models.hardware import choose_device
from nightrank.models.protocols import Tokenizer
from nightrank.models.resolving import positions
from nightrank.models.text.inputs import Inputs, SplicedInputs, TokenisedInputs
from nightrank.models.text.pieces import Batch
from nightrank.models.text.tokenizers import (
    BYTES_PER_TOKEN,
    SplicedTokenizer,
    Utf8Tokenizer,
    cap_tokens,
    decode_utf8,
    minilm_splicer,
    minilm_tokenizer,
    pretrained_tokenizer,
    splicer_for,
)
from nightrank.storage.tokens import Tokens
from nightrank.training import low_rank

NO_ACTIVATION = {"activation_fn": "torch.nn.modules.linear.Identity"}
"""Makes sentence-transformers return raw scores; it reads this from config.json."""


@dataclass(frozen=True)
class TraineeSettings:
    """The network to train.

    Attributes:
        base: `builtin:minilm`, a folder, or a hub id; with the head `interaction` also
            `builtin:reranker`, or a folder that such a training wrote, whose training continues.
        revision: the 40-hex commit of a hub id.
        head: `interaction` or `classifier`.
        rank: of every linear layer's difference; 0 trains all weights but the embeddings.
        scale: factor of every low-rank product.
        max_length_tokens: tokens of a pair, special ones counted.
        seed: fixes the initial values.
        threads: CPU threads of this process.
    """

    base: str
    revision: str | None
    head: str
    rank: int
    scale: float
    max_length_tokens: int
    seed: int
    threads: int


@dataclass(frozen=True)
class Trainee:
    """A network in training.

    Attributes:
        network: prepared: parameters to train require a gradient.
        device: of the network.
        tokenizer: returns the tokens that `assemble` takes.
        assemble: returns inputs from queries, documents and int32 [n, 2] rows of both.
        forward: returns the raw scores of one batch, float32 [n].
        write: writes the trained network to a folder, with the recommended weight of the first
            stage; returns the config.json that it wrote.
    """

    network: nn.Module
    device: torch.device
    tokenizer: Tokenizer
    assemble: Callable[[Tokens, Tokens, NDArray[np.int32]], Inputs]
    forward: Callable[[Tensor, Tensor | None, Batch], Tensor]
    write: Callable[[Path, float], dict[str, Any]]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {n: p for n, p in self.network.named_parameters() if p.requires_grad}


def make_trainee(settings: TraineeSettings) -> Trainee:
    """Opens the base and prepares it for training.

    Raises:
        NightrankError: E_MODEL, where the base is missing or cannot be used.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    if settings.head == "interaction":
        return _interaction(settings)
    return _classifier(settings)


def _interaction(settings: TraineeSettings) -> Trainee:
    """The built-in reranker's network, from the published weights or a trained difference."""
    trained = _base_difference(settings)
    base, device = builtin.minilm_folder(), choose_device()
    splicer = minilm_splicer(settings.max_length_tokens, pair=True)
    network = build_reranker(base)
    low_rank.make_trainable(network, settings.rank, settings.scale, settings.seed)
    initial = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}
    if trained is not None:
        low_rank.load_delta(network, load_file(trained / builtin.DELTA))
    _use_eager_attention(network.encoder, device)
    network.to(device)

    def forward(ids: Tensor, mask: Tensor | None, batch: Batch) -> Tensor:
        first = torch.from_numpy(batch.first_lengths).to(device)
        scores: Tensor = network(ids, mask, first, torch.from_numpy(batch.lengths).to(device))
        return scores

    def write(folder: Path, weight: float) -> dict[str, Any]:
        delta = low_rank.export_delta(network, initial)
        rank, scale, limit = settings.rank, settings.scale, settings.max_length_tokens
        return write_reranker(folder, delta, rank, scale, limit, weight).to_dict()

    return Trainee(
        network,
        device,
        minilm_tokenizer(),
        lambda queries, documents, pairs: SplicedInputs(splicer, queries, documents, pairs),
        forward,
        write,
    )


def _base_difference(settings: TraineeSettings) -> Path | None:
    """The folder of the difference whose training continues; None for the published weights."""
    if settings.base == "builtin:minilm":
        return None
    is_builtin = settings.base == "builtin:reranker"
    folder = builtin.RERANKER_FOLDER if is_builtin else locate(settings.base, settings.revision)[0]
    if not (folder / builtin.DELTA).is_file():
        do = "use head: classifier, or base: builtin:minilm or builtin:reranker"
        what = "head interaction continues from a difference to builtin:minilm, found none"
        raise NightrankError("E_CONFIG", what, str(folder), do)
    config = builtin.read_reranker_config(builtin.reranker_folder(folder))
    if (config.rank, config.scale) != (settings.rank, settings.scale):
        what = f"rank {settings.rank} and scale {settings.scale}, but the base was trained with "
        do = f"set rank: {config.rank} and scale: {config.scale}"
        raise NightrankError(
            "E_CONFIG", f"{what}rank {config.rank} and scale {config.scale}", settings.base, do
        )
    return folder


def _classifier(settings: TraineeSettings) -> Trainee:
    """Any encoder with transformers' sequence-classification head of one label."""
    if settings.base == "builtin:minilm":
        folder = builtin.minilm_folder()
    else:
        folder, _ = locate(settings.base, settings.revision)
    tokenizer, limit = pretrained_tokenizer(folder), settings.max_length_tokens
    if limit > positions(folder):
        what = f"max_length_tokens {limit}, but the model has {positions(folder)} positions"
        raise NightrankError("E_CONFIG", what, settings.base, f"set at most {positions(folder)}")
    network, device = _open(folder), choose_device()
    if settings.rank:
        low_rank.make_trainable(network, settings.rank, settings.scale, settings.seed)
    else:
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                module.requires_grad_(False)
    _use_eager_attention(network, device)
    network.to(device)
    typed = "token_type_ids" in tokenizer.model_input_names
    splicer = splicer_for(tokenizer, limit, pair=True)

    def assemble(queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]) -> Inputs:
        if splicer is not None:
            return SplicedInputs(splicer, queries, documents, pairs)
        texts = decode_utf8(queries), decode_utf8(documents)
        return TokenisedInputs.of_pairs(tokenizer, *texts, pairs, limit)

    def forward(ids: Tensor, mask: Tensor | None, batch: Batch) -> Tensor:
        fields: dict[str, Tensor | None] = {"input_ids": ids, "attention_mask": mask}
        if typed:
            fields["token_type_ids"] = torch.from_numpy(batch.token_types).to(device)
        logits: Tensor = network(**fields).logits
        return logits[:, 0].float()

    def write(target: Path, weight: float) -> dict[str, Any]:
        plain = _open(folder)
        plain.load_state_dict({n: t.cpu() for n, t in low_rank.merged_state(network).items()})
        plain.config.sentence_transformers = NO_ACTIVATION
        plain.config.nightrank = {"recommended_first_stage_weight": weight}
        plain.save_pretrained(target)
        # A new copy: the one above cuts and pads as training needs it.
        unchanged = pretrained_tokenizer(folder)
        unchanged.model_max_length = limit
        unchanged.save_pretrained(target)
        return dict(json.loads((target / "config.json").read_text()))

    cap = cap_tokens(limit)
    return Trainee(
        network,
        device,
        SplicedTokenizer(pretrained_tokenizer(folder).backend_tokenizer, cap)
        if splicer is not None
        else Utf8Tokenizer(cap * BYTES_PER_TOKEN),
        assemble,
        forward,
        write,
    )


def _use_eager_attention(encoder: Any, device: torch.device) -> None:
    """Turns off torch's fused attention on a CPU: its backward pass takes a third of a step.

    22 pairs/s instead of 16 (180 tokens, batches of 3,000 against 6,000, 2 threads of Zen 5).
    """
    if device.type == "cpu":
        encoder.set_attn_implementation("eager")


def _open(folder: Path) -> Any:
    """The encoder with a head of one label, float32, without dropout.

    Dropout prevents the fused attention kernels, and trainings are short.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        config.num_labels = 1
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if getattr(config, name, None) is not None:
                setattr(config, name, 0.0)
        return AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise cannot_load(folder, error) from None
