"""Take out of an environment what the server never uses: ``python docker/slim.py SITE_PACKAGES``, in an image's build.

What is taken is listed here, each with its reason. tests/deployment/test_compose.py runs every kind of request on what
is left, and fails where a pattern has come to match nothing.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROTOBUF = "google"
UNNEEDED = (
    # A second build of the runtime, for C programs: the Python module has its own linked in.
    "onnxruntime/capi/libonnxruntime.so.*",
    # Tools for converting, shrinking and testing models.
    "onnxruntime/backend",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    # Required by those tools only.
    "flatbuffers",
    PROTOBUF,
    # For those who compile against NumPy, or test it.
    "numpy/_core/_*tests.*.so",
    "numpy/_core/_simd.*.so",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/random/lib",
    "numpy/**/tests",
    # Pictures are read by the formats that are named in model/bundle/pixels.py, and nothing is written on them.
    "PIL/_avif.*.so",
    "PIL/_imagingcms.*.so",
    "PIL/_imagingft.*.so",
    "PIL/_imagingtk.*.so",
    "pillow.libs/libavif-*",
    "pillow.libs/libbrotli*",
    "pillow.libs/libfreetype-*",
    "pillow.libs/libharfbuzz-*",
    "pillow.libs/liblcms2-*",
    "pillow.libs/libpng16-*",
    # Colours for source code and Markdown on a terminal: the command line prints neither.
    "markdown_it",
    "mdurl",
    "pygments",
    # The other page of documentation: ours is Swagger UI's.
    "fastapi_offline/static/redoc.standalone.js",
    # Sources of what is compiled, and what type checkers read.
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pxi",
)
STRIPPED = ("uvloop/*.so", "httptools/parser/*.so", "PIL/*.so")
"""Extension modules that were published with their debugging symbols: nine tenths of uvloop."""


def found(site: Path, pattern: str) -> Iterator[Path]:
    """What a pattern matches; a word on stderr if that is nothing."""
    paths = sorted(site.glob(pattern))
    if not paths:
        sys.stderr.write(f"slim: {pattern} matches nothing\n")
    yield from paths


def main(site: Path) -> None:
    """Delete, then strip."""
    speaks_protobuf = (site / "opentelemetry" / "exporter").exists()  # with the extra telemetry
    for pattern in UNNEEDED:
        if pattern == PROTOBUF and speaks_protobuf:
            continue
        for path in found(site, pattern):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():  # and not in a folder that has gone
                path.unlink()
    for pattern in STRIPPED:
        for path in found(site, pattern):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)  # noqa: S603, S607 (the image's own)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
