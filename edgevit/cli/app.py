"""The `edgevit` command: finds the commands, reads the configuration, ends with the right status."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit.cli.config import read_config
from edgevit.cli.console import error_document, headed, literal, print_error, print_json, stderr
from edgevit.core.disk import disk_full, is_disk_full
from edgevit.errors import EdgevitError

_MESSAGE_LIMIT = 300
"""Characters of a foreign error's first line; the whole of it is in the log."""

_COMMANDS = (
    "models",
    "targets",
    "doctor",
    "inspect",
    "export",
    "quantize",
    "verify",
    "predict",
    "evaluate",
    "profile",
    "compare",
    "devices",
    "split",
    "fleet",
    "apps",
    "bundle",
    "cache",
)

app = typer.Typer(
    name="edgevit",
    help="Vision transformers for phones, Raspberry Pis and browsers: export, quantize, verify, run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "EDGEVIT"},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("edgevit"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Twice: show the traceback of an error.")
    ] = 0,
) -> None:
    """Options before the command."""


for _name in _COMMANDS:
    import_module(f"edgevit.cli.{_name}").register(app)


def main() -> None:
    """Run the command line; never returns."""
    from edgevit.core.own_process import claim_process

    claim_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name that the terminal's encoding lacks is no reason to end
    try:
        _run()
    except SystemExit as end:
        if "zenoh" in sys.modules:
            # its threads outlive its sessions; one that meets an interpreter that is taken down aborts the process
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(int(end.code or 0))
        raise


def _run() -> None:
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        command = typer.main.get_command(app)
        command(prog_name="edgevit", default_map=_defaults(command))
    except EdgevitError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if is_disk_full(error):
            _fail(disk_full(getattr(error, "filename", None) or ""))
        _bug(error)


def _defaults(command: Any) -> dict[str, dict[str, Any]]:
    options = {name: {param.name for param in sub.params} for name, sub in command.commands.items()}
    return read_config(Path.cwd(), options)


def _shows_traceback() -> bool:
    short = sum(arg.count("v") for arg in sys.argv[1:] if arg.startswith("-") and set(arg[1:]) == {"v"})
    return short + sys.argv.count("--verbose") >= 2


def _fail(error: EdgevitError) -> None:
    if _shows_traceback():
        traceback.print_exc()
    if "--json" in sys.argv:
        print_json({"error": error_document(error)})
    print_error(error)
    sys.exit(error.exit_code)


def _bug(error: Exception) -> None:
    from edgevit.core.files import cache_folder

    text = "".join(traceback.format_exception(error))
    if _shows_traceback():
        sys.stderr.write(text)
    log = cache_folder() / "logs" / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text, encoding="utf-8", errors="backslashreplace")
        kept = f"traceback: {log}"
    except OSError:
        kept = "the traceback could not be written; run again with -vv"
    message = (str(error).splitlines() or [""])[0]
    console = stderr()
    text = f"something inside edgevit went wrong: {type(error).__name__}: {message[:_MESSAGE_LIMIT]}"
    console.print(headed("error:", "bold red", text))
    console.print(f"  {literal(kept)}", style="dim")
    sys.exit(1)


if __name__ == "__main__":
    main()
