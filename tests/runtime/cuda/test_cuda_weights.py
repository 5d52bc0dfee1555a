import gc

import numpy as np
from fake_gpu import FakeCuda, at

from anycost.runtime.cuda.weights import DeviceWeights


def test_one_copy_for_all():
    cuda = FakeCuda()
    weights = DeviceWeights(cuda)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    first, second = weights.hold(values, 7), weights.hold(values.copy(), 8)
    assert first is second
    assert cuda.calls == [("allocate", 24), ("upload", 24, 7), ("synchronize", 7)]
    assert at(first.pointer, (2, 3)).tolist() == values.tolist()
    assert weights.bytes == 24


def test_other_content_is_another_copy():
    weights = DeviceWeights(FakeCuda())
    first = weights.hold(np.zeros(4, np.float32), 7)
    second = weights.hold(np.ones(4, np.float32), 7)
    shorter = weights.hold(np.zeros(4, np.float16), 7)
    assert len({first.pointer, second.pointer, shorter.pointer}) == 3
    assert weights.bytes == 16 + 16 + 8


def test_a_copy_goes_with_its_last_engine():
    cuda = FakeCuda()
    weights = DeviceWeights(cuda)
    values = np.ones(4, np.float32)
    one, other = weights.hold(values, 7), weights.hold(values, 7)
    del one
    gc.collect()
    assert weights.bytes == 16
    assert len(cuda.memory) == 1
    del other
    gc.collect()
    assert weights.bytes == 0
    assert cuda.memory == {}
    assert weights.hold(values, 7).size == 16
    assert cuda.count("upload") == 2


def test_a_strided_array_is_put_in_order():
    weights = DeviceWeights(FakeCuda())
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    held = weights.hold(values, 7)
    assert at(held.pointer, (3, 2)).tolist() == values.tolist()
