"""How a line of vectors is cut into tiles: every vector once, in as few tiles as the longest allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexgroup.engine._work import tiles_of


@given(st.integers(1, 24), st.integers(1, 500))
def test_tiles_hold_every_vector_once(size, vectors):
    tiles = tiles_of(size, vectors)
    assert tiles.whole * tiles.size + tiles.tails * tiles.tail == vectors
    assert tiles.count == -(-vectors // size)
    assert tiles.last_start == vectors - tiles.last
    assert 0 <= tiles.tail < size
    assert (tiles.tail > 0) == (tiles.tails > 0)


@given(st.integers(2, 24), st.integers(1, 500))
def test_rather_several_short_tiles_than_a_very_short_one(size, vectors):
    tiles = tiles_of(size, vectors)
    if vectors >= size * size:  # then there are enough tiles to take one vector from
        assert tiles.tail in (0, size - 1)


@given(st.integers(1, 24), st.integers(1, 500))
def test_without_tails_all_tiles_have_one_size(size, vectors):
    tiles = tiles_of(size, vectors, has_tails=False)
    assert (tiles.tails, tiles.last) == (0, size)
    assert tiles.count * size >= vectors > (tiles.count - 1) * size


def test_seven_vectors_are_a_tile_of_three_and_two_of_two():
    tiles = tiles_of(3, 7)
    assert (tiles.whole, tiles.size, tiles.tails, tiles.tail) == (1, 3, 2, 2)
