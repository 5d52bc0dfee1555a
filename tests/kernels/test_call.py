"""Launches as values: what they say of their operands, and views within a larger buffer."""

import pytest
import torch
import triton
import triton.language as tl

from anycost.kernels.call import Call, Slot, columns, divisible, image_stride, run


@triton.jit
def _scale(x, out, count, stride, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    image = tl.program_id(2).to(tl.int64)
    value = tl.load(x + image * stride + at, mask=at < count)
    tl.store(out + image * count + at, 2 * value, mask=at < count)


def _call(x, out):
    stride = image_stride(x)
    arguments = {"x": x, "out": out, "count": out.shape[1], "stride": stride}
    return Call(_scale, arguments, {"BLOCK": 32}, (1, 1, out.shape[0]), aligned=divisible(stride=stride))


def test_columns_of_a_tensor_run_where_they_lie():
    x, out = torch.arange(60.0).reshape(3, 20), torch.empty(3, 5)
    run(_call(columns(x, 4, 5), out))
    assert torch.equal(out, 2 * x[:, 4:9])


def test_columns_of_a_slot_say_where_they_lie():
    whole = Slot("styles", (1, 96), torch.float32)
    view = columns(whole, 16, 32)
    assert (view.base, view.offset, view.row, view.shape) == ("styles", 16, 96, (1, 32))
    within = columns(view, 8, 4)
    assert (within.base, within.offset, within.row, within.shape) == ("styles", 24, 96, (1, 4))
    assert image_stride(within) == 96 and image_stride(whole) == 96
    assert image_stride(Slot("w", (1, 96), torch.float32, shared=True)) == 0


@pytest.mark.parametrize(("start", "count"), [(-1, 4), (0, 0), (90, 7)])
def test_columns_that_are_not_there_are_refused(start, count):
    with pytest.raises(ValueError, match="not within"):
        columns(Slot("styles", (1, 96), torch.float32), start, count)


def test_a_place_without_a_base_is_refused():
    with pytest.raises(ValueError, match="no base"):
        Slot("x", (1, 4), torch.float32, offset=4)
    with pytest.raises(ValueError, match="no base"):
        Slot("x", (1, 4), torch.float32, row=8)


def test_only_addresses_at_multiples_of_16_bytes_are_said_to_be():
    """Triton loads 16 bytes at a time where it is told so, which an odd address does not survive."""
    out = Slot("out", (1, 8), torch.float32)
    x, out_at, stride = (0,), (1,), (3,)
    assert set(_call(Slot("x", (1, 64), torch.float32), out).attributes()) == {x, out_at, stride}
    assert set(_call(columns(Slot("x", (1, 64), torch.float32), 4, 8), out).attributes()) == {x, out_at, stride}
    assert set(_call(columns(Slot("x", (1, 64), torch.float32), 3, 8), out).attributes()) == {out_at, stride}
    assert set(_call(columns(Slot("x", (1, 63), torch.float32), 4, 8), out).attributes()) == {x, out_at}
    assert set(_call(columns(Slot("x", (1, 64), torch.float16), 4, 8), out).attributes()) == {out_at, stride}
    tensor = torch.empty(2, 64)
    assert x not in _call(columns(tensor, tensor.data_ptr() % 16 // 4 + 1, 8), out).attributes()


def test_strides_of_tensors():
    assert image_stride(torch.empty(1, 7)) == 0
    assert image_stride(torch.empty(2, 3, 7)) == 21
    assert image_stride(torch.empty(2, 30)[:, 3:9]) == 30
    assert image_stride(torch.empty(1, 6).expand(4, 6)) == 0


def test_a_call_that_does_not_suit_its_kernel_is_refused():
    out = torch.empty(1, 5)
    with pytest.raises(TypeError, match="_scale takes"):
        Call(_scale, {"x": out, "out": out, "count": 5}, {"BLOCK": 32}, (1, 1, 1))
    with pytest.raises(TypeError, match="no multiple of 16"):
        Call(
            _scale,
            {"x": out, "out": out, "count": 5, "stride": 5},
            {"BLOCK": 32},
            (1, 1, 1),
            aligned=frozenset({"count"}),
        )
