"""`python -m classifier`: the service."""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import signal
import sys
import threading
from pathlib import Path

from classifier.config import BadConfig, Config, Log, read_config
from classifier.state import State
from classifier.systemd import notify

log = logging.getLogger("classifier")
_DEFAULT = Path(__file__).resolve().parents[1] / "classifier.toml"


def start_log(config: Log) -> None:
    """To standard error, or to files that are rotated."""
    handler: logging.Handler = logging.StreamHandler()
    if config.file:
        size = int(config.megabytes * 1e6)
        handler = logging.handlers.RotatingFileHandler(config.file, maxBytes=size, backupCount=config.kept)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("tornado.access").setLevel(logging.WARNING)


async def serve(config: Config) -> None:
    """Everything, until a signal or the end of the source."""
    from classifier.loop import Loop
    from classifier.mqtt import Publisher
    from classifier.page import listen
    from edgevit.bundle.loaded import load

    loop, ended, stop = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    model = load(config.model.folder)
    manifest = model.bundle.manifest
    if manifest.output.kind != "probabilities":
        raise BadConfig(f"the bundle gives {manifest.output.kind}; export it with --output probabilities")
    about = {
        "model": f"{manifest.model.name} ({manifest.target.precision})",
        "runtime": model.runtime,
        "source": config.input.source,
    }
    state = State(about, config.answer)
    try:
        port = listen(state, config.http.bind, config.http.port)
    except OSError as error:
        where = f"{config.http.bind}:{config.http.port}"
        raise BadConfig(f"the page cannot be served at {where}: {error.strerror}; [http] says where") from error
    publisher = Publisher(config.mqtt, state) if config.mqtt.host else None
    log.info("%s; http://%s:%s/", about["model"], config.http.bind, port)
    notify("READY=1")

    work = Loop(
        config.input,
        model,
        state,
        changed=publisher.publish if publisher else lambda: None,
        alive=lambda: notify("WATCHDOG=1"),
        stop=stop,
    )
    working = loop.run_in_executor(None, work.run)
    working.add_done_callback(lambda _: ended.set())
    try:
        await ended.wait()
    finally:
        notify("STOPPING=1")
        stop.set()
        try:
            await working
        finally:
            if publisher:
                publisher.publish()
                publisher.close()
            log.info("stopped after %s pictures", state.pictures)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m classifier", description="A camera classifier.")
    parser.add_argument("--config", type=Path, default=_DEFAULT)
    parser.add_argument("--input", help="in place of the file's: camera, a folder, a picture or a video")
    given = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from edgevit.errors import EdgevitError

    try:
        config = read_config(given.config)
        if given.input:
            config = config.model_copy(update={"input": config.input.model_copy(update={"source": given.input})})
        start_log(config.log)
        asyncio.run(serve(config))
    except (BadConfig, EdgevitError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return getattr(error, "exit_code", 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
