import numpy as np

from anycost.runtime.buffers import Buffers


def test_an_array_is_free_and_aligned():
    buffers = Buffers()
    for shape in ((2, 3), (1, 3, 5, 7), (), (0, 4)):
        array = buffers.empty(shape)
        assert array.shape == shape and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        assert array.ctypes.data % 64 == 0 or array.size == 0


def test_what_is_held_is_left_alone():
    buffers = Buffers()
    held = [buffers.empty((100,)) for _ in range(10)]
    for i, array in enumerate(held):
        array[:] = i
    assert [array.mean() for array in held] == list(range(10))
    # A view of a view, whose own array is gone, holds the memory too.
    corner = held.pop().reshape(10, 10)[2:4, 3:5].T
    del array
    others = [buffers.empty((100,)) for _ in range(5)]
    for other in others:
        other[:] = -1
    assert (corner == 9).all()


def test_what_nobody_holds_is_used_again():
    buffers = Buffers()
    first = buffers.empty((64, 64))
    place = first.ctypes.data
    second = buffers.empty((64, 64))
    assert second.ctypes.data != place
    del first
    assert buffers.empty((64, 64)).ctypes.data == place
    assert buffers.empty((32, 128)).ctypes.data == place  # the same size
    assert buffers.empty((64, 65)).ctypes.data != place


def test_few_are_kept():
    buffers = Buffers()
    held = [buffers.empty((8,)) for _ in range(50)]
    assert len(buffers._blocks[32]) == 3 and len({array.ctypes.data for array in held}) == 50


def test_sizes_that_are_not_asked_for_any_more_are_given_back():
    buffers = Buffers()
    for size in range(1, 20):
        buffers.empty((size,))
        buffers.empty((5,))  # used all the time
    assert list(buffers._blocks) == [68, 72, 76, 20]
