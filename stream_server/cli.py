"""The `maskstream` command: serve, predict, config, and what other packages add (train, …).

A package adds a command by an entry point of the group `maskstream.commands`; so the trainer has
its place here and the server imports nothing of it.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, input or configuration, 130 ended by Ctrl-C.
Heavy libraries are imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import InputError, WeightsError
from stream_server.errors import MaskstreamError, SettingsError

if TYPE_CHECKING:
    from stream_server.settings import Settings

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="maskstream",
    help="Who wears a face mask, who does not, who wears it wrong: live from browsers and cameras.",
    epilog="Start with: maskstream serve --source demo=demo: and open http://127.0.0.1:8000/",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(
    help="Look at the configuration that serve and predict would use.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file with settings; $MASKSTREAM_CONFIG if not given.",
    ),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        "-s",
        metavar="NAME=URL",
        help="A camera or file: rtsp://, rtsps://, file://, demo: or a path. May be repeated.",
    ),
]


def main() -> None:
    """The console script."""
    sys.excepthook = _tell_bug
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Whatever the user did wrong is one line."""
    try:
        add_commands()
        # Calling `app` itself would put Typer's traceback printer in place of ours.
        command = typer.main.get_command(app)
        code = command.main(list(arguments), prog_name="maskstream", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _complain_of_usage(error)
    except (SettingsError, InputError) as error:
        return _complain(str(error), EXIT_USAGE)
    except (MaskstreamError, WeightsError) as error:
        return _complain(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as in `| head`; Python must not flush into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code if isinstance(code, int) else EXIT_OK


@cache
def add_commands() -> None:
    """Take in the commands of other packages, in the order of their names."""
    for entry in sorted(entry_points(group="maskstream.commands"), key=lambda entry: entry.name):
        try:
            added = entry.load()
        except ModuleNotFoundError as error:
            if error.name != "benchmarks":
                raise
            continue  # they are measured from a checkout, and not part of the wheel
        if isinstance(added, typer.Typer):
            app.add_typer(added, name=entry.name)
        else:
            app.command(entry.name)(added)


def _complain(text: str, code: int) -> int:
    from stream_server.telemetry.logging import redact

    for line in redact(text).splitlines():
        print(f"maskstream: {line}", file=sys.stderr)
    return code


def _complain_of_usage(error: typer.TyperException) -> int:
    message = error.format_message()
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
        return EXIT_USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "maskstream"
    message = message.split(", unable to parse")[0].rstrip(".?")
    return _complain(f"{message}; see {command} --help", EXIT_USAGE)


def _tell_bug(kind: type[BaseException], error: BaseException, traceback: object) -> None:
    """Nobody but a developer can read a traceback: one line says what broke, and where."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    _complain(
        f"this is a bug: {kind.__name__}: {error!s} ({place})".replace("\n", " "), EXIT_FAILED
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"maskstream {version('maskstream')}")
        except PackageNotFoundError:
            print("maskstream (not installed, run from its sources)")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Listen there [default: 127.0.0.1].")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="TCP port [default: 8000]; 0: a free one.")
    ] = None,
    source: SourceOption = None,
    tls_cert: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="PEM certificate; browsers give their camera to other machines by HTTPS only.",
        ),
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="PEM private key of --tls-cert.")
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="auto, console or json; auto: json if not a terminal."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    state_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where streams added through the page are remembered."),
    ] = None,
) -> int:
    """Serve the page, the API and all cameras until Ctrl-C or SIGTERM.

    \b
    Examples:
      maskstream serve --source demo=demo:
      maskstream serve --source gate=rtsp://USER:PASSWORD@192.168.1.20/stream1
      maskstream serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
      maskstream serve --config maskstream.yaml --log-format json
    """
    given = {
        "server.host": host,
        "server.port": port,
        "server.tls_cert": tls_cert,
        "server.tls_key": tls_key,
        "log.format": log_format,
        "log.level": log_level,
        "state_dir": state_dir,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    settings = _settings(config, {**overrides, **_sources(source or [])})
    from stream_server.app import serve as serve_app
    from stream_server.telemetry.logging import configure

    configure(settings.log.format, settings.log.level)
    return serve_app(settings)


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Pictures, videos, folders of them, globs; a camera by its number (0) or device; "
            "http(s):// and rtsp:// addresses.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Annotated pictures and videos (H.264 MP4) and faces.jsonl go there "
            "[default: maskstream-out, or nothing with --json or --show].",
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the faces, one JSON object a picture or video frame."),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Show them in a window; any key goes on to the next picture, q or Esc ends.",
        ),
    ] = False,
    config: ConfigOption = None,
) -> int:
    """Find and judge the faces in pictures, videos and cameras.

    Inputs that cannot be read are named at the end; the rest is done, and the exit code is 1.
    Ctrl-C ends a camera's recording, and it is kept.

    \b
    Examples:
      maskstream predict team.jpg
      maskstream predict clip.mp4 photos/ --out seen
      maskstream predict --json door.png
      maskstream predict 0 --show
      maskstream predict rtsp://USER:PASSWORD@192.168.1.20/stream1 --out seen
    """
    settings = _settings(config, {})
    from stream_server.predict import predict_files
    from stream_server.telemetry.logging import configure

    # Only what went wrong: the progress line is for everything else.
    configure(settings.log.format, "warning" if settings.log.level != "debug" else "debug")
    folder = out if out is not None or json or show else Path("maskstream-out")
    return predict_files(settings, inputs, folder, to_stdout=json, show=show)


@config_app.command("show")
def config_show(config: ConfigOption = None, source: SourceOption = None) -> None:
    """Print all settings as commented YAML, with passwords hidden.

    Every key can also be set by the environment: server.port is MASKSTREAM__SERVER__PORT.
    """
    from stream_server.settings import to_yaml

    print(to_yaml(_settings(config, _sources(source or []))), end="")


@config_app.command("check")
def config_check(config: ConfigOption = None, source: SourceOption = None) -> None:
    """Say whether the configuration is right; exit code 2 and the reasons if not."""
    from models.registry import resolve

    settings = _settings(config, _sources(source or []))
    try:
        resolve(settings.classifier.weights)
    except WeightsError as error:
        raise SettingsError(f"classifier.weights: {error}") from error
    count = len(settings.sources)
    print(f"The configuration is right: {count} {'stream' if count == 1 else 'streams'}.")


def _settings(config: Path | None, overrides: dict[str, object]) -> Settings:
    from stream_server.settings import load

    return load(config, overrides)


def _sources(given: Sequence[str]) -> dict[str, object]:
    """NAME=URL pairs as settings. Raises SettingsError."""
    from stream_server.errors import InvalidStreamName
    from stream_server.frames import check_stream_name

    sources: dict[str, object] = {}
    for pair in given:
        name, equals, url = pair.partition("=")
        if not equals or "/" in name or not url:
            raise SettingsError("--source: write NAME=URL, for example gate=rtsp://192.168.1.20/s1")
        try:
            key = f"sources.{check_stream_name(name)}"
        except InvalidStreamName as error:
            raise SettingsError(f"--source: {error}") from error
        if key in sources:
            raise SettingsError(f"--source: the name {name} is given twice; names must differ")
        sources[key] = url
    return sources
