"""Laws of the stack: what was pushed is popped, sizes are those of the probabilities, random words lie under it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from model.bundle.compression.ans import WORD_BITS, Stack, initial_words, quantized

WORDS_OF_SEED_0 = [161475067, 1992345611]

laws = settings(deadline=None, max_examples=40)


@laws
@given(st.lists(st.tuples(st.integers(1, 2**24 - 1), st.floats(0, 1, exclude_max=True)), max_size=60))
def test_numbers_are_popped_as_they_were_pushed(drawn: list[tuple[int, float]]) -> None:
    sizes = np.array([size for size, _ in drawn], np.int64)
    symbols = np.array([int(size * part) for size, part in drawn], np.int64)
    stack = Stack(0)
    stack.reserve(100)
    before = stack.words()
    stack.push_uniform(symbols, sizes)
    assert_array_equal(stack.pop_uniform(sizes), symbols)
    assert_array_equal(stack.words(), before)


@laws
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), max_size=60))
def test_pixels_are_popped_as_they_were_pushed_however_improbable(drawn: list[tuple[bool, float]]) -> None:
    pixels = np.array([pixel for pixel, _ in drawn], np.int64)
    probabilities = quantized(np.array([mean for _, mean in drawn], np.float32))
    stack = Stack(0)
    stack.push_pixels(pixels, probabilities)
    assert_array_equal(stack.pop_pixels(probabilities), pixels)
    assert len(stack) == 0


def test_sizes_are_those_of_the_probabilities() -> None:
    generator = np.random.default_rng(0)
    probabilities = quantized(generator.random(20_000).astype(np.float32))
    pixels = (generator.random(20_000) < probabilities).astype(np.int64)
    stack = Stack(0)
    stack.reserve(100)
    before = stack.bits()
    stack.push_pixels(pixels, probabilities)
    content = -np.log2(np.where(pixels == 1, probabilities, 1 - probabilities)).sum()
    assert stack.bits() - before == pytest.approx(content, rel=2e-4)
    sizes = generator.integers(1, 2**20, 20_000)
    before = stack.bits()
    stack.push_uniform(generator.integers(0, sizes), sizes)
    # 2^24 is no multiple of a size: what is left over goes to one symbol, and the others pay.
    assert stack.bits() - before == pytest.approx(np.log2(sizes).sum(), rel=5e-3)


def test_popping_what_was_not_pushed_draws_from_the_distribution_and_gives_the_bits_back() -> None:
    probabilities = quantized(np.full(40_000, 0.2, np.float32))
    stack = Stack(3)
    stack.reserve(40_000)
    before = stack.words()
    drawn = stack.pop_pixels(probabilities)
    assert drawn.mean() == pytest.approx(0.2, abs=0.01)
    assert WORD_BITS * len(before) - stack.bits() == pytest.approx(0.7219 * 40_000, rel=0.02)  # the entropy
    stack.push_pixels(drawn, probabilities)
    assert_array_equal(stack.words(), before)


def test_random_words_are_put_under_what_is_there() -> None:
    sizes = np.full(50, 1 << 20)
    stack, other = Stack(5), Stack(5)
    other.reserve(5_000)
    symbols = []
    for _ in range(3):
        stack.reserve(20 * 50)
        symbols.append(stack.pop_uniform(sizes))
        assert_array_equal(symbols[-1], other.pop_uniform(sizes))
    for each in reversed(symbols):
        stack.push_uniform(each, sizes)
    assert len(stack) == stack.initial_words
    assert_array_equal(stack.words(), initial_words(5, len(stack))[::-1])


def test_what_is_there_is_not_reserved_again() -> None:
    stack = Stack(0)
    stack.reserve(1_000)
    words = stack.initial_words
    assert WORD_BITS * words >= 1_000
    stack.reserve(900)
    assert stack.initial_words == len(stack) == words


def test_the_words_of_a_seed_never_change() -> None:
    assert initial_words(0, 2).tolist() == WORDS_OF_SEED_0
    assert_array_equal(initial_words(7, 40)[:9], initial_words(7, 9))
    assert not np.array_equal(initial_words(7, 9), initial_words(8, 9))


def test_no_mean_is_impossible() -> None:
    means = np.array([0, 1e-30, 2**-24, 0.5, 1 - 2**-24, 1], np.float32)
    assert (quantized(means) * 2**24).tolist() == [1, 1, 1, 2**23, 2**24 - 1, 2**24 - 1]
