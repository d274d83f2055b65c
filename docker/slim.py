"""Take out of an environment what the server never uses: ``python docker/slim.py SITE_PACKAGES``, in an image's build.

What is taken is listed here, each with its reason. tests/deployment/test_compose.py runs every kind of request on what
is left. Versions are pinned, so a pattern that matches nothing is out of date: the build fails, and names it.
"""

import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

PROTOBUF = "google"
DISTUTILS = "numpy/distutils"
"""NumPy brings it for Python 3.11, and for none that is newer."""
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
    DISTUTILS,
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


def main(site: Path) -> None:
    """Delete, then strip."""
    speaks_protobuf = (site / "opentelemetry" / "exporter").exists()  # with the extra telemetry
    unneeded = [pattern for pattern in UNNEEDED if not (pattern == PROTOBUF and speaks_protobuf)]
    found = {pattern: sorted(site.glob(pattern)) for pattern in (*unneeded, *STRIPPED)}
    if stale := [pattern for pattern, paths in found.items() if not paths and pattern != DISTUTILS]:
        sys.exit(f"slim: nothing matches {', '.join(stale)}")
    for path in chain.from_iterable(found[pattern] for pattern in unneeded):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():  # and not in a folder that has gone
            path.unlink()
    for path in chain.from_iterable(found[pattern] for pattern in STRIPPED):
        if path.exists():
            subprocess.run(["strip", "--strip-unneeded", path], check=True)  # noqa: S603, S607 (the image's own)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
