"""Which bundles a server opens, and how: from settings to bundles that are verified and ready to run."""

from collections.abc import Collection, Iterator

from app.cores import usable_cores
from app.settings import PRETRAINED, Settings
from model.bundle.errors import BundleError
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.store import open_bundle


def runs_at_a_time(settings: Settings) -> int:
    """How many graphs may run beside each other in this process: its share of the cores, by the threads of a run."""
    return settings.parallel_runs or max(1, usable_cores() // (settings.workers * settings.threads))


def open_bundles(settings: Settings) -> Iterator[Bundle]:
    """Every bundle that the settings name, in order. Raises BundleError, one line, at the first that is unfit."""
    options = RuntimeOptions(
        provider=settings.provider,
        threads=settings.threads,
        require_provider=settings.require_provider,
    )
    shelf = settings.models_folder
    if shelf is not None and not shelf.is_dir():
        raise BundleError(f"{shelf}: there is no such folder of bundles")
    names: set[str] = set()
    for folder in settings.bundle_folders():
        # Package installers may hard-link what they install; elsewhere a hard link is another one's handle.
        bundle = open_bundle(folder, options, allow_hard_links=folder == PRETRAINED)
        if bundle.name in names:
            raise BundleError(
                f"{folder}: there is another bundle named {bundle.name}; one server cannot have both, since a "
                "model is called by the name in its manifest"
            )
        names.add(bundle.name)
        yield bundle
    if not names:
        raise BundleError(f"{shelf}: there is no bundle in this folder")


def default_name(settings: Settings, names: Collection[str]) -> str:
    """The model that answers where none is named. Raises BundleError if the settings want one that is not there."""
    default = settings.default_model or next(iter(names))
    if default not in names:
        raise BundleError(f"the default model {default} is not among the bundles: {', '.join(names)}")
    return default
