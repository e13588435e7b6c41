"""The recorder books laps and leaves out what its own looks take."""

import itertools

from skipkv.benchmark.recorder import Recorder


class Meter:
    """Ten bytes more at every look."""

    used = 0
    work = 0.0  # processor time that looks have taken

    def start(self) -> None: ...

    def now(self) -> int | None:
        self.used += 10
        self.work += 100.0
        return self.used

    def peak(self) -> int | None:
        return 99


def test_looks_at_the_memory_are_in_nobody_s_time() -> None:
    # every reading of the clock is a second after the last; a look reads it once more
    meter = Meter()
    recorder = Recorder(
        meter, every=2, clock=itertools.count(0.0).__next__, cpu_clock=lambda: 7.0 + meter.work
    )
    recorder.begin()
    recorder.resume()
    recorder.lap("prefill")
    for _ in range(4):
        recorder.lap("step")
    recorder.lap("event")
    told = recorder.end()
    assert told["steps"] == [1, 1, 1, 1]
    assert told["events"] == [1]
    assert told["seconds"] == told["first_token"] + 5
    assert told["samples"] == [(1, 3, 10), (3, 5, 20), (5, 7, 30)]
    assert told["cpu_seconds"] == 0
    assert told["peak_bytes"] == 99


def test_a_burst_counts_all_its_steps() -> None:
    recorder = Recorder(Meter(), every=100, clock=itertools.count(0.0).__next__)
    recorder.begin()
    recorder.lap("prefill")
    recorder.lap("step", steps=4)
    told = recorder.end()
    assert told["steps"] == [0.25] * 4
    assert told["samples"][-1] == (5, told["seconds"], None)
