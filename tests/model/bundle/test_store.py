"""Which folders are bundles, why others are not, and how a bundle comes into place."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from model.bundle.errors import BundleError, BundleNotFound
from model.bundle.manifest import ImageSpec, LatentSpec
from model.bundle.runtime import RuntimeOptions
from model.bundle.store import open_bundle, publish, staging_folder, verify_files, write_manifest
from tests.support.tiny import decoder_graph, make_model, rewrite, tiny_weights, write_tiny_bundle

ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


def reason(folder: Path, **options: bool) -> str:
    """The one line with which a folder is refused, without the folder."""
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, ONE_THREAD, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(folder))
    return line.removeprefix(str(folder)).lstrip("/: ")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


def test_a_valid_bundle_opens(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000
    bundle = open_bundle(folder, ONE_THREAD)
    assert (bundle.name, bundle.version, bundle.provider) == ("tiny", "1", "cpu")
    assert bundle.manifest == verify_files(folder)
    assert bundle.card().startswith("# tiny")
    assert capfd.readouterr() == ("", "")


def test_the_folder_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder, target_is_directory=True)
    assert open_bundle(tmp_path / "current", ONE_THREAD).name == "tiny"


@pytest.mark.parametrize("make", [lambda path: None, Path.touch])
def test_nothing_there(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "nothing")
    with pytest.raises(BundleNotFound, match="no bundle there"):
        open_bundle(tmp_path / "nothing")


# --- the manifest


def test_missing_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert reason(folder) == "manifest.json: missing"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_manifest_that_is_not_json(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    assert reason(folder) == "manifest.json: not JSON"


@pytest.mark.parametrize("version", [0, 2, "1", None, {}, True])
def test_unknown_schema_version(folder: Path, version: object) -> None:
    edit(folder, lambda raw: raw.update(schema_version=version))
    assert reason(folder).startswith("manifest.json: schema")


def test_manifest_that_is_no_object(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    assert reason(folder).startswith("manifest.json: schema version None")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: raw.update(surprise=1), "surprise: Extra inputs"),
        (lambda raw: raw["image"].update(surprise=1), "image.surprise: Extra inputs"),
        (lambda raw: raw.update(name="../tiny"), "name: "),
        (lambda raw: raw.update(version="v 1"), "version: "),
        (lambda raw: raw.pop("image"), "image: Field required"),
        (lambda raw: raw["image"].update(height="8"), "image.height: "),
        (lambda raw: raw["image"].update(height=16), "manifest: Value error, the signatures"),
        (lambda raw: raw["graphs"]["encoder"].update(file="other.onnx"), "manifest: Value error, the signatures"),
        (lambda raw: raw["files"].pop("golden.npz"), "lists no golden.npz"),
        (lambda raw: raw["files"].pop("encoder.onnx"), "lists no encoder.onnx"),
        (lambda raw: raw["files"].pop("MODEL_CARD.md"), "lists no MODEL_CARD.md"),
    ],
)
def test_manifest_that_is_wrong(folder: Path, change: Callable[[dict[str, Any]], object], expected: str) -> None:
    edit(folder, change)
    assert reason(folder).startswith(f"manifest.json: {expected}")


# --- the files


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "golden.npz", "MODEL_CARD.md"])
def test_every_file_is_needed_and_hashed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert reason(folder) == f"{name}: its SHA-256 is not the manifest's"
    (folder / name).unlink()
    assert reason(folder) == f"{name}: missing"


def test_extra_files_and_folders(folder: Path) -> None:
    (folder / "run\nme.py").touch()
    assert reason(folder) == "'run\\nme.py' is not in the manifest"
    (folder / "run\nme.py").unlink()
    (folder / "more").mkdir()
    assert reason(folder) == "'more' is not in the manifest"


@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_symbolic_links(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert reason(folder) == f"{name}: not a plain file (symbolic links are refused)"


def test_what_is_no_file(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    os.mkfifo(folder / "encoder.onnx")
    assert reason(folder).startswith("encoder.onnx: not a plain file")


@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_hard_links(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").hardlink_to(folder / name)
    assert reason(folder) == f"{name}: is a hard link, which another name could change"
    assert open_bundle(folder, ONE_THREAD, allow_hard_links=True).name == "tiny"
    assert verify_files(folder, allow_hard_links=True).name == "tiny"


def test_unreadable_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert reason(folder) == "manifest.json: cannot be read (Permission denied)"


# --- the graphs


def random_decoder(operator: str) -> onnx.ModelProto:
    model = decoder_graph(ImageSpec(height=8, width=8, channels=1), LatentSpec(dim=2), tiny_weights_of_tiny())
    model.graph.node.append(helper.make_node(operator, [], ["unused"], shape=[1]))
    return model


def tiny_weights_of_tiny() -> dict[str, np.ndarray]:
    return tiny_weights(ImageSpec(height=8, width=8, channels=1), LatentSpec(dim=2))


@pytest.mark.parametrize("operator", ["RandomNormal", "RandomUniform"])
def test_random_operators(folder: Path, operator: str) -> None:
    (folder / "decoder.onnx").write_bytes(random_decoder(operator).SerializeToString())
    rewrite(folder)
    assert reason(folder) == f"decoder.onnx: holds the random operator {operator}"


def test_external_data(folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    onnx.save(model, folder / "encoder.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    rewrite(folder)
    assert reason(folder) == "encoder.onnx: its weights lie outside the file"


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04\x95pickle"])
def test_other_files_as_graphs(folder: Path, data: bytes) -> None:
    (folder / "encoder.onnx").write_bytes(data)
    rewrite(folder)
    assert reason(folder).startswith("encoder.onnx: not an ONNX file (")


def test_graphs_that_do_not_load(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = make_model(
        [helper.make_node("NoSuchOperator", ["latent"], ["image"])],
        inputs={"latent": ["N", 2]},
        outputs={"image": ["N", 1, 8, 8]},
        constants={},
    )
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    rewrite(folder)
    assert reason(folder) == "decoder.onnx: ONNX Runtime cannot load it"
    assert capfd.readouterr() == ("", "")


def declared(model: onnx.ModelProto, change: str) -> onnx.ModelProto:
    """The tiny decoder with another signature."""
    value = model.graph.input[0]
    axes = value.type.tensor_type.shape.dim
    if change == "name":
        value.name = "z"
        model.graph.node[0].input[0] = "z"
    elif change == "type":
        model.graph.node.insert(0, helper.make_node("Cast", ["latent"], ["single"], to=TensorProto.FLOAT))
        model.graph.node[1].input[0] = "single"
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    elif change == "fixed batch":
        axes[0].dim_value = 1
    elif change == "free dimension":
        axes[1].dim_param = "D"
    elif change == "more outputs":
        model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 64]))
    return model


@pytest.mark.parametrize("change", ["name", "type", "fixed batch", "free dimension", "more outputs"])
def test_other_signatures(folder: Path, change: str) -> None:
    model = declared(onnx.load(folder / "decoder.onnx"), change)
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    rewrite(folder)
    role = "outputs" if change == "more outputs" else "inputs"
    assert reason(folder).startswith(f"decoder.onnx: its {role} are not what the manifest says")


def test_batch_axis_may_have_any_name(folder: Path) -> None:
    model = onnx.load(folder / "decoder.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "s77"
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    rewrite(folder)
    assert open_bundle(folder, ONE_THREAD).name == "tiny"


# --- the golden sample


def regild(folder: Path, **changes: np.ndarray | None) -> None:
    with np.load(folder / "golden.npz") as archive:
        arrays = {key: archive[key] for key in archive.files} | changes
    np.savez(folder / "golden.npz", **{key: value for key, value in arrays.items() if value is not None})
    rewrite(folder)


@pytest.mark.parametrize("key", ["mean", "log_variance", "reconstruction"])
@pytest.mark.parametrize("value", [0.01, np.nan])
def test_golden_mismatch(folder: Path, key: str, value: float) -> None:
    with np.load(folder / "golden.npz") as archive:
        numbers = archive[key]
    numbers.flat[-1] += value
    regild(folder, **{key: numbers})
    # The decoder is asked about the golden mean, so the encoder, asked first, is the one to answer for it.
    assert reason(folder).startswith(f"golden.npz: {key} differs from the golden sample by ")


def test_other_weights_do_not_pass_for_the_real_ones(folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    weights = bytearray(model.graph.initializer[0].raw_data)
    weights[:64] = b"\0" * 64
    model.graph.initializer[0].raw_data = bytes(weights)
    (folder / "encoder.onnx").write_bytes(model.SerializeToString())
    rewrite(folder)
    assert reason(folder).startswith("golden.npz: mean differs")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mean": None}, "holds "),
        ({"surprise": np.zeros(1)}, "holds "),
        ({"images": np.zeros((3, 8, 8, 3), np.uint8)}, "images has not the shape"),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, "images has not the shape"),
        ({"images": np.array(3, np.uint8)}, "images has not the shape"),
        ({"mean": np.zeros((2, 2), np.float32)}, "mean has not the shape"),
        ({"mean": np.zeros((3, 2))}, "mean has not the shape or type"),
    ],
)
def test_golden_samples_of_another_kind(folder: Path, changes: dict[str, np.ndarray | None], expected: str) -> None:
    regild(folder, **changes)
    assert reason(folder).startswith(f"golden.npz: {expected}")


class Pickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def lying_npz(compression: int) -> bytes:
    """An npz file of an array that claims a petabyte, or whose compressed bytes are none."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (2**50,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("images.npy", array.getvalue())
    data = bytearray(buffer.getvalue())
    if compression != zipfile.ZIP_STORED:
        data[50:80] = b"\xff" * 30
    return bytes(data)


@pytest.mark.parametrize("content", ["pickle", "npy", "text", "huge", "lzma", "bzip2", "deflate"])
def test_golden_samples_that_are_no_plain_arrays(folder: Path, content: str) -> None:
    trace = folder.parent / "the-pickle-was-run"
    buffer = io.BytesIO(b"hello" if content == "text" else b"")
    if content == "pickle":
        np.savez(buffer, images=np.array([Pickled(trace)], object))
    elif content == "npy":
        np.save(buffer, np.zeros(3))
    elif content != "text":
        methods = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2, "deflate": zipfile.ZIP_DEFLATED}
        buffer.write(lying_npz(methods.get(content, zipfile.ZIP_STORED)))
    (folder / "golden.npz").write_bytes(buffer.getvalue())
    rewrite(folder)
    assert reason(folder) == "golden.npz: not an npz file of arrays"
    assert not trace.exists()


def test_cards_are_text(folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_bytes(b"\xff\xfe")
    rewrite(folder)
    assert reason(folder) == "MODEL_CARD.md: not UTF-8"


# --- publishing


def version_at(folder: Path) -> str:
    return open_bundle(folder, ONE_THREAD).version


def staged(destination: Path, version: str) -> Path:
    return write_tiny_bundle(destination.with_name(f"staged-{version}"), version=version)


def test_manifest_is_written_with_the_hashes_of_all_files(folder: Path) -> None:
    (folder / "extra.txt").write_text("more")
    manifest = write_manifest(folder, verify_files_of(folder))
    assert manifest.files.keys() == {file.name for file in folder.iterdir()} - {"manifest.json"}
    assert verify_files(folder) == manifest


def verify_files_of(folder: Path) -> Any:
    (folder / "extra.txt").rename(folder.parent / "extra.txt")
    manifest = verify_files(folder)
    (folder.parent / "extra.txt").rename(folder / "extra.txt")
    return manifest


def test_publish_and_replace(tmp_path: Path) -> None:
    destination = tmp_path / "out" / "tiny"
    with staging_folder(destination) as staging:
        write_tiny_bundle(staging, version="1")
        publish(staging, destination)
    assert version_at(destination) == "1"
    with staging_folder(destination) as staging:
        write_tiny_bundle(staging, version="2")
        with pytest.raises(BundleError, match="exists already"):
            publish(staging, destination)
        assert version_at(destination) == "1"
        publish(staging, destination, replace=True)
    assert version_at(destination) == "2"
    assert [path.name for path in destination.parent.iterdir()] == ["tiny"]


def test_publish_to_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = staged(tmp_path / "tiny", "1")
    (tmp_path / "tiny" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tiny" / "inner")
    publish(staging, Path())
    assert version_at(tmp_path / "tiny" / "inner") == "1"
    with pytest.raises(BundleError, match="no place"), staging_folder(Path("/")):
        pass


def test_an_unfit_bundle_is_never_published(tmp_path: Path) -> None:
    destination = write_tiny_bundle(tmp_path / "tiny", version="1")
    staging = staged(destination, "2")
    (staging / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="SHA-256"):
        publish(staging, destination, replace=True)
    assert version_at(destination) == "1"


def test_staging_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop() -> None:
        with staging_folder(tmp_path / "tiny") as staging:
            (staging / "encoder.onnx").touch()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_rename_that_fails_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    destination = write_tiny_bundle(tmp_path / "tiny", version="1")
    staging = staged(destination, "2")
    rename, calls = Path.rename, 0

    def sometimes(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(BundleError if isinstance(error, OSError) else KeyboardInterrupt):
        publish(staging, destination, replace=True)
    monkeypatch.undo()
    assert version_at(destination) == "1"
    assert version_at(staging) == "2"
    publish(staging, destination, replace=True)
    assert version_at(destination) == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_crash_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    """What a kill leaves then: the old bundle under its hidden name, and no destination."""
    destination = write_tiny_bundle(tmp_path / "tiny", version="1")
    staging = staged(destination, "2")
    destination.rename(tmp_path / ".tiny.previous")
    with pytest.raises(BundleError, match="exists already"):
        publish(staging, destination)
    assert version_at(destination) == "1"
    publish(staging, destination, replace=True)
    assert version_at(destination) == "2"


def test_what_a_crash_left_after_the_renames_is_cleared(tmp_path: Path) -> None:
    destination = write_tiny_bundle(tmp_path / "tiny", version="2")
    write_tiny_bundle(tmp_path / ".tiny.previous", version="1")
    publish(staged(destination, "3"), destination, replace=True)
    assert version_at(destination) == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_half_deleted_bundle_is_not_put_back(tmp_path: Path) -> None:
    half = write_tiny_bundle(tmp_path / ".tiny.previous", version="1")
    (half / "manifest.json").unlink()
    publish(staged(tmp_path / "tiny", "2"), tmp_path / "tiny")
    assert version_at(tmp_path / "tiny") == "2"


def test_only_bundles_and_empty_folders_are_replaced(tmp_path: Path) -> None:
    destination = tmp_path / "pictures"
    destination.mkdir()
    (destination / "dear.png").touch()
    (destination / "manifest.json").touch()  # of a web page, say
    staging = staged(destination, "1")
    with pytest.raises(BundleError, match="no bundle"):
        publish(staging, destination, replace=True)
    assert (destination / "dear.png").exists()
    (destination / "dear.png").unlink()
    (destination / "manifest.json").unlink()
    publish(staging, destination)
    assert version_at(destination) == "1"


def test_files_and_links_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(write_tiny_bundle(tmp_path / "tiny"))
    staging = staged(tmp_path / "tiny", "2")
    for name, message in (("file", "is a file"), ("link", "symbolic link")):
        with pytest.raises(BundleError, match=message):
            publish(staging, tmp_path / name, replace=True)
