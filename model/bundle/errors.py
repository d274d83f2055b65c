"""Everything the bundle layer raises.

    BundleError                a bundle is refused: one line that names the file and the reason
      BundleNotFound           there is no bundle at that place
    ModelFault                 a graph failed, or produced NaN or infinity
    PictureError               a picture or an image array cannot be used
      PictureTooLarge          more pixels than allowed, known from the header alone
      PictureUnsupported       not one of the formats that are read
      PictureCorrupt           truncated or corrupt
      PictureMismatch          would have to be resized or change its channels, and that was refused
    OfflineError               a file of latents cannot be read, or an output cannot be written
      OutputError              nothing could be written there, known before any work
      CompressedError          pictures cannot be compressed by this bundle, or a compressed file cannot be read

The text of a `PictureError` is a sentence that a client may read: no path, no input, no library's own words.
"""


class BundleError(Exception):
    """A bundle is refused. The text is one line that names the file and the reason."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BundleNotFound(BundleError):
    """There is no bundle at that place."""


class ModelFault(RuntimeError):
    """A graph failed, or produced NaN or infinity."""


class PictureError(ValueError):
    """A picture or an image array cannot be used."""


class PictureTooLarge(PictureError):
    """The picture has more pixels than allowed; its header says so, nothing was decoded."""


class PictureUnsupported(PictureError):
    """The bytes are not a picture in one of the formats that are read."""


class PictureCorrupt(PictureError):
    """The picture is truncated or corrupt."""


class PictureMismatch(PictureError):
    """The picture has not the model's size or channels, and changing it was refused."""


class OfflineError(ValueError):
    """A file of latents cannot be read, or an output cannot be written. The text is one line."""


class OutputError(OfflineError):
    """Nothing could be written there: another name has to be given."""


class CompressedError(OfflineError):
    """Pictures cannot be compressed by this bundle, or what was compressed cannot be read back."""
