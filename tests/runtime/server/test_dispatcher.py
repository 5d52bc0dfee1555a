"""The queue, with workers that are made up: no processes and no engines."""

import asyncio

import numpy as np
import pytest

from anycost.runtime.budget import Budget
from anycost.runtime.server import errors
from anycost.runtime.server.dispatcher import Dispatcher
from anycost.runtime.server.engines import Pick
from anycost.runtime.server.jobs import Job
from anycost.runtime.server.pool import WorkerDiedError


class FakeWorker:
    """Answers when ``gate`` is open. dies_at: numbers of calls, the first is 0. poison: a seed that kills it."""

    def __init__(self):
        self.ready = asyncio.Event()
        self.ready.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = []
        self.dies_at = ()
        self.poison = None

    async def call(self, header, arrays):
        self.calls.append(header)
        number = len(self.calls) - 1
        await asyncio.sleep(0)
        await self.gate.wait()
        seeds = [seed for task in header["tasks"] for seed in task.get("seeds", [])]
        if number in self.dies_at or self.poison in seeds:
            raise WorkerDiedError("it was killed")
        subnet = header["how"].get("subnet", "part")
        outcomes = [
            {
                "engine": f"{subnet}/fake",
                "elapsed_ms": 10.0,
                "loaded": False,
                "error": "bad" if 13 in t.get("seeds", []) else "",
            }
            for t in header["tasks"]
        ]
        images = {f"{i}.images": np.zeros((1, 2, 2, 3), np.uint8) for i in range(len(outcomes))}
        return {"outcomes": outcomes}, images


class FakePool:
    def __init__(self, count=1):
        self.workers = [FakeWorker() for _ in range(count)]

    ready = property(lambda self: sum(worker.ready.is_set() for worker in self.workers))

    async def start(self):
        pass

    async def close(self):
        pass


class FakeEngines:
    """Three sub-networks; pressure goes from the best to the least."""

    def __init__(self, guess_ms=10.0):
        self.guess_ms, self.seen = guess_ms, []

    def pick(self, budget, subnet, backend, pressure=0.0):
        if subnet == "none":
            raise errors.NothingFitsError("nothing fits")
        names = ["large", "middle", "small"]
        name = subnet or names[round(pressure * 2)]
        return Pick(name, "fake", 32, self.guess_ms, None, subnet is None and name != "large")

    def observe(self, engine, latency_ms, batch):
        self.seen.append((engine, latency_ms, batch))


def job(seed=0, **more):
    return Job("generate", {"seeds": [seed]}, **more)


def run(test, count=1, **options):
    """test(dispatcher, workers) on a started dispatcher."""

    async def whole():
        pool = FakePool(count)
        given = {"budget": Budget(), "queue": 8, "max_batch": 4, "per_client": 3, "deadline_ms": 5000.0} | options
        dispatcher = Dispatcher(pool, given.pop("engines", None) or FakeEngines(), **given)
        await dispatcher.start()
        try:
            await asyncio.wait_for(test(dispatcher, pool.workers), 10)
        finally:
            await dispatcher.close()

    asyncio.run(whole())


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def blocked(dispatcher, worker, count, **more):
    """A worker that is busy with one job, and ``count`` more in the queue."""
    worker.gate.clear()
    tasks = [asyncio.create_task(dispatcher.submit(job(0, **more)))]
    await settle()
    tasks += [asyncio.create_task(dispatcher.submit(job(i, **more))) for i in range(1, count + 1)]
    await settle()
    return tasks


def test_jobs_that_wait_share_a_call():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 6)
        await settle()
        assert dispatcher.running == 1 and dispatcher.waiting == 6
        workers[0].gate.set()
        results = await asyncio.gather(*tasks)
        assert [len(call["tasks"]) for call in workers[0].calls] == [1, 4, 2]
        assert [result.batch for result in results] == [1, 4, 4, 4, 4, 2, 2]
        assert dispatcher.engines.seen[0] == ("large/fake", 10.0, 1)

    run(test)


def test_jobs_of_other_kinds_do_not_share_a_call():
    async def test(dispatcher, workers):
        workers[0].gate.clear()
        jobs = [job(0), job(1), job(2, subnet="small"), Job("inpaint", model="x"), Job("inpaint", model="x"), job(3)]
        tasks = []
        for one in jobs:
            tasks.append(asyncio.create_task(dispatcher.submit(one)))
            await settle()
        workers[0].gate.set()
        await asyncio.gather(*tasks)
        assert [len(call["tasks"]) for call in workers[0].calls] == [1, 2, 1, 1, 1]

    run(test)


@pytest.mark.parametrize(("latency_ms", "sizes"), [(1000, [1, 4, 2]), (25, [1, 2, 4]), (10, [1] * 7)])
def test_a_batch_is_as_large_as_the_latency_budget_allows(latency_ms, sizes):
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 6, subnet="large", budget=Budget(latency_ms=latency_ms))
        await settle()
        workers[0].gate.set()
        await asyncio.gather(*tasks)
        assert [len(call["tasks"]) for call in workers[0].calls] == sizes

    run(test)


def test_overload_lowers_the_sub_network_first_and_then_refuses():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 8)
        await settle()
        assert dispatcher.waiting == 8 and dispatcher.pressure() == 1
        with pytest.raises(errors.OverloadedError) as refused:
            await dispatcher.submit(job())
        assert refused.value.status == 503 and refused.value.retry_after >= 1
        workers[0].gate.set()
        results = await asyncio.gather(*tasks)
        assert results[0].subnet == "large" and results[1].subnet in ("middle", "small") and results[1].lowered
        assert dispatcher.pressure() == 0
        assert (await dispatcher.submit(job())).subnet == "large"

    run(test)


def test_a_sub_network_by_name_is_never_lowered():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 8, subnet="large")
        await settle()
        workers[0].gate.set()
        assert {result.subnet for result in await asyncio.gather(*tasks)} == {"large"}

    run(test)


def test_a_deadline_ends_a_job_that_waits_and_one_that_runs():
    async def test(dispatcher, workers):
        workers[0].gate.clear()
        for _ in range(2):
            with pytest.raises(errors.DeadlineError) as late:
                await dispatcher.submit(job(), deadline_ms=20)
            assert late.value.status == 503 and late.value.code == "deadline"
        assert dispatcher.waiting == 0  # the second waited; nobody will look at its result
        workers[0].gate.set()
        await settle()
        assert len(workers[0].calls) == 1 and dispatcher.running == 0

    run(test)


def test_a_client_that_leaves_takes_its_job_with_it():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 3)
        await settle()
        for task in (tasks[0], tasks[2]):
            task.cancel()
        await settle()
        assert dispatcher.waiting == 2
        workers[0].gate.set()
        await asyncio.gather(tasks[1], tasks[3])
        assert [[t["seeds"] for t in call["tasks"]] for call in workers[0].calls] == [[[0]], [[1], [3]]]

    run(test)


def test_one_client_has_a_share():
    async def test(dispatcher, workers):
        workers[0].gate.clear()
        tasks = [asyncio.create_task(dispatcher.submit(job(), client="a")) for _ in range(3)]
        await settle()
        with pytest.raises(errors.TooManyError) as refused:
            await dispatcher.submit(job(), client="a")
        assert refused.value.status == 429
        other = asyncio.create_task(dispatcher.submit(job(), client="b"))
        workers[0].gate.set()
        await asyncio.gather(*tasks, other)
        await dispatcher.submit(job(), client="a")

    run(test)


def test_jobs_of_a_worker_that_died_are_tried_once_more_each_alone():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 3)
        await settle()
        workers[0].dies_at = (1,)
        workers[0].gate.set()
        assert len(await asyncio.gather(*tasks)) == 4
        assert [len(call["tasks"]) for call in workers[0].calls] == [1, 3, 1, 1, 1]

    run(test)


def test_a_job_that_kills_workers_is_given_up_and_its_companions_are_not():
    async def test(dispatcher, workers):
        workers[0].poison = 2
        tasks = await blocked(dispatcher, workers[0], 3)
        await settle()
        workers[0].gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Result", "Result", "WorkerLostError", "Result"]

    run(test)


def test_an_error_of_one_job_is_its_own():
    async def test(dispatcher, workers):
        workers[0].gate.clear()
        tasks = [asyncio.create_task(dispatcher.submit(job(seed))) for seed in (0, 12, 13, 14)]
        await settle()
        workers[0].gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Result", "Result", "RequestError", "Result"]

    run(test)


def test_what_nothing_fits_is_refused_at_once():
    async def test(dispatcher, workers):
        with pytest.raises(errors.NothingFitsError):
            await dispatcher.submit(job(subnet="none"))
        assert dispatcher.waiting == 0 and not workers[0].calls

    run(test)


def test_a_drain_finishes_what_was_accepted_and_takes_nothing_new():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 5)
        await settle()
        draining = asyncio.create_task(dispatcher.drain(5))
        await settle()
        with pytest.raises(errors.DrainingError):
            await dispatcher.submit(job())
        assert not draining.done()
        workers[0].gate.set()
        assert await draining is True
        assert len(await asyncio.gather(*tasks)) == 6

    run(test)


def test_a_drain_does_not_wait_for_ever():
    async def test(dispatcher, workers):
        tasks = await blocked(dispatcher, workers[0], 1)
        await settle()
        assert await dispatcher.drain(0.05) is False
        await dispatcher.close()
        assert all(isinstance(r, errors.DrainingError) for r in await asyncio.gather(*tasks, return_exceptions=True))

    run(test)


def test_two_workers_share_the_queue():
    async def test(dispatcher, workers):
        for worker in workers:
            worker.gate.clear()
        tasks = [
            asyncio.create_task(dispatcher.submit(job(i, subnet="large", budget=Budget(latency_ms=10))))
            for i in range(6)
        ]
        await settle()
        assert dispatcher.running == 2 and dispatcher.waiting == 4
        for worker in workers:
            worker.gate.set()
        await asyncio.gather(*tasks)
        assert all(len(worker.calls) >= 2 for worker in workers)

    run(test, count=2)
