"""The two graphs, opened alike by every contender, and the plain bodies that most of them take.

    body --read--> what a graph takes --run--> what it gives --write--> body

JSON bodies are ``{"images": [N][H][W]}`` (``[N][H][W][C]`` in color, numbers in [0, 1]) and ``{"latents": [N][D]}``.
Binary ones are the array's bytes alone: uint8 images (N, H, W, C), float32 latents (N, D). Every contender that can
works with these, so that none pays for a format that it does not need.
"""

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray

Operation = Literal["encode", "decode"]
Floats = NDArray[np.float32]
Outputs = tuple[Floats, ...]

_KEYS = {"encode": b'{"images":', "decode": b'{"latents":'}


class Graphs:
    """Sessions of encoder.onnx and decoder.onnx in ``folder``, ``threads`` within an operator.

    ``only`` opens one of them, for servers that have a process for each.
    """

    def __init__(self, folder: Path, threads: int = 1, only: Operation | None = None) -> None:
        self._sessions: dict[str, Any] = {}
        for operation, file in (("encode", "encoder.onnx"), ("decode", "decoder.onnx")):
            if only in (None, operation):
                self._sessions[operation] = _session(folder / file, threads)
        shapes = {name: session.get_inputs()[0].shape for name, session in self._sessions.items()}
        if "decode" in self._sessions:
            self.latent_dim = int(shapes["decode"][1])
        if "encode" in self._sessions:
            self.channels, self.height, self.width = (int(size) for size in shapes["encode"][1:])

    def read(self, operation: Operation, body: bytes, *, is_json: bool) -> Floats:
        """A body as a graph takes it: images (N, C, H, W) in [0, 1], or latents (N, D)."""
        if operation == "decode":
            if is_json:
                return np.asarray(orjson.loads(body)["latents"], np.float32)
            return np.frombuffer(body, np.float32).reshape(-1, self.latent_dim)
        if is_json:
            images = np.asarray(orjson.loads(body)["images"], np.float32)
        else:
            images = np.frombuffer(body, np.uint8).astype(np.float32)
            images *= np.float32(1 / 255)
        return self.to_network(images)

    def to_network(self, images: Floats) -> Floats:
        """Images (N, H, W), (N, H, W, C) or flat, in [0, 1], as (N, C, H, W)."""
        if self.channels == 1:  # the same numbers in the same order
            return images.reshape(-1, 1, self.height, self.width)
        return np.ascontiguousarray(images.reshape(-1, self.height, self.width, self.channels).transpose(0, 3, 1, 2))

    def run(self, operation: Operation, inputs: Floats) -> Outputs:
        """Encode: mean and log_variance (N, D). Decode: images (N, H, W, C) in [0, 1]."""
        name = "image" if operation == "encode" else "latent"
        outputs = ["mean", "log_variance"] if operation == "encode" else ["image"]
        found = cast(list[Floats], self._sessions[operation].run(outputs, {name: inputs}))
        if operation == "encode":
            return tuple(found)
        return (np.ascontiguousarray(found[0].transpose(0, 2, 3, 1)),)

    def write(self, operation: Operation, outputs: Outputs, *, is_json: bool) -> bytes:
        """What ``run`` gave as a body: JSON of all of it; binary the float32 means, or uint8 pictures."""
        if is_json:
            names = ("mean", "log_variance") if operation == "encode" else ("pixels",)
            return orjson.dumps(dict(zip(names, outputs, strict=True)), option=orjson.OPT_SERIALIZE_NUMPY)
        return outputs[0].tobytes() if operation == "encode" else to_levels(outputs[0]).tobytes()


def to_levels(pixels: Floats) -> NDArray[np.uint8]:
    """[0, 1] -> 0..255, rounded."""
    return (pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def grid(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) side by side in a square, black where there are too few: (H', W', C)."""
    count, height, width, channels = levels.shape
    side = int(np.ceil(np.sqrt(count)))
    whole = np.zeros((side * side, height, width, channels), np.uint8)
    whole[:count] = levels
    rows = whole.reshape(side, side, height, width, channels).swapaxes(1, 2)
    return rows.reshape(side * height, side * width, channels)


def looks_like_json(operation: Operation, body: bytes) -> bool:
    """For servers that show a handler the body and not its type."""
    return body.startswith(_KEYS[operation])


def _session(file: Path, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with the client
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
