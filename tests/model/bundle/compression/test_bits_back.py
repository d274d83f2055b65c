"""Pictures come back as they are, and take -ELBO: with the bundle that ships, on pictures that it and others made."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits
from torch.distributions import Normal, kl_divergence

from app.settings import PRETRAINED
from model.bundle.compression import ans, bits_back
from model.bundle.compression.bits_back import Message, bernoulli_distortion, decode, encode, unpack
from model.bundle.errors import CompressedError, ModelFault
from model.bundle.latents import posterior_samples, prior_latents
from model.bundle.pixels import to_network
from model.bundle.runtime import Bundle, Posterior, RuntimeOptions
from model.bundle.store import open_bundle
from tests.support.tiny import write_tiny_bundle

COUNT = 1_000


@pytest.fixture(scope="module")
def pretrained() -> Bundle:
    return open_bundle(PRETRAINED, RuntimeOptions(threads=1))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", width=12, latent_dim=11)
    return open_bundle(folder, RuntimeOptions(threads=1))


@pytest.fixture(scope="module")
def simulated(pretrained: Bundle) -> np.ndarray:
    """z ~ p(z), x ~ p(x|z): (N, H, W, C) of 0 and 255."""
    means = pretrained.decode_all(prior_latents(COUNT, pretrained.manifest.latent.dim, seed=5))
    return black_and_white(np.random.default_rng(0).random(means.shape) < means).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def message(pretrained: Bundle, simulated: np.ndarray) -> Message:
    return encode(pretrained, iter(simulated), seed=0)


@pytest.fixture(scope="module")
def simulated_distortion(pretrained: Bundle, simulated: np.ndarray) -> float:
    return distortion(pretrained, simulated)


def black_and_white(white: np.ndarray) -> np.ndarray:
    return np.where(white, np.uint8(255), np.uint8(0))


def noise(bundle: Bundle, count: int, seed: int = 0) -> np.ndarray:
    image = bundle.manifest.image
    shape = (count, image.height, image.width, image.channels)
    return black_and_white(np.random.default_rng(seed).random(shape) < 0.5)


def decoded(bundle: Bundle, words: ans.Words, count: int, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(unpack(decode(bundle, words, count, seed=seed), bundle.manifest.image.shape)))


def rate(bundle: Bundle, pictures: np.ndarray, scale_of: float = 0.5) -> float:
    """KL(q(z|x) || p(z)) over all pictures in nats, by torch.distributions.

    sigma is exp(scale_of * log_variance): at 1 this is the rate of who takes log_variance for log sigma.
    """
    posterior = bundle.encode_all(to_network(pictures))
    mean, log_variance = (torch.from_numpy(each).double() for each in (posterior.mean, posterior.log_variance))
    return kl_divergence(Normal(mean, (scale_of * log_variance).exp()), Normal(0.0, 1.0)).sum().item()


def distortion(bundle: Bundle, pictures: np.ndarray) -> float:
    """-log p(x|z) over all pictures in nats, the mean of four latents each."""
    images = to_network(pictures)
    posterior = bundle.encode_all(images)
    latents = posterior_samples(posterior.mean, posterior.log_variance, 4, seed=9)
    return float(sum(bernoulli_distortion(images, means(bundle, latents[:, each])).sum() for each in range(4)) / 4)


def means(bundle: Bundle, latents: np.ndarray) -> np.ndarray:
    return ans.quantized(bundle.decode_all(np.ascontiguousarray(latents)))


def nats(message: Message) -> float:
    return message.measurement.coded_bits * math.log(2)


def test_pictures_come_back_as_they_are(pretrained: Bundle, simulated: np.ndarray, message: Message) -> None:
    assert_array_equal(decoded(pretrained, message.words, COUNT), simulated)


def test_the_size_is_the_negative_elbo(
    pretrained: Bundle, simulated: np.ndarray, simulated_distortion: float, message: Message
) -> None:
    """Within a hundredth; a draw of the latents moves either by a fifth of that."""
    exact = rate(pretrained, simulated) + simulated_distortion
    assert nats(message) == pytest.approx(exact, rel=0.01)
    assert message.measurement.negative_elbo == pytest.approx(exact, rel=0.01)
    assert message.measurement.rate == pytest.approx(rate(pretrained, simulated), rel=1e-4)
    assert message.measurement.ratio == pytest.approx(1, abs=0.01)


def test_the_whole_message_is_that_and_the_initial_bits(message: Message) -> None:
    measurement = message.measurement
    whole = ans.WORD_BITS * len(message.words)
    assert 0 <= whole - measurement.coded_bits - measurement.initial_bits < ans.WORD_BITS
    # A picture's latents take no more than their buckets and the points within the last block.
    assert 0 < measurement.initial_bits < 50 * 12 + 7 * 20 + 4 * ans.WORD_BITS


def test_no_wrong_divergence_agrees_with_the_size(
    pretrained: Bundle, simulated: np.ndarray, simulated_distortion: float, message: Message
) -> None:
    wrong = rate(pretrained, simulated, scale_of=1.0) + simulated_distortion
    assert abs(nats(message) / wrong - 1) > 0.1


@pytest.mark.parametrize("factor", [2.0, 0.5], ids=["as log sigma", "halved once more"])
def test_a_coder_with_a_wrong_scale_is_lossless_and_larger(
    factor: float, pretrained: Bundle, simulated: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any q(z|x) can be coded with, and each costs its own -ELBO: which is why the size tells of the formula."""
    right = bits_back._posterior

    def wrong(bundle: Bundle, images: np.ndarray) -> Posterior:
        posterior = right(bundle, images)
        return posterior._replace(log_variance=(factor * posterior.log_variance).astype(np.float32))

    some = simulated[:300]
    monkeypatch.setattr(bits_back, "_posterior", wrong)
    message = encode(pretrained, iter(some), seed=0)
    assert_array_equal(decoded(pretrained, message.words, len(some)), some)
    assert nats(message) > 1.1 * (rate(pretrained, some) + distortion(pretrained, some))


def test_pictures_that_the_model_never_saw(pretrained: Bundle) -> None:
    """Another data set costs more than the model's own, and its -ELBO as well."""
    grey = np.kron(load_digits().images[:300], np.ones((3, 3)))
    pictures = black_and_white(np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., None] > 7)
    message = encode(pretrained, iter(pictures), seed=0)
    assert_array_equal(decoded(pretrained, message.words, len(pictures)), pictures)
    assert nats(message) == pytest.approx(rate(pretrained, pictures) + distortion(pretrained, pictures), rel=0.01)
    assert nats(message) / len(pictures) > 150


def test_noise_is_lossless_and_costs_more_than_its_pixels(pretrained: Bundle) -> None:
    pictures = noise(pretrained, 20)
    message = encode(pretrained, iter(pictures), seed=0)
    assert_array_equal(decoded(pretrained, message.words, 20), pictures)
    assert message.measurement.coded_bits > 20 * 784


def test_real_digits_come_back(pretrained: Bundle) -> None:
    pictures = black_and_white(pretrained.golden.images > 127)
    message = encode(pretrained, iter(pictures), seed=0)
    assert_array_equal(decoded(pretrained, message.words, len(pictures)), pictures)


@pytest.mark.parametrize("count", [1, 2, 9, 17, 700])
def test_any_number_of_pictures(count: int, tiny: Bundle) -> None:
    """700 fill groups of the largest size, and leave a smaller one."""
    pictures = noise(tiny, count)
    heard: list[int] = []
    message = encode(tiny, iter(pictures), seed=4, progress=heard.append)
    assert sum(heard) == message.measurement.pictures == count
    assert_array_equal(decoded(tiny, message.words, count, seed=4), pictures)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12).flatmap(lambda n: arrays(np.bool_, (n, 8, 12, 1))), st.integers(0, 2**31 - 1))
def test_any_pictures(tiny: Bundle, white: np.ndarray, seed: int) -> None:
    pictures = black_and_white(white)
    message = encode(tiny, iter(pictures), seed=seed)
    assert_array_equal(decoded(tiny, message.words, len(pictures), seed), pictures)


def test_colors(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "colors", channels=3, width=12), RuntimeOptions(threads=1))
    pictures = noise(bundle, 30)
    assert_array_equal(decoded(bundle, encode(bundle, iter(pictures), seed=0).words, 30), pictures)


def test_a_seed_is_a_message(tiny: Bundle) -> None:
    pictures = noise(tiny, 20)
    first, again, other = (encode(tiny, iter(pictures), seed=seed).words for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pictures_are_taken_as_they_come(tiny: Bundle) -> None:
    taken: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for number, picture in enumerate(noise(tiny, 100)):
            taken.append(number)
            yield picture

    encode(tiny, pictures(), seed=0, progress=lambda done: taken.clear())
    assert len(taken) < 64


@pytest.mark.parametrize(("count", "seed"), [(19, 0), (21, 0), (2000, 0), (20, 1)])
def test_another_count_or_seed_is_noticed(count: int, seed: int, tiny: Bundle) -> None:
    words = encode(tiny, iter(noise(tiny, 20)), seed=0).words
    with pytest.raises(CompressedError):
        decode(tiny, words, count, seed=seed)


def test_a_changed_bit_is_noticed(tiny: Bundle) -> None:
    words = encode(tiny, iter(noise(tiny, 20)), seed=0).words
    for place in range(0, len(words), 7):
        changed = words.copy()
        changed[place] ^= 1 << 9
        with pytest.raises(CompressedError, match="computes other numbers"):
            decode(tiny, changed, 20, seed=0)


@pytest.mark.parametrize("words", [[], [1, 0]])
def test_words_that_are_no_message(words: list[int], tiny: Bundle) -> None:
    with pytest.raises(CompressedError, match="holds no message"):
        decode(tiny, np.array(words, np.uint32), 1, seed=0)


def test_words_that_hold_fewer_pictures(tiny: Bundle) -> None:
    with pytest.raises(CompressedError, match="does not hold 1 pictures"):
        decode(tiny, np.array([5], np.uint32), 1, seed=0)


@pytest.mark.parametrize("part", ["_posterior", "_means"])
def test_a_machine_that_rounds_otherwise_is_noticed(part: str, tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single last bit, in one number of one picture."""
    words = encode(tiny, iter(noise(tiny, 20)), seed=0).words
    right = getattr(bits_back, part)
    calls: list[int] = []

    def nudged(*arguments: object) -> object:
        calls.append(1)
        answer = right(*arguments)
        if len(calls) == 5:
            array = answer if part == "_means" else answer.log_variance
            array.flat[0] += array.flat[0] * 1e-5
        return answer

    monkeypatch.setattr(bits_back, part, nudged)
    with pytest.raises(CompressedError, match="computes other numbers"):
        decode(tiny, words, 20, seed=0)


@pytest.mark.parametrize("graph", ["encode", "decode"])
def test_nan_is_a_fault_of_the_model(graph: str, tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = np.full((1, 11), np.nan, np.float32)
    answer = Posterior(bad, bad, bad[:, :0]) if graph == "encode" else np.full((1, 1, 8, 12), np.nan, np.float32)
    monkeypatch.setattr(tiny, graph, lambda rows: answer)
    with pytest.raises(ModelFault, match="NaN or infinity"):
        encode(tiny, iter(noise(tiny, 3)), seed=0)


def test_distortion_is_that_of_a_bernoulli() -> None:
    generator = np.random.default_rng(0)
    images = (generator.random((3, 1, 4, 5)) < 0.5).astype(np.float32)
    probabilities = generator.uniform(0.01, 0.99, images.shape)
    cross_entropy = torch.nn.functional.binary_cross_entropy
    exact = cross_entropy(torch.from_numpy(probabilities), torch.from_numpy(images).double(), reduction="none")
    np.testing.assert_allclose(bernoulli_distortion(images, probabilities), exact.sum((1, 2, 3)).numpy(), rtol=1e-9)
