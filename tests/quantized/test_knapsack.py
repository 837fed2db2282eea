"""The exact multiple-choice knapsack, and the search over steps after it."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.quantized._knapsack import cheapest_choice, local_search

BITS = np.array([2, 3, 4, 8])


def total(table, choice):
    return sum(row[k] for row, k in zip(table, choice, strict=True))


def by_enumeration(sizes, costs, capacity):
    """Return the least cost, and the least size that has it, of all that fit."""
    n_items, n_choices = sizes.shape
    return min(
        (total(costs, choice), total(sizes, choice))
        for choice in product(range(n_choices), repeat=n_items)
        if total(sizes, choice) <= capacity
    )


def neighbors(choice, n_choices):
    """Return what is one step away: one or two up, and at most one other down."""
    for other in product(*(range(n_choices) for _ in choice)):
        step = np.subtract(other, choice)
        ups, downs = np.sum(step == 1), np.sum(step == -1)
        if ups in (1, 2) and downs <= 1 and np.abs(step).sum() == ups + downs:
            yield other


def instance(seed, n_items=6):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, n_items)[:, None] * BITS
    kind = seed % 3
    if kind == 0:  # as roundings are: less by a factor for every bit
        costs = rng.exponential(size=(n_items, 1)) * 4.0**-BITS
        costs = costs * rng.lognormal(0, 1, size=costs.shape)
    elif kind == 1:  # of any sign and order
        costs = rng.normal(size=(n_items, 4))
    else:  # with many ties
        costs = rng.integers(0, 4, size=(n_items, 4)).astype(float)
    low, high = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    return sizes, costs, int(rng.integers(low, high + 2))


@pytest.mark.parametrize("seed", range(24))
def test_knapsack_of_six_items_equals_enumeration(seed):
    sizes, costs, capacity = instance(seed)
    best, size = by_enumeration(sizes, costs, capacity)
    choice = cheapest_choice(sizes, costs, capacity)
    assert total(sizes, choice) <= capacity
    assert total(costs, choice) == pytest.approx(best, rel=1e-12, abs=1e-15)
    if seed % 3 == 2:  # sums of integers are exact, so that ties are ties
        assert total(sizes, choice) == size


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_knapsack_equals_enumeration_on_any_instance(data):
    n_items = data.draw(st.integers(1, 4))
    n_choices = data.draw(st.integers(1, 4))
    shape = n_items * n_choices
    draw = st.lists(st.integers(0, 12), min_size=shape, max_size=shape)
    sizes = np.reshape(data.draw(draw), (n_items, n_choices))
    costs = np.reshape(data.draw(draw), (n_items, n_choices)) - 6.0
    low = int(sizes.min(axis=1).sum())
    capacity = low + data.draw(st.integers(0, 30))
    choice = cheapest_choice(sizes, costs, capacity)
    found = total(costs, choice), total(sizes, choice)
    assert found == by_enumeration(sizes, costs, capacity)


@pytest.mark.parametrize("n_items", [1, 5])
def test_an_infeasible_capacity_names_the_smallest_feasible_one(n_items):
    sizes, costs, _ = instance(0, n_items)
    smallest = int(sizes[:, 0].sum())
    assert total(sizes, cheapest_choice(sizes, costs, smallest)) == smallest
    with pytest.raises(ValueError, match=rf"too small.* need {smallest}\."):
        cheapest_choice(sizes, costs, smallest - 1)


def test_with_room_for_all_every_item_has_its_cheapest_choice():
    sizes, costs, _ = instance(1)
    everything = int(sizes.max(axis=1).sum())
    for capacity in (everything, 10 * everything):
        choice = cheapest_choice(sizes, costs, capacity)
        assert choice == tuple(costs.argmin(axis=1))
    falling = -np.cumsum(np.ones_like(costs), axis=1)
    assert cheapest_choice(sizes, falling, everything) == (3,) * 6


def test_scale_of_costs_and_order_of_items_do_not_matter():
    sizes, costs, capacity = instance(0)
    choice = cheapest_choice(sizes, costs, capacity)
    for factor in (1e-200, 1e200):
        assert cheapest_choice(sizes, factor * costs, capacity) == choice
    order = np.random.default_rng(0).permutation(6)
    shuffled = cheapest_choice(sizes[order], costs[order], capacity)
    assert shuffled == tuple(np.array(choice)[order])


def by_sizes(sizes, costs, capacity):
    """Return the least cost, by a table of the least cost within every capacity."""
    best = np.zeros(capacity + 1)
    for size, cost in zip(sizes, costs, strict=True):
        grown = np.full(capacity + 1, np.inf)
        for s, c in zip(size, cost, strict=True):
            if s <= capacity:
                grown[s:] = np.minimum(grown[s:], best[: capacity + 1 - s] + c)
        best = grown
    return best[-1]


@pytest.mark.parametrize("seed", range(6))
def test_forty_items_equal_the_table_over_all_capacities(seed):
    sizes, costs, capacity = instance(seed, n_items=40)
    choice = cheapest_choice(sizes, costs, capacity)
    assert total(sizes, choice) <= capacity
    expected = by_sizes(sizes, costs, capacity)
    assert total(costs, choice) == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_a_hundred_layers_of_millions_of_weights_are_within_the_dual_bound():
    # No choice costs less than the Lagrange function, for any multiplier; the best
    # multiplier leaves a gap of at most what one layer costs between two choices.
    rng = np.random.default_rng(0)
    sizes = rng.integers(1_000, 4_000_000, 100)[:, None] * BITS
    costs = rng.exponential(size=(100, 1)) * 4.0**-BITS
    capacity = 3 * int(sizes[:, 0].sum()) // 2
    choice = cheapest_choice(sizes, costs, capacity)
    assert total(sizes, choice) <= capacity
    bounds = [
        (costs + m * sizes).min(axis=1).sum() - m * capacity
        for m in np.geomspace(1e-10, 1e-7, 1000)
    ]
    gap = (costs.max(axis=1) - costs.min(axis=1)).max()
    assert max(bounds) <= total(costs, choice) <= max(bounds) + gap


def interacting(seed, n_items=4, n_choices=4):
    """Return a value that is not a sum over items."""
    rng = np.random.default_rng(seed)
    table = rng.exponential(size=(n_choices,) * n_items)
    return lambda choice: float(table[tuple(choice)])


@pytest.mark.parametrize("seed", range(20))
def test_local_search_never_goes_up_and_ends_where_no_step_goes_down(seed):
    sizes, costs, capacity = instance(seed, n_items=4)
    sizes = np.sort(sizes, axis=1)
    value, start = interacting(seed), cheapest_choice(sizes, costs, capacity)
    choice = local_search(start, sizes, costs, capacity, value)
    assert value(choice) <= value(start)
    assert total(sizes, choice) <= capacity
    fitting = [n for n in neighbors(choice, 4) if total(sizes, n) <= capacity]
    assert all(value(choice) <= value(n) for n in fitting)


def test_local_search_stays_where_nothing_is_better():
    sizes, costs, capacity = instance(0)
    start = cheapest_choice(sizes, costs, capacity)
    assert local_search(start, sizes, costs, capacity, lambda choice: 1.0) == start


def test_local_search_uses_what_is_left_of_the_capacity():
    sizes = np.array([[2, 3, 4, 8]] * 3)

    def value(choice):
        return sum((3 - k) ** 2 for k in choice)

    assert local_search((0, 0, 0), sizes, np.zeros((3, 4)), 12, value) == (2, 2, 2)


def test_local_search_gives_up_after_64_steps_that_fail():
    sizes = np.tile(BITS, (12, 1))
    costs = np.zeros((12, 4))
    seen = []

    def value(choice):
        seen.append(choice)
        return 0.0

    start = (1,) * 12
    assert local_search(start, sizes, costs, 12 * 8, value) == start
    assert len(seen) == 65
    assert len(set(seen)) == 65
    # Steps of one item up are tried first: 12 alone, and 52 of those with one down.
    assert all(np.sum(np.subtract(choice, start) == 1) == 1 for choice in seen[1:])
