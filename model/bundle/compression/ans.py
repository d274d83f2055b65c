"""A stack of bits, coded by asymmetric numeral systems (Duda 2015): what is pushed last is popped first.

Pushing a symbol of probability p adds log2(1/p) bits, popping one under p takes as many away. Popping from bits that
are uniform draws from p, and pushing what was drawn gives the very same bits back: bits-back coding is made of that.
`constriction` does the arithmetic; it is imported when a stack is made.
"""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle.interrupts import quick_exit

Integers = NDArray[np.int64]
Words = NDArray[np.uint32]
Doubles = NDArray[np.float64]

WORD_BITS = 32
PIXEL_PRECISION = 24  # bits of a pixel's probability, as many as the coder has and a float32 between 1/2 and 1
_HEAD = 2  # words of the coder's state
_INITIAL_STREAM = 1 << 33  # of Philox, apart from those of `latents`, one for each image


class Stack:
    """The words of a message, the top last, on top of as many random words as `reserve` had to put under them.

    These come from the seed, the first nearest to the top. Raises ModuleNotFoundError where constriction is missing.
    """

    def __init__(self, seed: int, words: Words | None = None) -> None:
        """Empty, or `words` as `words()` gave them, whose last is not 0."""
        self._seed = seed
        self._coder: Any = _constriction().stream.stack.AnsCoder(*(() if words is None else (words,)))
        self._uniform: Any = _constriction().stream.model.Uniform()
        self._bernoulli: Any = _constriction().stream.model.Bernoulli(perfect=False)
        self.initial_words = 0

    def __len__(self) -> int:
        """How many words it holds."""
        return int(self._coder.num_words())

    def bits(self) -> int:
        """The length in bits, without those that fill the last word up."""
        return int(self._coder.num_valid_bits())

    def words(self) -> Words:
        """A copy of what it holds."""
        return np.array(self._coder.get_compressed(), np.uint32)

    def reserve(self, bits: int) -> None:
        """Put random words under the others until so many bits can be popped."""
        lacking = -(-bits // WORD_BITS) + _HEAD + 1 - len(self)
        if lacking > 0:
            initial = initial_words(self._seed, self.initial_words + lacking)
            words = np.concatenate([initial[self.initial_words :][::-1], self.words()])
            self._coder = _constriction().stream.stack.AnsCoder(words)
            self.initial_words += lacking

    def push_uniform(self, symbols: Integers, sizes: Integers) -> None:
        """Symbols (n) in 0..size - 1, equally probable, for sizes (n) from 1 to 2^24 - 1."""
        some = sizes > 1  # of one possibility there is nothing to say
        self._coder.encode_reverse(symbols[some].astype(np.int32), self._uniform, sizes[some].astype(np.int32))

    def pop_uniform(self, sizes: Integers) -> Integers:
        """What `push_uniform` pushed with these sizes."""
        some = sizes > 1
        symbols = np.zeros(len(sizes), np.int64)
        symbols[some] = self._coder.decode(self._uniform, sizes[some].astype(np.int32))
        return symbols

    def push_pixels(self, pixels: Integers, probabilities: Doubles) -> None:
        """Pixels (n), 0 or 1, each 1 with its probability (n) as of `quantized`."""
        self._coder.encode_reverse(pixels.astype(np.int32), self._bernoulli, probabilities)

    def pop_pixels(self, probabilities: Doubles) -> Integers:
        """What `push_pixels` pushed with these probabilities."""
        return np.asarray(self._coder.decode(self._bernoulli, probabilities), np.int64)


def initial_words(seed: int, count: int) -> Words:
    """The first so many random words of a seed; none is 0, which could not be on top.

    They are the generator's raw bits, which no version of NumPy may change.
    """
    raw = np.random.Philox(key=seed + (_INITIAL_STREAM << 64)).random_raw(count)
    words = np.asarray(raw & 0xFFFFFFFF, np.uint32)
    words[words == 0] = 1
    return words


def quantized(means: NDArray[np.float32]) -> Doubles:
    """A Bernoulli's means as multiples of 2^-24, of which none is 0 or 1: any picture can be coded.

    >>> (quantized(np.array([0, 0.25, 1], np.float32)) * 2**24).tolist()
    [1.0, 4194304.0, 16777215.0]
    """
    total = 1 << PIXEL_PRECISION
    return np.asarray(np.clip(np.rint(means.astype(np.float64) * total), 1, total - 1) / total)


@cache
def _constriction() -> ModuleType:
    with quick_exit():
        import constriction

    module: ModuleType = constriction
    return module
