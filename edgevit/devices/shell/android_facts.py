"""Parsers for the output of Android's commands: pure functions over text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HAL = "Current temperatures from HAL:"
_COOLING = "Current cooling devices"
_STATES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_BATTERY_STATES = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(?P<value>-?[\d.]+(?:E-?\d+)?), mType=-?\d+, mName=(?P<name>[^,}]+), mStatus=(?P<status>\d)"
)


@dataclass(frozen=True)
class Thermal:
    """`dumpsys thermalservice`, Android 10 and newer.

    Attributes:
        status: Android's throttling status; ``none`` if it does not throttle.
        temperature_c: by sensor, from the hardware where it says, otherwise as last seen.
        overridden: whether somebody set the status by hand.
    """

    status: str
    temperature_c: dict[str, float]
    overridden: bool


def parse_thermal(text: str) -> Thermal | None:
    """Parse ``dumpsys thermalservice``; None where the service is missing."""
    status = re.search(r"^\s*Thermal Status:\s*(\d+)", text, re.MULTILINE)
    if status is None:
        return None
    part = text.split(_HAL, 1)[1].split(_COOLING, 1)[0] if _HAL in text else text
    found = {one["name"].strip(): float(one["value"]) for one in _TEMPERATURE.finditer(part)}
    number = int(status[1])
    word = _STATES[number] if number < len(_STATES) else str(number)
    return Thermal(word, found, "IsStatusOverride: true" in text)


@dataclass(frozen=True)
class Battery:
    """`dumpsys battery`: level in percent, temperature in °C, whether it is being charged."""

    level: int
    temperature_c: float | None
    state: str
    plugged: bool


def parse_battery(text: str) -> Battery | None:
    """Parse ``dumpsys battery``; None without a battery."""
    pairs = (line.split(":", 1) for line in text.splitlines() if line.startswith("  ") and ":" in line)
    found = {key.strip(): value.strip() for key, value in pairs}
    if not found.get("level", "").isdigit():
        return None
    tenths, state = found.get("temperature", ""), found.get("status", "")
    return Battery(
        level=int(found["level"]) * 100 // max(1, int(found.get("scale") or 100)),
        temperature_c=int(tenths) / 10 if tenths.lstrip("-").isdigit() else None,
        state=_BATTERY_STATES.get(int(state), "unknown") if state.isdigit() else "unknown",
        plugged=any(key.endswith(" powered") and value == "true" for key, value in found.items()),
    )


def parse_properties(text: str) -> dict[str, str]:
    """Parse ``getprop``: ``[name]: [value]`` a line."""
    return dict(re.findall(r"^\[([^\]]+)\]: \[([^\]]*)\]$", text, re.MULTILINE))


def emulator_of(properties: dict[str, str]) -> str:
    """The name of Android's emulator, or an empty string on a real device."""
    flags = (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu"))
    return "Android Emulator" if "1" in flags else ""
