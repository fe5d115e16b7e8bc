"""The engine for GPUs, and for every network that the CPU's fast one does not know.

On CUDA in half precision, networks of a few kinds run *packed* (`packing`): the rows of a batch
stand end to end in one row without any padding. Elsewhere rows are padded, with a mask only where
one is padded. The host never waits for the device within a unit: batches go over from pinned
memory, results stay on the device until the last batch is under way.
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
from nightrank.models.engines.packed import pack_linears
from nightrank.models.engines.packing import can_pack, compile_layers, keep_first_tokens, use_varlen
from nightrank.models.text.inputs import DeviceMemoryError
from nightrank.models.text.pieces import Batch, Source

TOKEN_BUDGET_CPU = 4096  # beyond this, activations leave the cache and nothing is gained
TOKEN_BUDGET_GPU = 65_536


@dataclass(frozen=True)
class Padded:
    """A batch on the device.

    Attributes:
        hidden: [n, length, width], the encoder's output; padding holds anything. Of the tokens that
            the head takes: [n, 1, width] where that is the first or the last.
        lengths: int64 [n].
        first_lengths: int64 [n].
        longest_first: the largest of them, known without asking the device.
    """

    hidden: Tensor
    lengths: Tensor
    first_lengths: Tensor
    longest_first: int


Head = Callable[[Padded], Tensor]
"""What makes [n] or [n, dimension] of the encoder's output."""
Takes = Literal["all", "first", "last"]
"""The tokens of a row that a head takes."""


class TorchEngine:
    """An encoder and a head upon it.

    Args:
        encoder: a transformers model whose output has `last_hidden_state`; moved to the device.
        head: of the encoder's output.
        device: where to run.
        typed: whether the encoder takes token types.
        first_position: what a text's first token's position is called.
        takes: the tokens that the head takes; of a decoder the last.
        padding: the token that never counts as the last one.
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
        pack_linears(self._encoder)

    @torch.inference_mode()
    def start(self, batch: Batch) -> Tensor:
        """Sets a batch going; float32 on the device."""
        run = self.packed if self._packed else self.padded
        return started(lambda: self._head(run(batch)).float(), self._device)

    def finish(self, under_way: Tensor) -> NDArray[np.float32]:
        """Waits for a batch."""
        return finished(under_way)

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
        """The encoder over all rows end to end; its output is padded again where it must be."""
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
        """A unit's ids, and types where they are taken, sent over with its first batch."""
        if self._source is None or self._source[0] is not source:
            types = self._send(source.types) if self._typed else None
            self._source = source, (self._send(source.ids), types)
        return self._source[1]

    def _of(self, hidden: Tensor, batch: Batch) -> Padded:
        lengths, first = self._send(batch.lengths), self._send(batch.first_lengths)
        return Padded(hidden, lengths, first, int(batch.first_lengths.max(initial=0)))

    def _options(self) -> dict[str, Any]:
        # A decoder would keep all keys and values for a next token that never comes.
        return {"use_cache": False} if self._takes == "last" else {}

    def _send(self, array: NDArray[Any]) -> Tensor:
        return send(array, self._device)


def started(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Sets work going on a device.

    Raises:
        DeviceMemoryError: where it does not fit.
        UnfitProcessError: E_CLUSTER, where the device is lost.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        first_line = str(error).partition("\n")[0]
    except torch.AcceleratorError as error:
        raise _lost(error) from error
    # Out here the error's frames, and with them their tensors, are gone.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise DeviceMemoryError(first_line)


def finished(under_way: Tensor) -> NDArray[np.float32]:
    """Waits for work; what failed on the device is often heard of only here.

    Raises:
        UnfitProcessError: E_CLUSTER, where the device is lost.
    """
    try:
        return under_way.cpu().numpy()
    except torch.AcceleratorError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> UnfitProcessError:
    """After a failed assertion or a memory fault on a device, its process can use it no more."""
    what = f"the device failed: {str(error).partition(chr(10))[0]}"
    return UnfitProcessError("E_CLUSTER", what, "", "look at the node's driver log (nvidia-smi -q)")


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """To the device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def padded_fields(batch: Batch, device: torch.device, typed: bool) -> dict[str, Tensor | None]:
    """What a transformers model is called with.

    Args:
        batch: rows of one width.
        device: where the model lies.
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
