"""Models of two layers with random weights, and inputs for them."""

import json

import numpy as np

from nightrank.models.text.pieces import Batch, Source

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e f g h i k l m n o p r s t u v w y the of what is red "
    "apple pie wine river ##s ##ing ##ed ##e ##r ##n ##t , . ? ! 1 2 3 bank water money"
)

WORDS = VOCABULARY.split()

QUERIES = ["what is the red wine?", "money in the river bank", "", "a b c d e f g " * 5]

DOCUMENTS = ["apple pie, red apples.", "", "water " * 60, "the bank of the river. money!", "1 2 3"]

PAIRS = np.array([[q, d] for q in range(4) for d in range(5)], dtype=np.int32)[::-1].copy()


def tiny_tokenizer(folder, **settings):
    """A WordPiece tokenizer of 60 words, as transformers would save it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=48,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **settings,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_bert(folder, labels=1):
    """A random two-layer BERT classifier in safetensors, with its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        num_labels=labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


FAMILIES = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", {"pad_token_id": 0, "type_vocab_size": 1}),
}


def tiny(folder, kind, **changes):
    """A random classifier of one of the families, with a tokenizer."""
    import torch
    import transformers

    tiny_tokenizer(folder)
    torch.manual_seed(7)
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "num_labels": 1,
        "initializer_range": 0.5,
    }
    config = getattr(transformers, f"{kind}Config")(**shape | changes)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if kind != "Bert":
        settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def by_sentence_transformers(folder, max_length):
    """The raw scores of `PAIRS` by that library's own cross-encoder, float32 on the CPU."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    theirs = CrossEncoder(str(folder), device="cpu", max_length=max_length)
    texts = [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]
    return theirs.predict(texts, activation_fn=nn.Identity())


class Numbers:
    """Inputs whose ids are their number, `lengths[i]` times; none is cut."""

    cut = 0

    def __init__(self, lengths):
        self.lengths = np.array(lengths, dtype=np.int64)

    def batch(self, rows):
        ids = np.repeat(rows, self.lengths[rows]).astype(np.int32)
        starts = np.cumsum(self.lengths[rows]) - self.lengths[rows]
        return Batch.of_rows(Source(ids, np.zeros_like(ids)), starts, self.lengths[rows], 0)


def batch(lengths, seed=0):
    lengths = np.array(lengths)
    ids = np.random.default_rng(seed).integers(5, len(WORDS), lengths.sum()).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    return Batch.of_rows(Source(ids, np.zeros_like(ids)), starts, lengths, 0)


DECODERS = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
}


def decoder(folder, kind="Qwen3", **changes):
    """A random classifier upon a decoder, with a tokenizer."""
    import torch
    import transformers

    tiny_tokenizer(folder)
    torch.manual_seed(7)
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "num_labels": 1,
        "pad_token_id": 0,
        "initializer_range": 0.5,
    }
    config = getattr(transformers, f"{kind}Config")(**shape | DECODERS.get(kind, {}) | changes)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
