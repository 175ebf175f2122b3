"""Renders profiles as one HTML page and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgevit.report.charts import Series, Spot, bars, dots, histogram, lines, scatter
from edgevit.report.page import cards, page, table
from edgevit.schema.profile import Conditions, Profile

_OPERATORS = 25
"""The slowest operators that a chart shows; a model has hundreds."""
_COLOURS = ("bar", "warm", "bad")
_MOST_LINES = 3
"""Lines in one chart, a colour each."""
_TITLES = {
    "stable": "stable",
    "unstable": "unstable: do not quote this figure",
    "partial": "partial: it broke off",
    "wrong": "wrong: the device computes something else",
}


def device_name(profile: Profile) -> str:
    """The name of the machine, or that it is emulated."""
    device = profile.device
    if profile.emulated:
        return f"emulated {device.machine} ({device.emulator}), no device"
    return device.model or device.details.get("browser") or ", ".join(device.cores) or device.machine or device.uri


def bundle_name(profile: Profile) -> str:
    """Model, format and precision of a bundle as one name."""
    return f"{profile.artifact.model} {profile.artifact.bundle}"


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits."""
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def megabytes(count: int | None) -> str:
    """A number of bytes in MB (1e6) with one decimal, or a dash where it is unknown."""
    return "–" if count is None else f"{count / 1e6:.1f} MB"


def interval(profile: Profile) -> str:
    """The confidence interval of the median latency, ``low–high`` in milliseconds, or a dash without one."""
    found = profile.latency
    return "–" if found is None else f"{found.low:.3g}–{found.high:.3g}"


def runtime_name(profile: Profile) -> str:
    """Runtime, version, accelerator and threads that executed the model, or a dash where unknown."""
    run = profile.runtime
    if run is None:
        return "–"
    where = "" if run.accelerator == "cpu" else f", {run.accelerator}"
    return f"{run.name} {run.version}, {run.threads} thread{'s' if run.threads > 1 else ''}{where}"


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """The points (latency, accuracy) that no other point beats in both."""
    return [not any((x <= a and y >= b and (x, y) != (a, b)) for x, y in points) for a, b in points]


def _facts(profile: Profile) -> dict[str, str]:
    found, energy = profile.latency, profile.energy
    facts: dict[str, str] = {}
    if found is not None:
        facts |= {"median": ms(found.median), "95 % interval": f"{interval(profile)} ms"}
        facts |= {"p90": ms(found.p90), "p99": ms(found.p99)}
    facts |= {"first inference": ms(profile.first_ms), "load": ms(profile.load_ms)}
    facts |= {"peak memory": megabytes(profile.memory.peak), "the model's part": megabytes(profile.memory.model)}
    if energy is not None:
        facts["energy per inference"] = f"{energy.joules * 1e3:.3g} mJ"
    if profile.artifact.accuracy is not None:
        facts["accuracy"] = f"{profile.artifact.accuracy:.2%}"
    return facts


def _stamp(profile: Profile) -> str:
    colour = "var(--bar)" if profile.status == "stable" and not profile.emulated else "var(--bad)"
    text = _TITLES[profile.status]
    if profile.emulated:
        text = f"EMULATED, not a device's figure; {text}"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in (*profile.reasons, *profile.notes))
    return f'<p><b style="color:{colour}">{escape(text)}</b></p>' + (f"<ul>{reasons}</ul>" if reasons else "")


def _chart(title: str, svg: str, note: str = "") -> str:
    caption = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f'<h3>{escape(title)}</h3>{caption}<div class="scroll">{svg}</div>'


def _times(conditions: Sequence[Conditions]) -> list[tuple[float, Conditions]]:
    """Conditions of all phases on one time axis."""
    placed, offset, phase, last = [], 0.0, "", 0.0
    for one in conditions:
        if one.phase == "sustained" and phase != "sustained":
            offset = last
        phase = one.phase
        last = max(last, offset + one.at_s)
        placed.append((offset + one.at_s, one))
    return sorted(placed, key=lambda pair: pair[0])


def _over_time(profile: Profile) -> list[str]:
    placed = _times(profile.conditions)
    parts = []
    for name, title, scale, unit in (
        ("temperature_c", "Temperature", 1.0, "°C"),
        ("frequency_khz", "Frequency", 1e-3, "MHz"),
    ):
        keys = sorted({key for _, one in placed for key in getattr(one, name)})[:_MOST_LINES]
        series = [
            Series(
                key,
                [(at, getattr(one, name)[key] * scale) for at, one in placed if key in getattr(one, name)],
                _COLOURS[number],
            )
            for number, key in enumerate(keys)
        ]
        if series and any(len(one.points) > 1 for one in series):
            parts.append(_chart(title, lines(series, "seconds", unit)))
    return parts


def _operators(profile: Profile) -> list[str]:
    if not profile.operators:
        return []
    total = sum(row.us for row in profile.operators)
    kinds: dict[str, float] = {}
    for row in profile.operators:
        kinds[f"{row.kind} ({row.unit})"] = kinds.get(f"{row.kind} ({row.unit})", 0.0) + row.us
    ranked = sorted(kinds.items(), key=lambda pair: -pair[1])
    by_kind = bars([(name, us, f"{us / 1e3:.3g} ms, {us / total:.0%}") for name, us in ranked[:12]], "time by kind")
    slowest = profile.operators[:_OPERATORS]
    single = bars([(row.name, row.us, f"{row.us:.0f} µs, {row.us / total:.1%}") for row in slowest], "time by operator")
    more = len(profile.operators) - len(slowest)
    note = f"the slowest {len(slowest)} of {len(profile.operators)}" if more > 0 else ""
    return [_chart("Time by kind of operator", by_kind), _chart("Time by operator", single, note)]


def _section(profile: Profile) -> str:
    parts = [f"<h2>{escape(bundle_name(profile))}</h2>"]
    parts.append(f'<p class="soft">{escape(device_name(profile))}; {escape(runtime_name(profile))}</p>')
    parts += [_stamp(profile), cards(_facts(profile))]
    found = profile.latency
    if found is not None and profile.samples_ms:
        marks = {f"median {ms(found.median)}": found.median, f"p90 {ms(found.p90)}": found.p90}
        parts.append(_chart("Latency", histogram(profile.samples_ms, marks, "milliseconds")))
        parts.append(_chart("In the order of time", dots(profile.samples_ms, "run", "milliseconds")))
    if profile.sustained:
        points = [(window.at_s, window.median) for window in profile.sustained]
        tail = [(window.at_s, window.p90) for window in profile.sustained]
        shown = lines([Series("median", points), Series("p90", tail, "warm")], "seconds", "milliseconds")
        parts.append(_chart("Without a pause", shown, "medians of five seconds each"))
    parts += _over_time(profile) + _operators(profile)
    parts.append(_particulars(profile))
    return "\n".join(parts)


def _particulars(profile: Profile) -> str:
    device, warm, found = profile.device, profile.warmup, profile.latency
    rows = [
        ["reached by", device.uri],
        ["system", f"{device.os}, Linux {device.kernel}" if device.kernel else device.os],
        ["processor", f"{device.machine}, {device.cpus} cores {', '.join(device.cores)}"],
        ["file", f"{profile.artifact.bytes / 1e6:.2f} MB, SHA-256 {profile.artifact.entry_sha256[:16]}…"],
        ["measured", profile.created],
    ]
    if device.virtual:
        rows.append(["virtual machine", "yes, at the processor's own speed"])
    if warm is not None:
        rows.append(["warm-up", f"{warm.runs} runs, {warm.seconds:.1f} s, {'steady' if warm.steady else 'not steady'}"])
    if found is not None:
        worth = f"worth {found.independent_runs:.0f} independent ones"
        rows.append(["runs", f"{found.runs} in {found.seconds:.1f} s, {worth}; {found.dropped} left out as warm-up"])
    if profile.answers is not None:
        outcome = "pass the verdict" if profile.answers.equal else "do not pass the verdict"
        error = "" if profile.answers.error is None else f", error {profile.answers.error:.2g}"
        rows.append(["golden vectors", f"{profile.answers.probes} {outcome} on the device{error}"])
    for one in (profile.conditions[:1], profile.conditions[-1:]):
        rows += [[f"conditions {one[0].phase}", _conditions(one[0])]] if one else []
    rows += [[key, value] for key, value in device.details.items()]
    return "<h3>Particulars</h3>" + table({"what": False, "value": False}, rows)


def _conditions(one: Conditions) -> str:
    parts = [f"{name} {value:.1f} °C" for name, value in list(one.temperature_c.items())[:3]]
    parts += [f"{name} {value / 1000:.0f} MHz" for name, value in list(one.frequency_khz.items())[:3]]
    parts += sorted({f"governor {name}" for name in one.governor.values()})
    parts += [f"load {one.load:.2f}"] if one.load is not None else []
    parts += [f"throttled: {', '.join(one.throttled)}"] if one.throttled else []
    return ", ".join(parts) or "the device does not say"


COLUMNS = ("bundle", "device", "runtime", "median", "interval, ms", "p90", "first", "load", "peak memory", "status")


NUMBERS = ("median", "interval, ms", "p90", "first", "load", "peak memory")
"""Of the columns: those that hold numbers."""


def rows_of(profiles: Sequence[Profile]) -> list[list[str]]:
    """One table row for each profile."""
    return [
        [
            bundle_name(one),
            device_name(one),
            runtime_name(one),
            ms(one.latency.median if one.latency else None),
            interval(one),
            ms(one.latency.p90 if one.latency else None),
            ms(one.first_ms),
            ms(one.load_ms),
            megabytes(one.memory.peak),
            one.status + (", emulated" if one.emulated else ""),
        ]
        for one in profiles
    ]


def _front(profiles: Sequence[Profile]) -> str:
    known = [
        (one, one.latency.median, one.artifact.accuracy)
        for one in profiles
        if one.latency and one.artifact.accuracy is not None
    ]
    if len(known) < 2:
        return ""
    devices = {device_name(one) for one, _, _ in known}
    fronts = pareto([(latency, accuracy) for _, latency, accuracy in known])
    spots = [
        Spot(bundle_name(one) + (f" on {device_name(one)}" if len(devices) > 1 else ""), latency, accuracy * 100, front)
        for (one, latency, accuracy), front in zip(known, fronts, strict=True)
    ]
    where = ", ".join(sorted({one.artifact.accuracy_on for one, _, _ in known if one.artifact.accuracy_on}))
    svg = scatter(spots, "median latency, milliseconds", "accuracy, %")
    note = f"Accuracy on {where}. " if where else ""
    return _chart("Accuracy and latency", svg, note + "The line joins those that no other beats in both.")


def profile_page(profiles: Sequence[Profile]) -> str:
    """The HTML report: an overview if there are several profiles, then each of them."""
    models = sorted({one.artifact.model for one in profiles})
    title = f"Profile of {', '.join(models)}"
    body = []
    if len(profiles) > 1:
        body.append(table({name: name in NUMBERS for name in COLUMNS}, rows_of(profiles)))
        body.append(_front(profiles))
    body += [_section(one) for one in profiles]
    contract = profiles[0].contract
    footer = (
        f"edgevit {profiles[0].edgevit}. Medians with a 95 % bootstrap interval of blocks of runs; at least "
        f"{contract.runs} runs and {contract.least_seconds:g} s, or {contract.seconds:g} s; unstable where the "
        f"interval is wider than {contract.interval_limit:.0%} of the median."
    )
    return page(title, "\n".join(part for part in body if part), footer)


def profile_markdown(profiles: Sequence[Profile]) -> str:
    """The overview as a Markdown table, followed by every reason for doubt."""
    lines_ = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines_ += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows_of(profiles)]
    doubts = [
        f"- {bundle_name(one)} on {device_name(one)}: {reason}"
        for one in profiles
        for reason in (*one.reasons, *one.notes)
    ]
    measured = sorted({one.created[:10] for one in profiles})
    lines_ += [
        "",
        *doubts,
        *([""] if doubts else []),
        f"Measured {', '.join(measured)} by edgevit {profiles[0].edgevit}.",
    ]
    return "\n".join(lines_) + "\n"
