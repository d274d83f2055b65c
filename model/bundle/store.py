"""Bundles on disk: verify, open, publish.

A folder is believed only when every file is a plain file, all and only the files of the manifest are there, and each
has its SHA-256. The bytes that were hashed are the bytes that run: files are read once. The folder itself may be
reached through a symbolic link, as deployments do; nothing in it may be one.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from model.bundle.errors import BundleError, BundleNotFound
from model.bundle.files import sha256_of, sync, write_text_atomically
from model.bundle.graphs import inspect_graph
from model.bundle.manifest import DECODER, ENCODER, MANIFEST, SCHEMA_VERSION, Manifest
from model.bundle.runtime import Bundle, RuntimeOptions


def open_bundle(folder: Path, options: RuntimeOptions | None = None, *, allow_hard_links: bool = False) -> Bundle:
    """Verify a bundle, start its sessions and hold them against the golden sample.

    Hard links are refused, since who holds the other name may change the file; `allow_hard_links` is for folders that
    a package installer put there (some link files from their cache). Raises BundleError, one line.
    """
    manifest, contents = _read(folder, allow_hard_links=allow_hard_links)
    for graph in manifest.graphs.present().values():
        try:
            found = inspect_graph(contents[graph.file])
        except ValueError as error:
            raise BundleError(f"{folder}/{graph.file}: not an ONNX file ({error})") from None
        if found.external_data:
            raise BundleError(f"{folder}/{graph.file}: its weights lie outside the file")
        if found.random:
            raise BundleError(f"{folder}/{graph.file}: holds the random operator {', '.join(found.random)}")
    bundle = Bundle(folder, manifest, contents, options or RuntimeOptions())
    bundle.self_test()
    return bundle


def verify_files(folder: Path, *, allow_hard_links: bool = False) -> Manifest:
    """Verify the manifest and the files, without starting a session. Raises BundleError, one line."""
    return _read(folder, allow_hard_links=allow_hard_links)[0]


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write manifest.json, last, with the SHA-256 of every other file in the folder; the manifest as written."""
    hashes = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    complete = Manifest.model_validate({**manifest.model_dump(), "files": hashes})
    write_text_atomically(folder / MANIFEST, complete.model_dump_json(indent=2) + "\n")
    return complete


@contextlib.contextmanager
def staging_folder(destination: Path) -> Iterator[Path]:
    """A new empty folder beside the destination, on the same file system, gone afterwards unless it was published."""
    destination = _named(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.staging")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staging: Path, destination: Path, *, replace: bool = False) -> None:
    """Rename a finished bundle into place, durably; with `replace`, instead of an older bundle.

    The older one is set aside under a hidden name, and deleted only when the new one is in place; where that fails it
    is put back, and after a crash in between the next publish puts it back first. Raises BundleError where the staged
    bundle is unfit, where something is in the way, or where the disk refuses.
    """
    verify_files(staging)
    destination = _named(destination)
    previous = destination.with_name(f".{destination.name}.previous")
    try:
        for path in sorted(staging.iterdir()):
            sync(path)
        sync(staging)
        if (previous / MANIFEST).exists() and not destination.exists():
            previous.rename(destination)
        _check_replaceable(destination, replace=replace)
        _discard(previous)
        if destination.exists():
            destination.rename(previous)
        try:
            staging.rename(destination)
        except BaseException:
            if previous.exists():
                previous.rename(destination)
            raise
        sync(destination.parent)
    except OSError as error:
        raise BundleError(f"{destination}: could not be put in place ({error.strerror or error})") from error
    _discard(previous)


def _named(destination: Path) -> Path:
    """`.` and `..` as the folders they stand for: with a name, and a parent to be renamed in."""
    named = destination.resolve() if destination.name in ("", "..") else destination
    if not named.name:
        raise BundleError(f"{destination}: no place for a bundle")
    return named


def _discard(folder: Path) -> None:
    """Delete a bundle, its manifest first: what a crash leaves of it is then no bundle, and never put back as one."""
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(destination: Path, *, replace: bool) -> None:
    if destination.is_symlink():
        raise BundleError(f"{destination}: is a symbolic link, and nothing is published through one")
    if not destination.exists():
        return
    if not destination.is_dir():
        raise BundleError(f"{destination}: is a file")
    if not any(destination.iterdir()):
        return
    # Not the manifest alone: web pages have one of the same name, and what is replaced is deleted.
    if not all((destination / name).is_file() for name in (MANIFEST, ENCODER, DECODER)):
        raise BundleError(f"{destination}: is a folder with other things in it, and no bundle")
    if not replace:
        raise BundleError(f"{destination}: exists already, and replacing it was not asked for")


def _read(folder: Path, *, allow_hard_links: bool) -> tuple[Manifest, dict[str, bytes]]:
    try:
        if not folder.is_dir():
            raise BundleNotFound(f"{folder}: no bundle there")
        present = {entry.name for entry in os.scandir(folder)}
        if MANIFEST not in present:
            raise BundleError(f"{folder}/{MANIFEST}: missing")
        document = _read_file(folder / MANIFEST, allow_hard_links=allow_hard_links)
        manifest = _parse(folder, document)
        listed = set(manifest.files)
        for name in sorted(manifest.required() - listed):
            raise BundleError(f"{folder}/{MANIFEST}: lists no {name}")
        for name in sorted(listed - present):
            raise BundleError(f"{folder}/{name}: missing")
        for name in sorted(present - listed - {MANIFEST}):
            raise BundleError(f"{folder}: {name!r} is not in the manifest")
        contents = {MANIFEST: document}
        for name, expected in manifest.files.items():
            data = _read_file(folder / name, allow_hard_links=allow_hard_links)
            if hashlib.sha256(data).hexdigest() != expected:
                raise BundleError(f"{folder}/{name}: its SHA-256 is not the manifest's")
            contents[name] = data
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from error
    return manifest, contents


def _read_file(path: Path, *, allow_hard_links: bool) -> bytes:
    if not stat.S_ISREG(path.lstat().st_mode):  # before opening: a pipe would wait for a writer
        raise BundleError(f"{path}: not a plain file (symbolic links are refused)")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_nlink > 1 and not allow_hard_links:
            raise BundleError(f"{path}: is a hard link, which another name could change")
        return file.read()


def _parse(folder: Path, data: bytes) -> Manifest:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise BundleError(f"{folder}/{MANIFEST}: not JSON") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f"{folder}/{MANIFEST}: schema version {version!r} and not {SCHEMA_VERSION}, which is read here"
        )
    try:
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleError(f"{folder}/{MANIFEST}: {where}: {first['msg']}") from None
