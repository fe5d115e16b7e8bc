"""Tokenizers from a model's folder, and the names of stored tokens.

Stored tokens have two forms. *Spliced*: the model's token ids, for tokenizers whose inputs provably
can be assembled from parts. *utf8*: the bytes of the text, for all others; the model decodes them
and tokenises whole inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.errors import NightrankError
from nightrank.models.folders import builtin
from nightrank.models.folders.files import file_digest, model_files
from nightrank.models.folders.settings import config_folder
from nightrank.models.text.splicing import Splicer, Template, provable_template
from nightrank.storage.tokens import Tokens

UTF8 = "utf8-1"
SPLICED = "spliced-1"
SMALLEST_CAP_TOKENS = 512
BYTES_PER_TOKEN = 32  # ordinary text has 4 to 6; bytes after the cap are dropped


def cap_tokens(max_length_tokens: int) -> int:
    """How many tokens of a text are stored for models of this limit: a power of two.

    Coarse on purpose, so that models with similar limits share stored tokens.
    """
    return max(SMALLEST_CAP_TOKENS, 1 << (max_length_tokens - 1).bit_length())


def pretrained_tokenizer(folder: Path) -> Any:
    """The folder's fast Hugging Face tokenizer, read from where its config.json is.

    Raises:
        NightrankError: E_MODEL, where there is no tokenizer, or only a slow one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(config_folder(folder)), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise NightrankError(
            "E_MODEL", f"no usable tokenizer: {first_line:.160}", str(folder), "check its files"
        ) from None
    if not tokenizer.is_fast:
        raise NightrankError(
            "E_MODEL", "the tokenizer has no fast form", str(folder), "add a tokenizer.json"
        )
    return tokenizer


# What `provable_template` returns for the published tokenizer, whose digest is pinned: [CLS] and
# [SEP], the second text of type 1. Constants, so that a worker does not import transformers (1 s).
MINILM_SINGLE = Template((101,), (), (102,), (0, 0, 0, 0, 0))
MINILM_PAIR = Template((101,), (102,), (102,), (0, 0, 0, 1, 1))
MINILM_PADDING = 0


def minilm_tokenizer() -> SplicedTokenizer:
    """The built-in models' tokenizer; it keeps as many tokens as they have positions."""
    from tokenizers import Tokenizer

    file = builtin.minilm_folder() / "tokenizer.json"
    return SplicedTokenizer(Tokenizer.from_file(str(file)), builtin.POSITIONS)


def minilm_splicer(max_length_tokens: int, pair: bool) -> Splicer:
    """The splicer of the built-in models."""
    template = MINILM_PAIR if pair else MINILM_SINGLE
    return Splicer(template, max_length_tokens, MINILM_PADDING)


def splicer_for(tokenizer: Any, max_length_tokens: int, pair: bool) -> Splicer | None:
    """The splicer of a Hugging Face tokenizer, or None where splicing is not provable."""
    template = provable_template(tokenizer, pair)
    if template is None:
        return None
    return Splicer(template, max_length_tokens, int(tokenizer.pad_token_id))


def spliced_name(folder: Path, max_length_tokens: int) -> str:
    """Names spliced tokens: equal for models with the same tokenizer files and cap."""
    cap = cap_tokens(max_length_tokens)
    total = hashlib.sha256()
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    if not (folder / names[0]).exists():  # The vocabulary is then in files of other names.
        names += [
            file
            for file in model_files(folder)
            if file not in names and not file.endswith(".safetensors")
        ]
    for name in names:
        if (folder / name).exists():
            total.update(f"{name} {file_digest(folder / name)}\n".encode())
    return f"{SPLICED}:{cap}:{total.hexdigest()[:32]}"


def utf8_name(max_length_tokens: int) -> str:
    """Names utf8 tokens by the bytes that are kept."""
    return f"{UTF8}:{cap_tokens(max_length_tokens) * BYTES_PER_TOKEN}"


class SplicedTokenizer:
    """A Hugging Face tokenizer's ids without special tokens.

    Args:
        backend: a `tokenizers.Tokenizer`; its truncation and padding are changed.
        cap: ids kept of each text.
    """

    def __init__(self, backend: Any, cap: int) -> None:
        self._backend = backend
        self._backend.no_padding()
        self._backend.enable_truncation(cap)

    def __call__(self, texts: Sequence[str] | pa.StringArray) -> Tokens:
        """One row per text; a null counts as an empty text."""
        plain = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
        # Without character offsets, which are not needed here.
        encoded = self._backend.encode_batch_fast(
            [text or "" for text in plain], add_special_tokens=False
        )
        return Tokens.from_lists(row.ids for row in encoded)


class Utf8Tokenizer:
    """Texts as their UTF-8 bytes.

    Args:
        cap_bytes: bytes kept of each text.
    """

    def __init__(self, cap_bytes: int) -> None:
        self.cap_bytes = cap_bytes

    def __call__(self, texts: Sequence[str] | pa.StringArray) -> Tokens:
        """One row per text; a null counts as an empty text."""
        plain = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
        rows = [(text or "").encode("utf-8", "replace")[: self.cap_bytes] for text in plain]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Tokens(np.frombuffer(b"".join(rows), np.uint8).astype(np.int32), offsets)


def decode_utf8(tokens: Tokens) -> list[str]:
    """The texts of utf8 tokens; a character that the cap cut in half is dropped."""
    flat = tokens.ids.astype(np.uint8).tobytes()
    bounds = tokens.offsets.tolist()
    return [
        flat[start:end].decode("utf-8", "ignore")
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]
