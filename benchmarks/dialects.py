"""How a row is said to a server, and how its answer is read: the plain bodies, our own, and the V2 protocol's."""

import io
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rows import Arrays, Row, Workload, WrongAnswer

JSON = "application/json"
BYTES = "application/octet-stream"
NPY = "application/x-npy"
PNG = "image/png"


@dataclass(frozen=True, slots=True)
class Request:
    """What wrk sends, again and again."""

    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


class Dialect(Protocol):
    """A server's way of saying rows."""

    def request(self, row: Row, workload: Workload) -> Request:
        """A row's request."""
        ...

    def read(self, row: Row, body: bytes, workload: Workload) -> Arrays:
        """The arrays of an answer, named as ``Workload.expected`` names them."""
        ...


def json_text(row: Row, workload: Workload) -> bytes:
    """The body that all who take plain JSON get."""
    if row.operation == "decode":
        # float32 in float64's shortest text would have more than four decimals.
        latents = np.round(workload.latents(row.items).astype(np.float64), 4)
        return json.dumps({"latents": latents.tolist()}, separators=(",", ":")).encode()
    return json.dumps({"images": workload.unit_images(row.items).tolist()}, separators=(",", ":")).encode()


def array_of(row: Row, workload: Workload) -> NDArray[Any]:
    """The array that binary bodies hold."""
    return workload.latents(row.items) if row.operation == "decode" else workload.images(row.items)


class Plain:
    """``/encode`` and ``/decode`` with the bodies of `contenders.graphs`; pictures as they are."""

    def request(self, row: Row, workload: Workload) -> Request:
        if row.operation == "sample":
            return Request(f"/sample?n={row.items}")
        path = f"/{row.operation}"
        if row.form == "png":
            return Request(path, {"Content-Type": PNG}, workload.picture)
        if row.form == "json":
            return Request(path, {"Content-Type": JSON}, json_text(row, workload))
        return Request(path, {"Content-Type": BYTES}, array_of(row, workload).tobytes())

    def read(self, row: Row, body: bytes, workload: Workload) -> Arrays:
        if row.operation in ("sample", "reconstruct"):
            return read_png(row, body, workload)
        if row.form != "binary":
            return {name: np.asarray(value, np.float32) for name, value in read_json(row, body).items()}
        if row.operation == "encode":
            return {"mean": np.frombuffer(body, np.float32).reshape(row.items, -1)}
        shape = (row.items, workload.graphs.height, workload.graphs.width, workload.graphs.channels)
        return {"levels": np.frombuffer(body, np.uint8).reshape(shape)}


class Canned(Plain):
    """Answers that lie ready, each under a path of its own."""

    def request(self, row: Row, workload: Workload) -> Request:
        said = super().request(row, workload)
        return Request(f"/{row.request}", said.headers, said.body)


class Ours:
    """The routes of this project: .npy where others get bare bytes."""

    def request(self, row: Row, workload: Workload) -> Request:
        if row.operation == "sample":
            return Request(f"/sample?n={row.items}", {"Accept": PNG})
        if row.form == "png":
            accept = PNG if row.operation == "reconstruct" else JSON
            return Request(f"/{row.operation}", {"Content-Type": PNG, "Accept": accept}, workload.picture)
        if row.form == "json":
            path = "/encode" if row.operation == "encode" else "/decode?dtype=float32"
            return Request(path, {"Content-Type": JSON, "Accept": JSON}, json_text(row, workload))
        array = array_of(row, workload)
        if array.shape[-1] == 1 and row.operation == "encode":
            array = array[..., 0]
        buffer = io.BytesIO()
        np.save(buffer, array)
        return Request(f"/{row.operation}", {"Content-Type": NPY, "Accept": NPY}, buffer.getvalue())

    def read(self, row: Row, body: bytes, workload: Workload) -> Arrays:
        if row.operation in ("sample", "reconstruct"):
            return read_png(row, body, workload)
        if row.form == "binary":
            try:
                array: NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False)
            except ValueError:
                raise WrongAnswer(f"{row.request}: the answer is no .npy file") from None
            return {"mean" if row.operation == "encode" else "levels": array}
        document = read_json(row, body)
        if row.operation == "decode":
            return {"pixels": np.asarray(document["pixels"], np.float32)}
        entries = document["latents"]
        return {name: np.asarray([entry[name] for entry in entries]) for name in ("mean", "log_variance")}


class V2:
    """The Open Inference Protocol over REST: tensors with names and shapes, flat JSON data or, with the binary
    extension, raw bytes behind a JSON head. Models are named ``encode_json``, ``encode_binary`` and so on.
    """

    def request(self, row: Row, workload: Workload) -> Request:
        array = array_of(row, workload)
        named = {"encode-json": ["mean", "log_variance"], "encode-binary": ["mean"], "decode-json": ["pixels"]}
        outputs: list[dict[str, Any]] = [
            {"name": name} for name in named.get(f"{row.operation}-{row.form}", ["levels"])
        ]
        tensor: dict[str, Any] = {
            "name": "latents" if row.operation == "decode" else "images",
            "shape": list(array.shape),
            "datatype": "UINT8" if row.form == "binary" and row.operation == "encode" else "FP32",
        }
        path = f"/v2/models/{row.operation}_{row.form}/infer"
        if row.form == "json":
            numbers = np.round(array.astype(np.float64) if row.operation == "decode" else array / 255, 4)
            document = {"inputs": [tensor | {"data": numbers.ravel().tolist()}], "outputs": outputs}
            return Request(path, {"Content-Type": JSON}, json.dumps(document, separators=(",", ":")).encode())
        raw = array.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        outputs = [output | {"parameters": {"binary_data": True}} for output in outputs]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}, separators=(",", ":")).encode()
        headers = {"Content-Type": BYTES, "Inference-Header-Content-Length": str(len(head))}
        return Request(path, headers, head + raw)

    def read(self, row: Row, body: bytes, workload: Workload) -> Arrays:
        # The head is the first JSON document of the body; what follows are the tensors that say how long they are.
        try:
            text = body.decode("latin-1")
            document, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            raise WrongAnswer(f"{row.request}: the answer is no JSON") from None
        kinds = {"FP32": np.float32, "UINT8": np.uint8}
        found: Arrays = {}
        for output in document.get("outputs", []):
            kind, shape = kinds[output["datatype"]], output["shape"]
            if "data" in output:
                found[output["name"]] = np.asarray(output["data"], kind).reshape(shape)
            else:
                size = output["parameters"]["binary_data_size"]
                found[output["name"]] = np.frombuffer(body[end : end + size], kind).reshape(shape)
                end += size
        return found


def read_json(row: Row, body: bytes) -> dict[str, Any]:
    """The object of a JSON answer."""
    try:
        document = orjson.loads(body)
    except ValueError:
        raise WrongAnswer(f"{row.request}: the answer is no JSON") from None
    if not isinstance(document, dict):
        raise WrongAnswer(f"{row.request}: the answer is no JSON object")
    return document


def read_png(row: Row, body: bytes, workload: Workload) -> Arrays:
    """The picture of a reconstruction, (1, H, W, C); a grid of samples is checked here."""
    try:
        with Image.open(io.BytesIO(body), formats=["PNG"]) as picture:
            pixels = np.asarray(picture.convert("L" if workload.graphs.channels == 1 else "RGB"))
    except OSError:
        raise WrongAnswer(f"{row.request}: the answer is no PNG") from None
    if row.operation == "sample":
        workload.check_grid(row, pixels)
        return {}
    return {"levels": pixels.reshape(1, *pixels.shape[:2], -1)}


def check_answer(dialect: Dialect, row: Row, status: int, body: bytes, workload: Workload) -> None:
    """Raises WrongAnswer unless it is a success that holds the right numbers."""
    if not 200 <= status < 300:
        raise WrongAnswer(f"{row.request}: status {status}: {body[:200].decode(errors='replace')}")
    try:
        found = dialect.read(row, body, workload)
    except (ValueError, KeyError, TypeError) as error:
        raise WrongAnswer(f"{row.request}: the answer cannot be read: {error!r}") from None
    workload.check(row, found)
