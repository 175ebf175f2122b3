"""The configuration: one TOML file, every key checked."""

from __future__ import annotations

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
    topic: str = Field("edgevit/classifier", pattern=r"^[^#+\x00]+$")
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
    """Read and check a file.

    Raises:
        BadConfig: missing, not TOML, an unknown key or a wrong value.
    """
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadConfig(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise BadConfig(f"{path}: {error}") from error
