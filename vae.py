"""The command line. It only parses: what a command does is in `app`, `training` or `model.bundle`."""

from model.bundle.interrupts import quick_exit

with quick_exit():
    import sys
    from importlib import metadata
    from typing import Annotated

    import typer

    from app import options
    from app.errors import ConfigurationError
    from app.settings import Settings
    from commands import bundles, compression, training
    from commands.shared import INTERRUPTED, WRONG_USAGE, fail
    from model.bundle.errors import BundleError, ModelFault, OfflineError, OutputError, PictureError

cli = typer.Typer(
    help="Train a variational autoencoder on your own images, measure it, and serve it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit code 1 or 2, never in a traceback."""
    try:
        cli(prog_name="vae")
    except (ConfigurationError, OutputError) as error:
        fail(str(error), WRONG_USAGE)
    except (BundleError, PictureError, OfflineError, ModelFault) as error:
        fail(str(error))
    except OSError as error:
        if error.strerror is None:
            raise
        fail(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentserve {metadata.version('latentserve')}")
        raise typer.Exit


@cli.callback()
def _cli(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@cli.command()
@options.takes_settings
def serve(settings: Settings) -> None:
    """Serve bundles over HTTP. Every option is also an environment variable; an option that is given wins."""
    from app.main import serve

    serve(settings)


@cli.command()
@options.takes_settings
def doctor(settings: Settings) -> None:
    """Tell what `vae serve` would do with the same options: versions, providers, bundles, limits. Starts nothing."""
    from app.doctor import examine

    raise typer.Exit(0 if examine(settings, typer.echo) else 1)


cli.command()(training.train)
cli.command()(training.evaluate)
cli.command()(training.export)
cli.command()(training.figures)
cli.command()(training.compare)
cli.command()(bundles.encode)
cli.command()(bundles.score)
cli.command()(bundles.decode)
cli.command()(bundles.sample)
cli.command("interpolate")(bundles.interpolate_pictures)
cli.command()(compression.compress)
cli.command()(compression.decompress)
of_bundles = typer.Typer(help="Look after bundles.", no_args_is_help=True, rich_markup_mode=None)
of_bundles.command()(bundles.verify)
cli.add_typer(of_bundles, name="bundle")

if __name__ == "__main__":
    main()
