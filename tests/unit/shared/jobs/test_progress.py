from finery_shared.jobs.progress import ProgressMeter


def test_fraction_and_time_left_follow_the_plan() -> None:
    now = 0.0
    meter = ProgressMeter(lambda: now)
    meter.plan({"load": 1, "train": 3})
    assert meter.update(1, 1, "load").fraction == 0.25
    first = meter.update(0, 10, "train")
    assert first.fraction == 0.25
    assert not first.HasField("eta")
    now = 8.0
    message = meter.update(4, 10, "train")
    assert abs(message.fraction - (0.25 + 0.75 * 0.4)) < 1e-9
    assert message.eta.ToMilliseconds() == 12_000


def test_without_a_plan_the_phase_is_the_whole() -> None:
    assert ProgressMeter().update(1, 4, "x").fraction == 0.25
    assert ProgressMeter().update(1, 0, "x").fraction == 0.0
