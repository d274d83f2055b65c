"""Bits-back coding of binary pictures with a VAE (Frey and Hinton 1997; Townsend, Bird and Barber 2019), with a stack.

    send      pop z under q(z|x)   push x under p(x|z)   push z under p(z)        x of a group of pictures
    receive   pop z under p(z)     pop x under p(x|z)    push z under q(z|x)      the same, backwards

A picture adds -log p(x|z) - log p(z) + log q(z|x) to the stack, -ELBO on average. What is popped first is what earlier
pictures pushed, or, under the first of them, random words of the seed, which remain at the bottom of the message.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.compression import buckets
from model.bundle.compression.ans import WORD_BITS, Stack, Words, initial_words, quantized
from model.bundle.errors import CompressedError, ModelFault
from model.bundle.latents import gaussian_kl, posterior_samples
from model.bundle.pixels import to_network
from model.bundle.runtime import Bundle, Posterior, finite

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Progress = Callable[[int], None]

_GROUP = 64  # pictures that share a run of each graph
_GROUP_PIXELS = 1 << 22
_GROWTH = 8  # a group is at most this part of what came before, which pays the bits that its latents take at first
_BLOCKS = 8  # latent dimensions are popped in so many blocks: a block's bits are lent before the next gives some back


class Measurement(NamedTuple):
    """The size of a message, beside what theory says of the same pictures. Sums over the pictures."""

    pictures: int
    coded_bits: int
    """What the pictures added: the message without the initial bits."""
    initial_bits: int
    """Random bits that the first latents were drawn with: the price of having nothing to get back yet."""
    rate: float
    """KL(q(z|x) || p(z)), nats."""
    distortion: float
    """-log p(x|z) for one z of q(z|x) each, nats: an estimate of its expectation."""

    @property
    def negative_elbo(self) -> float:
        """Rate + distortion, nats."""
        return self.rate + self.distortion

    @property
    def ratio(self) -> float:
        """What the pictures added over their -ELBO."""
        return self.coded_bits * math.log(2) / self.negative_elbo


class Message(NamedTuple):
    """What is sent, and how large it is."""

    words: Words
    measurement: Measurement


def encode(bundle: Bundle, pictures: Iterator[Bytes], *, seed: int, progress: Progress | None = None) -> Message:
    """Pictures, uint8 (H, W, C) of 0 and 255 and of the model's size, as one message.

    The bundle has a Bernoulli likelihood and a diagonal Gaussian posterior. Seed and number of pictures are not in the
    message. `progress` hears how many more are done. Raises ModelFault; ModuleNotFoundError without constriction.
    """
    stack = Stack(seed)
    done, rate, distortion = 0, 0.0, 0.0
    while group := list(itertools.islice(pictures, _group_size(done, math.prod(bundle.manifest.image.shape)))):
        images = to_network(np.stack(group))
        posterior = _posterior(bundle, images)
        chosen = _pop_latents(stack, posterior)
        _push_pixels(stack, images, _means(bundle, buckets.centers(chosen)))
        stack.push_uniform(chosen.ravel(), np.full(chosen.size, buckets.BUCKETS))
        rate += float(gaussian_kl(posterior.mean, posterior.log_variance).sum())
        drawn = posterior_samples(posterior.mean, posterior.log_variance, 1, seed=seed, first=done)[:, 0]
        distortion += float(bernoulli_distortion(images, _means(bundle, drawn)).sum())
        done += len(group)
        if progress is not None:
            progress(len(group))
    initial = stack.initial_words * WORD_BITS
    return Message(stack.words(), Measurement(done, stack.bits() - initial, initial, rate, distortion))


def decode(
    bundle: Bundle, words: Words, count: int, *, seed: int, progress: Progress | None = None
) -> list[tuple[int, Bytes]]:
    """The `count` >= 1 pictures that `encode` made `words` of, as groups (size, packed bits) in their order.

    `unpack` has their pixels. What is left when all are taken out has to be the random words of the seed, and would not
    be if one number had come out otherwise than where it was sent. Raises CompressedError where it is not; ModelFault;
    ModuleNotFoundError.
    """
    if len(words) == 0 or words[-1] == 0:
        raise CompressedError("holds no message")
    stack = Stack(seed, words)
    shape = bundle.manifest.image.shape
    groups: list[tuple[int, Bytes]] = []
    for size in reversed(_group_sizes(count, math.prod(shape))):
        if len(stack) < 2:
            raise CompressedError(f"does not hold {count} pictures")
        chosen = stack.pop_uniform(np.full(size * bundle.manifest.latent.dim, buckets.BUCKETS)).reshape(size, -1)
        pixels = stack.pop_pixels(_means(bundle, buckets.centers(chosen)).ravel())
        images = pixels.reshape(size, *shape).astype(np.float32)
        _push_latents(stack, chosen, _posterior(bundle, images))
        groups.append((size, np.packbits(images.transpose(0, 2, 3, 1).astype(np.bool_))))
        if progress is not None:
            progress(size)
    left = stack.words()
    if not np.array_equal(left, initial_words(seed, len(left))[::-1]):
        raise CompressedError(_DISAGREE)
    return groups[::-1]


def unpack(groups: list[tuple[int, Bytes]], shape: tuple[int, int, int]) -> Iterator[Bytes]:
    """The pictures of each group, uint8 (N, H, W, C) of 0 and 255, for (C, H, W)."""
    channels, height, width = shape
    for size, bits in groups:
        pixels = np.unpackbits(bits, count=size * math.prod(shape)) * np.uint8(255)
        yield pixels.reshape(size, height, width, channels)


def bernoulli_distortion(images: Floats, means: Doubles) -> Doubles:
    """-log p(x|z) in nats (N) of binary images and a Bernoulli's means in (0, 1), both (N, C, H, W)."""
    likelihoods = np.where(images > 0.5, means, 1 - means)
    return np.asarray(-np.log(likelihoods).reshape(len(images), -1).sum(axis=1))


_DISAGREE = (
    "this machine computes other numbers than the one that compressed it: the processor, ONNX Runtime or constriction "
    "differ, and it can only be decompressed where they are the same"
)


def _pop_latents(stack: Stack, posterior: Posterior) -> Integers:
    """Draw a bucket for each latent coordinate (N, D) with bits of the stack."""
    chosen: Integers = np.empty(posterior.mean.shape, np.int64)
    for block in _blocks(chosen.shape[1]):
        mean, log_variance = posterior.mean[:, block].ravel(), posterior.log_variance[:, block].ravel()
        stack.reserve(buckets.PRECISION * mean.size)
        points = stack.pop_uniform(np.full(mean.size, buckets.TOTAL))
        found = buckets.find(points, mean, log_variance)
        start, size = buckets.intervals(found, mean, log_variance)
        # A point within the bucket says more than the bucket: log2(size) bits of it go back.
        stack.push_uniform(points - start, size)
        chosen[:, block] = found.reshape(len(chosen), -1)
    return chosen


def _push_latents(stack: Stack, chosen: Integers, posterior: Posterior) -> None:
    """Undo `_pop_latents`."""
    for block in reversed(_blocks(chosen.shape[1])):
        mean, log_variance = posterior.mean[:, block].ravel(), posterior.log_variance[:, block].ravel()
        start, size = buckets.intervals(chosen[:, block].ravel(), mean, log_variance)
        if size.min() < 1:  # the sender cannot have drawn it
            raise CompressedError(_DISAGREE)
        stack.push_uniform(start + stack.pop_uniform(size), np.full(mean.size, buckets.TOTAL))


def _push_pixels(stack: Stack, images: Floats, means: Doubles) -> None:
    stack.push_pixels(images.ravel().astype(np.int64), means.ravel())


def _posterior(bundle: Bundle, images: Floats) -> Posterior:
    posterior = bundle.encode(images)
    if not finite(*posterior).all():
        raise ModelFault("the encoder gave NaN or infinity")
    return posterior


def _means(bundle: Bundle, latents: Floats) -> Doubles:
    means = bundle.decode(latents)
    if not finite(means).all():
        raise ModelFault("the decoder gave NaN or infinity")
    return quantized(means)


def _group_size(done: int, pixels: int) -> int:
    """How many pictures follow `done` others at once. Both graphs run on just as many where it is decompressed."""
    return max(1, min(_GROUP, done // _GROWTH, _GROUP_PIXELS // pixels))


def _group_sizes(count: int, pixels: int) -> list[int]:
    sizes: list[int] = []
    done = 0
    while done < count:
        sizes.append(min(_group_size(done, pixels), count - done))
        done += sizes[-1]
    return sizes


def _blocks(dim: int) -> list[slice]:
    size = -(-dim // _BLOCKS)
    return [slice(start, min(start + size, dim)) for start in range(0, dim, size)]
