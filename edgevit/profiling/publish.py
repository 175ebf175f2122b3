"""Publishes results: one JSON object on each line of a file, and only figures that can be trusted."""

from __future__ import annotations

import json
from pathlib import Path

from edgevit.core.files import write_whole
from edgevit.errors import BadFile, CheckFailed
from edgevit.schema.profile import Profile

_CURE = "measure again on the device itself, idle and cool"


def check_publishable(profile: Profile) -> None:
    """Refuse a profile whose figures hold for no real device.

    Raises:
        CheckFailed: it is emulated, not stable, or its answers were not compared.
    """
    where = f"{profile.artifact.model} {profile.artifact.bundle} on {profile.device.uri}"
    if profile.emulated or profile.device.emulator:
        raise CheckFailed(
            f"an emulated profile is no device's and cannot be published ({profile.device.emulator or 'emulated'})",
            where=where,
            cure="measure on the device itself",
        )
    if profile.status != "stable":
        reasons = "; ".join(profile.reasons) or "it says so"
        raise CheckFailed(
            f"the profile is {profile.status} and cannot be published: {reasons}", where=where, cure=_CURE
        )
    if profile.answers is None or not profile.answers.equal or profile.latency is None:
        raise CheckFailed("the device's answers were not compared with the golden ones", where=where, cure=_CURE)


def publish(profiles: list[Profile], path: Path) -> None:
    """Append profiles to a file of results, without their single runs; all of them or none.

    Raises:
        CheckFailed: one of them cannot be published.
        BadFile: the file cannot be written.
    """
    for profile in profiles:
        check_publishable(profile)
    lines = [json.dumps({**profile.to_dict(), "samples_ms": []}, ensure_ascii=False) for profile in profiles]
    try:
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        write_whole(path, (kept + "".join(line + "\n" for line in lines)).encode())
    except OSError as error:
        raise BadFile(f"the results cannot be written: {error.strerror}", where=str(path)) from error
