"""A device too small for a batch costs time, not the unit; one that fails costs its process."""

from types import SimpleNamespace

import numpy as np
import pytest

from nightrank.errors import NightrankError, UnfitProcessError
from nightrank.models.text.batching import SPENT
from nightrank.models.text.inputs import run
from tests.support.tiny_models import Numbers

torch = pytest.importorskip("torch")

from nightrank.models.engines.torch_engine import TorchEngine  # noqa: E402
from nightrank.models.engines.torch_models import ClassifierEngine  # noqa: E402

pytestmark = pytest.mark.models


class Small(torch.nn.Module):
    """An encoder for a device that holds so many tokens at once."""

    def __init__(self, room, error=torch.OutOfMemoryError):
        super().__init__()
        self.room, self.error = room, error
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None):
        if input_ids.numel() > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines")
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())


def engine(room, error=torch.OutOfMemoryError):
    def first(padded):
        return padded.hidden[:, 0, 0]

    return TorchEngine(Small(room, error), first, torch.device("cpu"), typed=False)


class SmallClassifier(Small):
    """The same as a classifier of transformers', for the general engine."""

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=super().forward(input_ids).last_hidden_state[:, 0])


def test_the_general_engine_halves_too():
    classifier = ClassifierEngine(SmallClassifier(300), torch.device("cpu"), typed=False)
    lengths = np.random.default_rng(1).integers(1, 51, size=100)
    assert run(Numbers(lengths), classifier).tolist() == list(range(100))
    lost = ClassifierEngine(SmallClassifier(0, torch.AcceleratorError), torch.device("cpu"), False)
    with pytest.raises(UnfitProcessError):
        run(Numbers([3]), lost)


@pytest.mark.parametrize("room", [100_000, 1000, 300, 50])
def test_batches_that_do_not_fit_go_through_in_halves(room):
    before = SPENT.halved
    lengths = np.random.default_rng(room).integers(1, 51, size=500)
    assert run(Numbers(lengths), engine(room)).tolist() == list(range(500))
    assert (SPENT.halved > before) == (room < 4096)


def test_an_input_too_large_by_itself_is_an_error_that_says_what_to_do():
    with pytest.raises(NightrankError, match="an input of 51 tokens.*max_length_tokens") as caught:
        run(Numbers([3, 51, 7]), engine(50))
    assert caught.value.exit_code == 8 and "\n" not in str(caught.value)


def test_a_failed_device_is_told_from_a_full_one():
    with pytest.raises(UnfitProcessError) as caught:
        run(Numbers([3]), engine(0, torch.AcceleratorError))
    assert caught.value.exit_code == 9
