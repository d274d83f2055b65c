"""A file of compressed pictures: what is needed to read it, the message, and a checksum.

    "VAEC"  format version u16
    name, version of the bundle, writer                  each its length u8, then UTF-8
    digest of the bundle (32)  fingerprint (16)
    count u32  seed u32  channels, height, width u16  words u32          all integers little-endian
    the words, u32 each
    SHA-256 of everything before (32)

The fingerprint is a hash of what both graphs and the quantization give for the bundle's golden sample: where another
processor or library rounds otherwise, the file cannot be read, and that is said before anything is decoded.
"""

import hashlib
import math
import platform
import struct
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.compression import bits_back, buckets
from model.bundle.compression.ans import Words, quantized
from model.bundle.compression.bits_back import Measurement, Progress, unpack
from model.bundle.errors import CompressedError
from model.bundle.pixels import to_network
from model.bundle.runtime import Bundle

Bytes = NDArray[np.uint8]

MAGIC = b"VAEC"
FORMAT_VERSION = 1
MAX_PICTURES = 10_000_000

_CHECKSUM = hashlib.sha256().digest_size
_VERSION, _DIGESTS, _NUMBERS = struct.Struct("<H"), struct.Struct("<32s16s"), struct.Struct("<IIHHHI")


class Compressed(NamedTuple):
    """A file's bytes, and how large its message is beside what theory says."""

    data: bytes
    measurement: Measurement

    def report(self) -> list[str]:
        """Its size in words, a line each: the whole, what the pictures took beside -ELBO, and what is left."""
        m, bits = self.measurement, 8 * len(self.data)
        n, nat = m.pictures, math.log(2)
        padding = bits - m.coded_bits - m.initial_bits
        return [
            f"file: {len(self.data):,} bytes, {bits / n:.2f} bits a picture, {bits * nat / n:.2f} nats",
            f"pictures: {m.coded_bits / n:.2f} bits each, {m.coded_bits * nat / n:.2f} nats, {m.ratio:.4f} of -ELBO",
            f"-ELBO: {m.negative_elbo / n:.2f} nats a picture, with one latent each "
            f"(rate {m.rate / n:.2f} + distortion {m.distortion / n:.2f})",
            f"overhead: {m.initial_bits:,} initial bits, {padding:,} bits of header, checksum and padding",
        ]


class Header(NamedTuple):
    """What a file says of itself."""

    name: str
    version: str
    writer: str
    digest: bytes
    fingerprint: bytes
    pictures: int
    seed: int
    shape: tuple[int, int, int]  # (C, H, W)


def compress(bundle: Bundle, pictures: Iterator[Bytes], *, seed: int, progress: Progress | None = None) -> Compressed:
    """Pictures, uint8 (H, W, C) of 0 and 255 and of the model's size, as the bytes of a file, which is read back.

    `progress` hears of each picture twice. Raises CompressedError where the bundle is not one of binary pictures with a
    diagonal Gaussian posterior, where there are none or too many pictures, and where they do not come back as they are;
    ModelFault; ModuleNotFoundError without constriction.
    """
    check_bundle(bundle)
    sent = hashlib.sha256()

    def noted() -> Iterator[Bytes]:
        for picture in pictures:
            sent.update(picture.tobytes())
            yield picture

    message = bits_back.encode(bundle, noted(), seed=seed, progress=progress)
    count = message.measurement.pictures
    if not 0 < count <= MAX_PICTURES:
        raise CompressedError(f"there are {count} pictures to compress, and not 1 to {MAX_PICTURES:,}")
    manifest = bundle.manifest
    header = Header(
        manifest.name,
        manifest.version,
        _writer(),
        bytes.fromhex(bundle.digest),
        fingerprint(bundle),
        count,
        seed,
        manifest.image.shape,
    )
    data = _packed(header, message.words)
    received = hashlib.sha256()
    for piece in decompress(bundle, data, progress=progress):
        received.update(piece.tobytes())
    if received.digest() != sent.digest():
        raise CompressedError("the pictures did not come back as they are: this is a fault of the program, not theirs")
    return Compressed(data, message.measurement)


def decompress(bundle: Bundle, data: bytes, *, progress: Progress | None = None) -> Iterator[Bytes]:
    """The pictures of a file in pieces, uint8 (N, H, W, C) of 0 and 255; all are decoded before the first is given.

    Raises CompressedError where it is no such file, damaged, of another bundle, or was made where numbers come out
    otherwise; ModelFault; ModuleNotFoundError without constriction.
    """
    header, words = read(data)
    if header.digest.hex() != bundle.digest:
        raise CompressedError(
            f"was compressed with {header.name}/{header.version} of digest {header.digest.hex()[:12]}, and this bundle "
            f"is {bundle.name}/{bundle.version} of digest {bundle.digest[:12]}"
        )
    check_bundle(bundle)
    if header.shape != bundle.manifest.image.shape:
        raise CompressedError(
            f"its pictures have the shape {header.shape} and the model's {bundle.manifest.image.shape}"
        )
    if header.fingerprint != fingerprint(bundle):
        raise CompressedError(
            f"was compressed with {header.writer}, where this bundle computes other numbers than here "
            f"with {_writer()}; it can only be decompressed where they are the same"
        )
    groups = bits_back.decode(bundle, words, header.pictures, seed=header.seed, progress=progress)
    return unpack(groups, header.shape)


def read(data: bytes) -> tuple[Header, Words]:
    """Header and message of a file's bytes, verified. Raises CompressedError."""
    if not data.startswith(MAGIC):
        raise CompressedError("not a file of compressed pictures")
    if len(data) < len(MAGIC) + _VERSION.size + _CHECKSUM:
        raise CompressedError(_DAMAGED)
    (format_version,) = _VERSION.unpack_from(data, len(MAGIC))
    if format_version != FORMAT_VERSION:
        raise CompressedError(f"has format version {format_version} and not {FORMAT_VERSION}, which is read here")
    body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if hashlib.sha256(body).digest() != checksum:
        raise CompressedError(_DAMAGED)
    try:
        return _parsed(body)
    except (ValueError, IndexError, struct.error):
        raise CompressedError("its header is not that of a file of compressed pictures") from None


def check_bundle(bundle: Bundle) -> None:
    """Refuse a bundle that bits-back coding cannot be done with here. Raises CompressedError, which says why."""
    likelihood, posterior, prior = bundle.manifest.likelihood, bundle.manifest.posterior, bundle.manifest.prior
    who = f"{bundle.name}/{bundle.version}"
    if likelihood.family != "bernoulli":
        raise CompressedError(
            f"{who} has a {likelihood.family} likelihood; only pictures under a bernoulli are compressed"
        )
    if likelihood.binarization == "none":
        raise CompressedError(
            f"{who} was trained on grey pixels, of which a Bernoulli gives no probability to code with"
        )
    if posterior.family != "diagonal-gaussian":
        raise CompressedError(
            f"{who} has a {posterior.family} posterior; only one of independent coordinates (diagonal-gaussian) can be "
            "drawn from and undone in whole numbers"
        )
    if prior.family != "standard-normal":
        raise CompressedError(f"{who} has a {prior.family} prior; latents are coded in buckets of N(0, I) only")


def fingerprint(bundle: Bundle) -> bytes:
    """16 bytes that stand for how this machine computes: the graphs on the golden sample, and their integers."""
    golden = bundle.golden
    posterior = bundle.encode(to_network(golden.images))
    points = np.resize(np.arange(1, buckets.BUCKETS, 97), posterior.mean.shape)
    parts = (
        *posterior,
        buckets.centers(points),
        buckets.cumulative(points, posterior.mean, posterior.log_variance),
        quantized(bundle.decode(golden.mean)),
    )
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()[:16]


_DAMAGED = "truncated or damaged: its checksum is not that of its contents"


def _writer() -> str:
    versions = (f"{name} {metadata.version(name)}" for name in ("onnxruntime", "constriction"))
    return f"{', '.join(versions)} on {platform.machine()}"


def _packed(header: Header, words: Words) -> bytes:
    texts = (text.encode() for text in (header.name, header.version, header.writer))
    body = b"".join(
        [
            MAGIC,
            _VERSION.pack(FORMAT_VERSION),
            *(bytes([len(text)]) + text for text in texts),
            _DIGESTS.pack(header.digest, header.fingerprint),
            _NUMBERS.pack(header.pictures, header.seed, *header.shape, len(words)),
            words.astype("<u4").tobytes(),
        ]
    )
    return body + hashlib.sha256(body).digest()


def _parsed(body: bytes) -> tuple[Header, Words]:
    at = len(MAGIC) + _VERSION.size
    texts: list[str] = []
    for _ in range(3):
        size = body[at]
        texts.append(body[at + 1 : at + 1 + size].decode())
        at += 1 + size
    digest, mark = _DIGESTS.unpack_from(body, at)
    count, seed, channels, height, width, length = _NUMBERS.unpack_from(body, at + _DIGESTS.size)
    words = np.frombuffer(body, "<u4", offset=at + _DIGESTS.size + _NUMBERS.size).astype(np.uint32)
    if len(words) != length or not 0 < count <= MAX_PICTURES:
        raise ValueError("its counts are not those of its contents")
    name, version, writer = texts
    return Header(name, version, writer, digest, mark, count, seed, (channels, height, width)), words
