"""Schedules by value, at their ends, and where they refuse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import ConfigError, schedules
from etude.schedules import combine, constant, cosine, exponential, flat, flat_cosine, linear, one_cycle, phases
from reference import textbook

LAW = settings(max_examples=100, deadline=None, derandomize=True)
POSITIONS = st.floats(0, 1)
RATES = st.floats(1e-6, 10)


# -- one curve --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [linear, cosine, exponential])
def test_a_curve_begins_and_ends_where_it_says(curve):
    schedule = curve(0.5, 2.0)

    assert schedule(0.0) == 0.5
    assert schedule(1.0) == pytest.approx(2.0, rel=1e-15)


@pytest.mark.parametrize("curve", [linear, cosine, exponential])
def test_a_position_outside_the_fit_is_clamped(curve):
    schedule = curve(0.5, 2.0)

    assert schedule(-0.1) == schedule(0.0)
    assert schedule(1.0 + 1e-9) == schedule(1.0)


@pytest.mark.parametrize(
    ("curve", "middle"), [(linear, 2.5), (cosine, 2.5), (exponential, 2.0)], ids=["linear", "cosine", "exponential"]
)
def test_a_curve_is_half_way_at_its_own_mean(curve, middle):
    assert curve(1.0, 4.0)(0.5) == pytest.approx(middle)


@LAW
@given(start=RATES, end=RATES, position=POSITIONS)
def test_cosine_equals_the_textbook(start, end, position):
    assert cosine(start, end)(position) == pytest.approx(textbook.cosine_between(start, end, position), abs=1e-12)


@LAW
@given(start=RATES, end=RATES, position=POSITIONS)
def test_a_curve_stays_between_its_ends(start, end, position):
    low, high = min(start, end) * (1 - 1e-12), max(start, end) * (1 + 1e-12)

    assert all(low <= curve(start, end)(position) <= high for curve in (linear, cosine, exponential))


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)], ids=str)
def test_an_exponential_needs_positive_ends(ends):
    with pytest.raises(ConfigError, match="positive ends"):
        exponential(*ends)


def test_constant_is_constant():
    assert {constant(0.3)(position) for position in (0.0, 0.4, 1.0)} == {0.3}


# -- phases and combinations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_fractions", "expected"),
    [((0.3,), [0.3, 0.7]), ((0.3, 0.2), [0.3, 0.2, 0.5]), ((), [1.0]), ((1.0,), [1.0, 0.0]), ((0.1,) * 10, None)],
    ids=str,
)
def test_phases_fill_what_is_left(given_fractions, expected):
    found = phases(*given_fractions)

    assert found == pytest.approx(expected or [0.1] * 10 + [0.0])
    assert math.fsum(found) == pytest.approx(1)


@pytest.mark.parametrize("fractions", [(1.1,), (0.6, 0.5), (-0.1,), (1.2, -0.2)], ids=str)
def test_phases_refuse_more_than_the_whole_and_less_than_nothing(fractions):
    with pytest.raises(ConfigError, match="sum to at most 1"):
        phases(*fractions)


def test_combine_runs_each_schedule_over_its_own_fraction():
    schedule = combine([0.25, 0.75], [linear(0, 1), linear(10, 13)])

    assert [schedule(position) for position in (0.0, 0.125, 0.25, 0.5, 1.0)] == pytest.approx([0, 0.5, 10, 11, 13])


def test_the_last_position_is_the_end_of_the_last_schedule():
    """Error 13: the notes' combination fell off its list at position 1."""
    assert combine([0.3, 0.7], [cosine(0.1, 1), cosine(1, 0.01)])(1.0) == pytest.approx(0.01)


def test_fractions_that_sum_to_one_but_for_rounding_are_accepted():
    """Error 13: the notes compared the sum with == 1."""
    fractions = [0.1] * 10
    assert sum(fractions) != 1
    schedule = combine(fractions, [constant(float(i)) for i in range(10)])

    assert [schedule(i / 10 + 0.05) for i in range(10)] == list(range(10))
    assert schedule(1.0) == 9


def test_every_position_of_a_fit_falls_into_a_phase():
    schedule = combine([1 / 3, 1 / 3, 1 / 3], [constant(0.0), constant(1.0), constant(2.0)])
    values = [schedule(i / 999) for i in range(1000)]

    assert values == sorted(values)
    assert set(values) == {0, 1, 2}


def test_an_empty_phase_is_passed_over():
    assert combine([0.0, 1.0], [constant(1.0), linear(2, 3)])(0.0) == 2


def test_combine_refuses_lists_of_different_length():
    with pytest.raises(ConfigError, match="2 fractions for 3 schedules"):
        combine([0.5, 0.5], [constant(1.0)] * 3)


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [0.5, 0.6], [1.5, -0.5]], ids=str)
def test_combine_refuses_fractions_that_do_not_sum_to_one(fractions):
    with pytest.raises(ConfigError, match="sum to 1"):
        combine(fractions, [constant(1.0)] * 2)


# -- cycles -----------------------------------------------------------------------------------------------------------


@LAW
@given(
    peak=RATES,
    pct_start=st.floats(0.01, 0.99),
    div_start=st.floats(1, 100),
    div_end=st.floats(1, 1e6),
    position=POSITIONS,
)
def test_one_cycle_equals_the_textbook(peak, pct_start, div_start, div_end, position):
    found = one_cycle(peak, (0.95, 0.85), pct_start=pct_start, div_start=div_start, div_end=div_end)

    expected = textbook.one_cycle_lr(position, peak, pct_start, div_start, div_end)
    assert found["lr"](position) == pytest.approx(expected, rel=1e-9, abs=1e-12 * peak)
    momentum = textbook.one_cycle_momentum(position, 0.95, 0.85, pct_start)
    assert found["momentum"](position) == pytest.approx(momentum, rel=1e-9)


def test_one_cycle_at_its_three_corners():
    found = one_cycle(1e-2)

    assert [found["lr"](position) for position in (0.0, 0.3, 1.0)] == pytest.approx([1e-3, 1e-2, 1e-7])
    assert [found["momentum"](position) for position in (0.0, 0.3, 1.0)] == pytest.approx([0.95, 0.85, 0.95])


def test_the_first_and_last_step_of_a_fit_of_ten():
    """The position of a step is what lies behind it: 0 for the first, 0.9 for the last of ten."""
    schedule = one_cycle(1.0, pct_start=0.5)["lr"]

    assert schedule(0.0) == pytest.approx(0.1)
    assert schedule(0.9) == pytest.approx(textbook.one_cycle_lr(0.9, 1.0, 0.5, 10, 1e5))


@pytest.mark.parametrize("pct_start", [0.0, 1.0])
def test_a_cycle_of_one_half_only(pct_start):
    schedule = one_cycle(1.0, pct_start=pct_start)["lr"]

    assert schedule(0.0) == pytest.approx(0.1 if pct_start else 1.0)
    assert schedule(0.999999) == pytest.approx(1.0 if pct_start else 1e-5, rel=1e-3)


def test_a_rate_for_every_layer_group_gives_a_schedule_for_each():
    """The notes' second definition took lists only, the first one numbers only."""
    found = one_cycle([0.0, 1e-3, 1e-2])["lr"]

    assert [schedule(0.3) for schedule in found] == pytest.approx([0.0, 1e-3, 1e-2])


@pytest.mark.parametrize(("momentum", "expected"), [(0.9, [0.9] * 3), ((0.8, 0.7), [0.8, 0.7, 0.8])], ids=str)
def test_momentum_is_one_value_or_a_pair(momentum, expected):
    schedule = one_cycle(1.0, momentum)["momentum"]

    assert [schedule(position) for position in (0.0, 0.3, 1.0)] == pytest.approx(expected)


@pytest.mark.parametrize("cycle", [one_cycle, flat_cosine, flat])
def test_no_momentum_leaves_the_optimizers_own_alone(cycle):
    assert set(cycle(1.0, None)) == {"lr"}


def test_flat_cosine_is_flat_and_then_falls_to_zero():
    schedule = flat_cosine(2.0)["lr"]

    assert {schedule(position) for position in (0.0, 0.3, 0.71)} == {2.0}
    assert schedule(0.86) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(0.0, abs=1e-12)


def test_flat_never_moves():
    found = flat([1e-3, 1e-2], 0.9)

    assert [schedule(0.7) for schedule in found["lr"]] == [1e-3, 1e-2]
    assert found["momentum"](0.7) == 0.9


@pytest.mark.parametrize("cycle", [flat_cosine, flat])
def test_a_cycle_of_constant_momentum_refuses_a_pair(cycle):
    with pytest.raises(ConfigError, match=rf"{cycle.__name__} keeps momentum constant"):
        cycle(1.0, (0.95, 0.85))


def test_the_shipped_cycles_are_cycles():
    assert all(isinstance(cycle, schedules.Cycle) for cycle in (one_cycle, flat_cosine, flat))
