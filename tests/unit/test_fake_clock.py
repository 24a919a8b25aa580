"""The simulated clock: time passes only while everybody waits, and a run repeats itself exactly."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from rotations import MS, SECOND, Stage

from reaper.testing.clock import FakeClock


def test_sleeping_costs_simulated_time_only() -> None:
    clock = FakeClock()
    before, wall = clock.monotonic_ns(), clock.now()
    clock.sleep(timedelta(hours=5))
    assert clock.monotonic_ns() - before == 5 * 3600 * 10**9
    assert clock.now() - wall == timedelta(hours=5)


def test_what_was_scheduled_happens_in_its_order_and_at_its_time() -> None:
    clock, seen = FakeClock(), []
    start = clock.monotonic_ns()
    for ms in (30, 10, 20):
        clock.after(ms * MS, lambda ms=ms: seen.append((ms, (clock.monotonic_ns() - start) // 10**6)))
    clock.sleep(25 * MS)
    assert seen == [(10, 10), (20, 20)]


def test_a_wait_ends_at_the_moment_at_which_it_is_over() -> None:
    clock, done = FakeClock(), []
    start = clock.monotonic_ns()
    clock.after(40 * MS, lambda: done.append(1))
    assert clock.wait(lambda: bool(done), SECOND)
    assert clock.monotonic_ns() - start == 40 * 10**6
    assert not clock.wait(lambda: len(done) > 1, SECOND)


def test_threads_that_wait_at_once_wait_for_the_longest_and_not_for_the_sum() -> None:
    clock = FakeClock()
    start = clock.monotonic_ns()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: clock.sleep(n * SECOND), range(1, 9)))
    assert clock.monotonic_ns() - start == 8 * 10**9


def test_a_thread_that_was_woken_acts_before_the_time_goes_on() -> None:
    clock = FakeClock()

    def steps(n: int) -> list[int]:
        times = []
        for _ in range(3):
            clock.sleep(n * MS)
            times.append(clock.monotonic_ns() // 10**6 % 10**6)
        return times

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(steps, (1, 5, 7)))
    base = found[0][0] - 1
    assert [[t - base for t in times] for times in found] == [[1, 2, 3], [5, 10, 15], [7, 14, 21]]


def test_a_run_repeats_itself_to_the_nanosecond() -> None:
    def timeline() -> list[str]:
        stage = Stage(nodes=4)
        stage.n("n2").knobs.apply_lag = 30 * MS
        stage.fleet.fail("follow", "n3", times=5)
        stage.run()
        return [*map(str, stage.record.events), *map(str, stage.record.guards), str(stage.record.verdict)]

    first = timeline()
    assert all(timeline() == first for _ in range(4))
