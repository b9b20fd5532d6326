"""Places in memory: nothing that lives at the same time overlaps, and little is wasted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexgroup.engine._placement import Tenant, extent, places

TENANTS = st.lists(
    st.builds(lambda size, born, life: Tenant(size, born, born + life), *(st.integers(a, 20) for a in (1, 0, 0))),
    max_size=12,
)


@given(TENANTS)
def test_tenants_that_live_at_the_same_time_do_not_overlap(tenants):
    starts = places(tenants)
    for i, one in enumerate(tenants):
        mine = set(range(starts[i], starts[i] + one.size))
        for j, other in enumerate(tenants[:i]):
            together = set(range(one.born, one.dies + 1)) & set(range(other.born, other.dies + 1))
            assert not together or not mine & set(range(starts[j], starts[j] + other.size))


@given(TENANTS)
def test_the_memory_lies_between_what_lives_at_once_and_all_of_it(tenants):
    live = [sum(t.size for t in tenants if t.born <= step <= t.dies) for step in range(41)]
    assert max(live) <= extent(tenants, places(tenants)) <= sum(t.size for t in tenants)


def test_memory_is_used_again():
    chain = [Tenant(10, step, step + 1) for step in range(6)]
    assert extent(chain, places(chain)) == 20
