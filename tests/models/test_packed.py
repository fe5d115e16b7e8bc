"""Packed layers give what plain ones give."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nightrank.models.engines.packed import PackedLinear, pack_linears  # noqa: E402
from nightrank.models.hardware import cpu_packs_bf16  # noqa: E402


def network(dtype):
    torch.manual_seed(0)
    layers = nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 5, bias=False)
    return nn.Sequential(*layers).to(dtype).eval()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(48,), (0, 48), (7, 48), (3, 200, 48)])
def test_the_same_numbers(dtype, tolerance, shape):
    plain, packed = network(dtype), network(dtype)
    pack_linears(packed)
    # Without AVX-512, layers in bf16 stay as they are.
    kind = PackedLinear if dtype is torch.float32 or cpu_packs_bf16() else nn.Linear
    assert [type(m) for m in packed if not isinstance(m, nn.GELU)] == [kind] * 2
    inputs = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        found, expected = packed(inputs), plain(inputs)
    assert found.shape == expected.shape and found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_layers_of_another_kind_stay():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(Other(4, 4))
    pack_linears(model)
    assert type(model[0]) is Other
