"""Shards: pure, kept, done again when damaged; pools: what happens when a process ends."""

import os
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from quality_bundles import double, killed, killed_once, process_after, refused

from anycost.benchmarks.quality import shards
from anycost.benchmarks.quality.pools import LocalPool
from anycost.benchmarks.quality.tools import Tools
from anycost.errors import AnycostError, InputError
from anycost.runtime.bundle import open_bundle


@pytest.fixture(scope="module")
def tasks(small_bundle, predictor_file):
    bundle, path = open_bundle(small_bundle), predictor_file
    subnets = [net.name for net in bundle.generator.subnets]
    tools = Tools(features=path, predictor=path)
    engines = ["0.25@16/onnxruntime", "1@32/onnxruntime"]
    return shards.tasks(bundle, tools, range(7), psi=0.7, subnets=subnets, engines=engines, threads=1, size=3)


def test_a_task_gives_the_same_bytes_and_all_that_it_says(tasks):
    assert [str(task) for task in tasks] == ["seeds 0 to 2", "seeds 3 to 5", "seeds 6 to 6"]
    assert shards.perform(tasks[2]) == shards.perform(tasks[2])
    arrays = tasks[2].arrays()
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes["reference:full|features"] == (1, 48) and shapes["reference:0.25@16|logits"] == (1, 3, 2)
    assert shapes["engine:0.25@16/onnxruntime|own"] == shapes["reference:1@32|full"] == (3, 1)
    assert arrays["reference:1@32|full"][0, 0] == 100  # identical: the cap of PSNR
    assert arrays["reference:0.25@16|full"][0, 0] < 40


def test_the_key_is_of_all_that_changes_the_result_and_of_nothing_else(tasks):
    task = tasks[0]
    others = [
        replace(task, **change)
        for change in ({"first": 1}, {"count": 2}, {"psi": 1.0}, {"basis": "0"}, {"engines": ()})
    ]
    assert len({one.key for one in [task, *others]}) == 6
    assert replace(task, threads=7).key == task.key


def test_codes_and_images_are_those_that_the_runtime_makes(tasks):
    """``generate`` goes by the engine of the mapping: w differs in the last bits, a pixel by one level at most."""
    from anycost.benchmarks.quality.sources import Source
    from anycost.runtime.runtime import Runtime

    bundle = open_bundle(tasks[0].bundle)
    source, runtime = Source(bundle, 1), Runtime(bundle, threads=1)
    w_plus = source.codes(range(20), 0.7)
    np.testing.assert_allclose(w_plus, runtime.codes(range(20), psi=0.7), atol=1e-5)
    made = runtime.generate(range(20), psi=0.7, subnet="1@32", backend="onnxruntime").astype(int)
    for images in (source.engine("1@32/onnxruntime", w_plus), source.reference(source.full, w_plus)):
        assert np.abs(images - made).max() <= 1 and (images != made).mean() < 0.01


class Counting(LocalPool):
    """One process; counts what is asked of it, and can be interrupted."""

    done: list
    after = 100

    def run(self, work, items):
        for item in items:
            if len(self.done) == self.after:
                raise KeyboardInterrupt
            self.done.append(str(item))
            yield item, work(item)


def counting(after: int = 100) -> Counting:
    pool = Counting(1, 1)
    object.__setattr__(pool, "done", [])
    object.__setattr__(pool, "after", after)
    return pool


def test_what_is_finished_is_kept_and_what_is_damaged_is_done_again(tasks, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        shards.run(tasks, tmp_path, counting(after=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000000.npz", "shard-000003.npz"]
    pool = counting()
    found = shards.run(tasks, tmp_path, pool)
    assert pool.done == ["seeds 6 to 6"]
    assert shards.joined(found, "reference:full|features").shape == (7, 48)
    assert shards.joined(found, "reference:full|features").dtype == np.float32
    assert shards.joined(found, "engine:1@32/onnxruntime|own").shape == (3, 7)

    first = tmp_path / "shard-000000.npz"
    whole = first.read_bytes()
    unknown = bytearray(whole)
    unknown[whole.rindex(b"PK\x01\x02") + 10] = 99  # a way of compressing that there is none of
    for damaged in (b"", whole[: len(whole) // 2], whole[:2000] + bytes(64) + whole[2064:], bytes(unknown)):
        first.write_bytes(damaged)
        pool = counting()
        again = shards.run(tasks, tmp_path, pool)
        assert pool.done == ["seeds 0 to 2"] and first.read_bytes() == whole
        for name, array in found[0].items():
            np.testing.assert_array_equal(again[0][name], array)
    pool = counting()
    shards.run([replace(task, psi=1.0) for task in tasks], tmp_path, pool)
    assert len(pool.done) == 3


def test_a_folder_that_cannot_be_written_is_named(tasks, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        shards.run(tasks, tmp_path / "file", LocalPool(1, 1))


def test_processes_do_everything_once_and_a_killed_one_is_tried_again(tmp_path):
    assert sorted(LocalPool(2, 1).run(double, range(5))) == [(i, 2 * i) for i in range(5)]
    markers = [str(tmp_path / name) for name in "ab"]
    assert dict(LocalPool(2, 1).run(killed_once, markers)) == dict.fromkeys(markers, "done")
    with pytest.raises(AnycostError, match=r"measuring deadly ended 2 times \(SIGKILL\).*fewer --processes"):
        list(LocalPool(2, 1).run(killed, ["harmless", "deadly"]))


def test_errors_of_the_work_are_raised_here():
    with pytest.raises(InputError, match="a user's mistake"):
        list(LocalPool(2, 1).run(refused, ["user", "user"]))
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        list(LocalPool(2, 1).run(refused, ["bug", "bug"]))
    with pytest.raises(InputError, match="processes 0"):
        LocalPool(0)


def test_processes_see_no_interrupt_from_their_start_on():
    """Python would print a traceback for one that comes in the seconds before the work."""
    ((_, blocked), _) = LocalPool(2, 1).run(partial(signal.pthread_sigmask, signal.SIG_BLOCK), [(), ()])
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_processes_end_with_the_run_that_they_are_of():
    results = LocalPool(2, 1).run(process_after, [0.0, 30.0])
    _, process = next(results)
    assert process != os.getpid()
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(process, signal.SIG_DFL)
