"""Pictures of what a model does, as PNG files: of a run (:func:`draw_run`), of a bundle (:func:`draw_bundle`)."""

from training.figures.draw import draw_bundle, draw_run

__all__ = ["draw_bundle", "draw_run"]
