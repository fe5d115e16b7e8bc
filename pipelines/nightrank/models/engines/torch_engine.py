"""The engine for GPUs, and for every network that OpenVINO's engine does not implement.

On CUDA in half precision, networks of a few kinds run *packed* (`packing`): the rows of a batch
are concatenated to one row without padding. Elsewhere rows are padded, with a mask only in batches
that have padding. The host never waits for the device within a unit: batches are copied from pinned
memory, results stay on the device until the last batch has started.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nightrank.errors import UnfitProcessError
from nightrank.models.engines.packing import can_pack, compile_layers, keep_first_tokens, use_varlen
from nightrank.models.text.inputs import DeviceMemoryError
from nightrank.models.text.pieces import Batch, Source

TOKEN_BUDGET_CPU = 4096  # above this, activations leave the cache and nothing is gained
TOKEN_BUDGET_GPU = 65_536


@dataclass(frozen=True)
class Padded:
    """A batch on the device.

    Attributes:
        hidden: [n, length, width], the encoder's output, with arbitrary values in the padding;
            [n, 1, width] where the head takes only the first or the last token.
        lengths: int64 [n].
        first_lengths: int64 [n].
        longest_first: the largest of `first_lengths`, known without a read from the device.
    """

    hidden: Tensor
    lengths: Tensor
    first_lengths: Tensor
    longest_first: int


Head = Callable[[Padded], Tensor]
"""Maps the encoder's output to [n] or [n, dimension]."""
Takes = Literal["all", "first", "last"]
"""The tokens of a row that a head takes."""


class TorchEngine:
    """An encoder and its head.

    Args:
        encoder: a transformers model whose output has `last_hidden_state`; moved to the device.
        head: applied to the encoder's output.
        device: where to run.
        typed: whether the encoder takes token types.
        first_position: the position id of a text's first token.
        takes: the tokens that the head takes; the last for a decoder.
        padding: the padding token's id, which is never the last token.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: Head,
        device: torch.device,
        typed: bool,
        first_position: int = 0,
        takes: Takes = "all",
        padding: int = 0,
    ) -> None:
        self._encoder, self._head, self._device = encoder.eval().to(device), head, device
        self._typed, self._first_position = typed, first_position
        self._takes, self._padding = takes, padding
        self._source: tuple[Source, tuple[Tensor, Tensor | None]] | None = None
        self._packed = device.type == "cuda" and can_pack(self._encoder)
        if self._packed:
            use_varlen(self._encoder)
            if takes == "first":
                keep_first_tokens(self._encoder)
            compile_layers(self._encoder)
        self.token_budget = budget_of(device)

    @torch.inference_mode()
    def start(self, batch: Batch) -> Tensor:
        """Starts a batch; float32 on the device."""
        run = self.packed if self._packed else self.padded
        return start_on(lambda: self._head(run(batch)).float(), self._device)

    def finish(self, started: Tensor) -> NDArray[np.float32]:
        """Waits for a batch."""
        return finish_on(started)

    def padded(self, batch: Batch) -> Padded:
        """The encoder over rows of one width."""
        fields = padded_fields(batch, self._device, self._typed)
        hidden = self._encoder(**fields, **self._options()).last_hidden_state
        if self._takes == "first":
            hidden = hidden[:, :1]
        if self._takes == "last":
            width = batch.input_ids.shape[1]
            counts = np.arange(width) < batch.lengths[:, None]
            counts &= batch.input_ids != self._padding
            last = width - 1 - counts[:, ::-1].argmax(axis=1)
            rows = torch.arange(len(hidden), device=self._device)
            hidden = hidden[rows, self._send(last)][:, None]
        return self._of(hidden, batch)

    def packed(self, batch: Batch) -> Padded:
        """The encoder over the concatenated rows, its output padded where the head needs that."""
        total, width = int(batch.lengths.sum()), int(batch.lengths.max(initial=1))
        ids, types = self._on_device(batch.source)
        place = torch.arange(total, device=self._device)
        sizes, shifts = self._send(batch.sizes.ravel()), self._send(batch.shifts)
        at = place + torch.repeat_interleave(shifts, sizes, output_size=total)
        starts = self._send(np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.int32))
        row = torch.repeat_interleave(self._send(batch.lengths), output_size=total)
        column = place - starts[row]
        fields = {
            "input_ids": ids[at][None],
            "position_ids": (column + self._first_position)[None],
            "cu_seq_lens": starts,
            "longest": width,
        }
        if types is not None:
            fields["token_type_ids"] = types[at][None]
        flat = self._encoder(**fields, **self._options()).last_hidden_state[0]
        if self._takes == "first":
            return self._of(flat[:, None], batch)
        if self._takes == "last":
            counted = torch.where(ids[at] != self._padding, place, 0)
            last = starts[:-1].long().scatter_reduce(0, row, counted, "amax")
            return self._of(flat[last][:, None], batch)
        hidden = flat.new_zeros(len(batch.lengths) * width, flat.shape[-1])
        hidden[row * width + column] = flat
        return self._of(hidden.view(-1, width, flat.shape[-1]), batch)

    def _on_device(self, source: Source) -> tuple[Tensor, Tensor | None]:
        """A unit's ids, and types where the encoder takes them, sent with its first batch."""
        if self._source is None or self._source[0] is not source:
            types = self._send(source.types) if self._typed else None
            self._source = source, (self._send(source.ids), types)
        return self._source[1]

    def _of(self, hidden: Tensor, batch: Batch) -> Padded:
        lengths, first = self._send(batch.lengths), self._send(batch.first_lengths)
        return Padded(hidden, lengths, first, int(batch.first_lengths.max(initial=0)))

    def _options(self) -> dict[str, bool]:
        # Otherwise a decoder keeps keys and values for a next token that is never generated.
        return {"use_cache": False} if self._takes == "last" else {}

    def _send(self, array: NDArray[Any]) -> Tensor:
        return send(array, self._device)


def start_on(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Starts work on a device.

    Raises:
        DeviceMemoryError: where the work does not fit.
        UnfitProcessError: E_CLUSTER, where the device is lost.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        first_line = str(error).partition("\n")[0]
    except torch.AcceleratorError as error:
        raise _lost(error) from error
    # After the except block, the error's frames and their tensors are freed.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise DeviceMemoryError(first_line)


def finish_on(started: Tensor) -> NDArray[np.float32]:
    """Waits for work; failures on the device often show only here.

    Raises:
        UnfitProcessError: E_CLUSTER, where the device is lost.
    """
    try:
        return started.cpu().numpy()
    except torch.AcceleratorError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> UnfitProcessError:
    """The error for a device that its process can no longer use, e.g. after a memory fault."""
    what = f"the device failed: {str(error).partition(chr(10))[0]}"
    return UnfitProcessError("E_CLUSTER", what, "", "check the node's driver log (nvidia-smi -q)")


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copies an array to the device without waiting."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def padded_fields(batch: Batch, device: torch.device, typed: bool) -> dict[str, Tensor | None]:
    """The arguments of a transformers model.

    Args:
        batch: rows of one width.
        device: the model's.
        typed: whether it takes token types.
    """
    inside = np.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    # A batch of one length needs no mask, and attention without one is faster.
    mask = None if inside.all() else send(inside.astype(np.int64), device)
    fields = {"input_ids": send(batch.input_ids, device), "attention_mask": mask}
    if typed:
        fields["token_type_ids"] = send(batch.token_types, device)
    return fields


def budget_of(device: torch.device) -> int:
    """Padded tokens of a batch."""
    return TOKEN_BUDGET_GPU if device.type == "cuda" else TOKEN_BUDGET_CPU


def mean_pooling(padded: Padded) -> Tensor:
    """float32 [n, width]: the mean over each row's tokens."""
    place = torch.arange(padded.hidden.shape[1], device=padded.hidden.device)
    inside = place < padded.lengths[:, None]
    hidden = padded.hidden.float() * inside[..., None]
    return hidden.sum(dim=1) / padded.lengths[:, None]
