import json

import numpy as np
import pytest

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


@pytest.fixture
def tiny_cross_encoder(tmp_path):
    folder = tmp_path / "tiny-cross-encoder"
    folder.mkdir()
    tiny_tokenizer(folder)
    tiny_bert(folder)
    return folder


@pytest.fixture
def tiny_bi_encoder(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder, folder = tmp_path / "encoder", tmp_path / "tiny-bi-encoder"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    tiny_bert(encoder)
    transformer = Transformer(str(encoder), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean")]).save(str(folder))
    return folder


@pytest.fixture
def edit_config():
    def edit(folder, **fields):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


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


FAMILIES = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", {"pad_token_id": 0, "type_vocab_size": 1}),
}


def by_sentence_transformers(folder, max_length):
    """The raw scores of `PAIRS` by that library's own cross-encoder, float32 on the CPU."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    theirs = CrossEncoder(str(folder), device="cpu", max_length=max_length)
    texts = [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]
    return theirs.predict(texts, activation_fn=nn.Identity())
