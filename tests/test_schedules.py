"""Rates and ramps as functions of the step."""

import math

import pytest

from ssl_kd.schedules import Cosine, ExponentialRamp, Milestones, Ramp, at


def test_cosine_warms_up_linearly_peaks_and_ends_at_the_final_value():
    rate = Cosine(peak=2.0, steps=100, warmup=0.1, final=0.5)
    assert rate(0) == pytest.approx(0.2) and rate(9) == pytest.approx(2.0) and rate(10) == pytest.approx(2.0)
    assert (
        rate(55) == pytest.approx(1.25)
        and rate(100) == pytest.approx(0.5)
        and rate(200) == pytest.approx(0.5)
    )


def test_cosine_never_rises_after_the_warm_up():
    values = [Cosine(peak=1.0, steps=57, warmup=0.2)(i) for i in range(57)]
    after = values[11:]
    assert after == sorted(after, reverse=True) and min(values) >= 0


def test_milestones_drop_at_their_steps():
    rate = Milestones(peak=1.0, steps=200, milestones=[0.3, 0.6])
    assert [rate(i) for i in (59, 60, 119, 120)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_ramp_is_zero_before_its_start_and_its_peak_from_its_end():
    ramp = Ramp(peak=4.0, steps=100, start=0.5, end=0.75)
    assert [ramp(i) for i in (0, 49, 50, 75, 99)] == pytest.approx([0, 0, 0, 4, 4])
    assert ramp(60) == pytest.approx(1.6)


def test_exponential_ramp_equals_the_golden_values():
    golden = [0.04076220397836619, 0.16529888822158656, 0.44932896411722145, 0.8187307530779819, 1.0, 1.0]
    ramp = ExponentialRamp(peak=1.0, steps=5)
    assert [ramp(epoch) for epoch in range(1, 7)] == pytest.approx(golden, rel=1e-6)


def test_exponential_ramp_by_epochs_equals_the_golden_values():
    golden = [0.04076220397836619, 0.16529888822158656, 0.44932896411722145, 0.8187307530779819, 1.0, 1.0]
    ramp = ExponentialRamp(peak=1.0, steps=300 * 7, length=5 / 300, epochs=300)
    assert [ramp(7 * epoch) for epoch in range(6)] == pytest.approx(golden, rel=1e-6)


def test_exponential_ramp_by_epochs_changes_at_the_first_step_of_each_epoch_only():
    ramp = ExponentialRamp(peak=3.0, steps=10 * 7, length=0.5, epochs=10)
    values = [ramp(index) for index in range(10 * 7)]
    changes = [index for index in range(1, 70) if values[index] != values[index - 1]]
    assert changes == [7, 14, 21, 28]
    assert values[28:] == [3.0] * 42 and ramp(1000) == 3.0


def test_exponential_ramp_of_no_length_is_its_peak_from_the_start():
    assert ExponentialRamp(peak=2.0, steps=10, length=0.0)(0) == 2.0
    assert ExponentialRamp(peak=2.0, steps=10, length=0.0, epochs=5)(0) == 2.0


def test_a_plain_number_is_a_schedule():
    assert at(0.3, 17) == 0.3 and at(lambda i: math.sqrt(i), 16) == 4.0
