"""Every error that training raises on purpose; ``str()`` is what a person at a terminal reads.

::

    TrainingError
    ├── ConfigError        a configuration that cannot be used
    ├── DataError          images that cannot be found, read or divided
    ├── CheckpointError    a checkpoint that is missing, damaged or of another run
    ├── CompilationFailed  a step that was to be compiled could not be
    ├── NonFiniteLoss      the loss became NaN or infinite
    ├── NonFiniteMetric    what was measured is NaN or infinite
    ├── ProcessLost        another process of the run is gone
    └── ExportError        the exported graphs and the trained model disagree
"""


class TrainingError(Exception):
    """The root: caught once, by the command line."""


class ConfigError(TrainingError):
    """A configuration that cannot be used."""


class DataError(TrainingError):
    """Images that cannot be found, read or divided."""


class CheckpointError(TrainingError):
    """A checkpoint that is missing, damaged or of another run."""


class CompilationFailed(TrainingError):
    """A step that was to be compiled could not be: training stops, the last checkpoint stays."""


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite: training stops, the last good checkpoint stays."""


class NonFiniteMetric(TrainingError):
    """What was measured of a test image is NaN or infinite: nothing is written."""


class ProcessLost(TrainingError):
    """Another process of the run is gone: none can go on, and the last checkpoint stays."""


class ExportError(TrainingError):
    """The exported graphs and the trained model disagree: nothing was published."""
