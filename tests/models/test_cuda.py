"""On a CUDA device: packed, compiled layers against float32 ones; a full and a failed device."""

import subprocess
import sys

import numpy as np
import pytest

from nightrank.models import hardware
from nightrank.models.text.batching import SPENT
from nightrank.models.text.inputs import run
from nightrank.models.text.pieces import Batch
from tests.support.tiny_models import FAMILIES, Numbers, batch, decoder, tiny

torch = pytest.importorskip("torch")

from nightrank.models.engines import torch_engine, torch_models  # noqa: E402

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not hardware.has_cuda(), reason="needs a CUDA device"),
]


def engine(folder, family, dtype, device):
    """The engine of a classifier, and the width of its scores."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype)
    if family == "qwen3":
        return torch_models.decoder_engine(model, device)
    return torch_models.headed_engine(model, device, family == "bert", int(family != "bert"))


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3"])
def test_packed_and_compiled_scores_are_as_near_to_float32_as_half_precision_is(tmp_path, family):
    if family == "qwen3":
        decoder(tmp_path)
    else:
        kind, changes = FAMILIES[family]
        tiny(tmp_path, kind, **changes)
    cpu = torch.device("cpu")
    exact, half = (
        engine(tmp_path, family, dtype, cpu) for dtype in (torch.float32, torch.bfloat16)
    )
    fast = engine(tmp_path, family, torch.bfloat16, hardware.choose_device())
    assert fast._packed and not exact._packed
    random = np.random.default_rng(1)
    for seed in range(3):
        some = batch(random.integers(1, 60, 200), seed)
        expected, plain, outputs = (made.finish(made.start(some)) for made in (exact, half, fast))
        assert np.ptp(expected) > 0.1
        # Random networks of such weights double every rounding from layer to layer: what half
        # precision costs is measured on the CPU, by transformers' own kernels.
        off, usual = (np.sqrt(np.mean((part - expected) ** 2)) for part in (outputs, plain))
        assert off < 1.5 * usual and usual < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_a_score_hardly_depends_on_what_stands_beside_it(tmp_path, family):
    decoder(tmp_path) if family == "qwen3" else tiny(tmp_path, "Bert")
    fast = engine(tmp_path, family, torch.bfloat16, hardware.choose_device())
    some = batch(np.random.default_rng(1).integers(1, 60, 500))
    together = fast.finish(fast.start(some))
    alone = []
    for row in range(0, 500, 50):
        part = slice(row, row + 50)
        few = Batch.of_rows(some.source, some.starts[part, 0], some.lengths[part], 0)
        alone.append(fast.finish(fast.start(few)))
    spread = np.ptp(together)
    assert np.abs(np.concatenate(alone) - together).max() < 0.02 * spread


class Hungry(torch.nn.Module):
    """An encoder that takes a gibibyte a token."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None):
        from types import SimpleNamespace

        room = torch.empty(input_ids.numel() << 30, dtype=torch.uint8, device=input_ids.device)
        room[:1] = 0
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())


def test_a_full_device_halves_the_batch():
    made = torch_engine.TorchEngine(
        Hungry(), lambda padded: padded.hidden[:, 0, 0], hardware.choose_device(), typed=False
    )
    before = SPENT.halved
    count = 4 * (torch.cuda.get_device_properties(0).total_memory >> 30)
    assert run(Numbers(np.ones(count, np.int64)), made).tolist() == list(range(count))
    assert SPENT.halved > before


def test_a_failed_device_is_told_as_one():
    code = (
        "import numpy as np, torch\n"
        "from nightrank.errors import UnfitProcessError\n"
        "from nightrank.models.hardware import choose_device\n"
        "from nightrank.models.text.inputs import run\n"
        "from tests.support.tiny_models import Numbers\n"
        "from nightrank.models.engines.torch_engine import TorchEngine\n"
        "class Broken(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table = torch.nn.Embedding(4, 4)\n"
        "    def forward(self, input_ids, attention_mask=None):\n"
        "        from types import SimpleNamespace\n"
        "        return SimpleNamespace(last_hidden_state=self.table(input_ids + 1000))\n"
        "engine = TorchEngine(Broken(), lambda p: p.hidden[:, 0, 0], choose_device(), False)\n"
        "try:\n"
        "    run(Numbers([3, 4]), engine)\n"
        "except UnfitProcessError as error:\n"
        "    print('told:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the device failed" in done.stdout
