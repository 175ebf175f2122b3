"""The configuration: one TOML file, every key checked."""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class BadConfig(Exception):
    """The file cannot be used; says where and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Part):
    """The bundle."""

    folder: Path = Path("model")


class Input(_Part):
    """Where pictures come from."""

    source: str = "camera"
    most_per_second: float = Field(5.0, gt=0)
    repeat: bool = True


class Reported(_Part):
    """What counts as an answer."""

    top: int = Field(5, ge=1)
    least: float = Field(0.5, ge=0, le=1)
    steady: int = Field(3, ge=1)


class Http(_Part):
    """The status page."""

    bind: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)


class Mqtt(_Part):
    """The broker; none without a host."""

    host: str = ""
    port: int = Field(1883, ge=1, le=65535)
    name: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    topic: str = Field("edgevit/classifier/{name}", pattern=r"^[^#+\x00]+$")
    username: str = ""
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    home_assistant: bool = True


class Log(_Part):
    """Where is written what happened."""

    file: str = ""
    megabytes: float = Field(5.0, gt=0)
    kept: int = Field(3, ge=0)


class Config(_Part):
    """The whole file; relative paths are relative to it."""

    model: Model = Model()
    input: Input = Input()
    answer: Reported = Reported()
    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    log: Log = Log()


def read_config(path: Path) -> Config:
    """Read and check a file; relative paths in it are relative to its folder, and a machine without a name gets one.

    Raises:
        BadConfig: missing, not TOML, an unknown key or a wrong value.
    """
    try:
        config = Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadConfig(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise BadConfig(f"{path}: {error}") from error
    return _completed(config, path.resolve())


def _completed(config: Config, path: Path) -> Config:
    folder = path.parent

    def beside(text: str) -> str:
        return str(folder / text) if text else ""

    mqtt, source = config.mqtt, config.input.source
    name = mqtt.name or machine_name(path)
    return config.model_copy(
        update={
            "model": Model(folder=folder / config.model.folder),
            "input": config.input.model_copy(update={"source": source if _no_path(source) else beside(source)}),
            "mqtt": mqtt.model_copy(
                update={
                    "name": name,
                    "topic": mqtt.topic.replace("{name}", name),
                    "password_file": beside(mqtt.password_file),
                    "ca_file": beside(mqtt.ca_file),
                }
            ),
            "log": config.log.model_copy(update={"file": beside(config.log.file)}),
        }
    )


def _no_path(source: str) -> bool:
    """Whether a source is a camera or standard input."""
    return source == "-" or source.partition(":")[0] == "camera"


def machine_name(path: Path) -> str:
    """A name for one app on one machine, at most 23 letters long, as the strictest brokers want it.

    A broker lets one connection of a name in and throws the other out. The host's name is not enough: Raspberry Pis
    are called alike, and are often copies of one card with one machine-id; their boards have serial numbers. The same
    app in two folders of one machine is two apps.
    """
    seen = [platform.node(), *map(_text, _MACHINE_FILES), str(path)]
    # The machine-id is to be kept from the network: only a digest of all is told.
    digest = hashlib.sha256("\n".join(["edgevit-classifier", *seen]).encode()).hexdigest()[:8]
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", platform.node().partition(".")[0])[:14].strip("-") or "host"
    return f"{host}-{digest}"


_MACHINE_FILES = ("/etc/machine-id", "/sys/firmware/devicetree/base/serial-number", "/proc/device-tree/serial-number")


def _text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""
