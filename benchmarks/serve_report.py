"""What a run of ``benchmarks.serve`` found: what must not be and is, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SLOPE_MB = 1.0  # a minute; more, with two standard errors' certainty, is a leak
# That the second half of the malformed requests may leave behind. Both reach a plateau (pools of allocators and engines), but
# not always in the first half; ten times as many requests tell more.
FRONT_MB, WORKERS_MB = 32.0, 32.0
FILES = 8  # descriptors, likewise
BACK_S = 30.0  # for a killed worker to be ready again
# What never ends, or is not read, is to be given up before: the server's own limits and a few seconds.
ENDED_S = {"body without end": 35.0, "head without end": 35.0, "silent": 35.0, "answers not read": 70.0}


def failures(result: Mapping[str, Any]) -> list[str]:
    """One line for each thing that must not be."""
    return list(_failures(result))


def _failures(result: Mapping[str, Any]) -> Iterator[str]:
    server = result["server"]
    if not server["alive_at_the_end"]:
        yield "the server ended by itself"
    elif server["exit_code"] != 0:
        yield f"the server ended with code {server['exit_code']} after SIGTERM"
    for name, count in server["logged"]["errors"].items():
        yield f"the server logged {count} x {name}"
    if "broken" in result:
        yield result["broken"]
        return
    phases = {f"{level['share']:g} times the capacity": level for level in result["levels"]}
    names = {
        "capacity": "capacity",
        "kill": "killed workers",
        "slow": "slow clients",
        "half_open": "silent connections",
    }
    phases |= {text: result[name] for name, text in names.items()}
    for text, phase in phases.items():
        if lost := sum(phase["lost"].values()):
            yield f"{text}: {lost} requests lost ({next(iter(phase['lost']))})"
        for process in ("front", "workers"):
            if verdict(phase.get("memory", {}).get(process)) == "grows":
                yield f"{text}: memory of the {process} grows by {slope_text(phase['memory'][process])}"
    yield from _faults(result)
    yield from _malformed(result["malformed"])


def _faults(result: Mapping[str, Any]) -> Iterator[str]:
    kill, slow = result["kill"], result["slow"]
    if not kill["kills"]:
        yield "killed workers: there was none to kill"
    if (
        kill["restarts"] < kill["kills"]
        or len(kill["back_s"]) < kill["kills"]
        or max(kill["back_s"], default=0) > BACK_S
    ):
        yield f"killed workers: {kill['kills']} killed, {kill['restarts']} restarted, back after {kill['back_s']} s"
    whole = slow["ends"]["body byte by byte"]
    if any(not end.startswith(("answered 200", "answered 429", "answered 503")) for end in whole):
        yield f"slow clients: a body sent byte by byte was not answered ({whole})"
    held = {kind: (slow["held_s"], ends) for kind, ends in slow["ends"].items()}
    held["silent"] = (result["half_open"]["held_s"], result["half_open"]["ends"]["silent"])
    for kind, most in ENDED_S.items():
        seconds, ends = held[kind]
        if seconds >= most and "open" in ends:
            yield f"slow clients: {kind}: {ends['open']} connections were still open after {seconds:g} s"
    if "answered 200" in slow["ends"]["head of 8 MB"]:
        yield "slow clients: a head of 8 MB was read to its end and answered"
    for text, phase in (("slow clients", slow), ("silent connections", result["half_open"])):
        before, _, after = phase["files"]
        if after is None or after > before + FILES:
            yield f"{text}: {before} descriptors before, {after} after"


def _malformed(found: Mapping[str, Any]) -> Iterator[str]:
    for problem, count in found["problems"].items():
        yield f"malformed requests: {count} x {problem}"
    if found["restarts"]:
        yield f"malformed requests: {found['restarts']} workers ended"
    if found["requests"] < found["asked"]:
        yield f"malformed requests: {found['requests']} of {found['asked']} within the time"
    before, half, after = found["memory"]
    if before is None or half is None or after is None:
        yield "malformed requests: the server was gone"
        return
    if after["files"] > before["files"] + FILES:
        yield f"malformed requests: {before['files']} descriptors before, {after['files']} after"
    for name, most in (("front_mb", FRONT_MB), ("workers_mb", WORKERS_MB)):
        if half[name] is not None and after[name] is not None and after[name] - half[name] > most:
            yield f"malformed requests: {name} from {half[name]:.0f} to {after[name]:.0f} in the second half (most: +{most:g})"


def verdict(slope: Mapping[str, Any] | None) -> str:
    """flat or grows where two standard errors decide it, else open: a longer run would tell."""
    if slope is None:
        return "open"
    least, most = (slope["mb_a_minute"] + sign * 2 * slope["standard_error"] for sign in (-1, 1))
    return "grows" if least > SLOPE_MB else "flat" if most <= SLOPE_MB else "open"


def slope_text(slope: Mapping[str, Any] | None) -> str:
    return (
        "too short to tell" if slope is None else f"{slope['mb_a_minute']:.2f} ± {slope['standard_error']:.2f} MB/min"
    )


def write(result: Mapping[str, Any], folder: Path) -> None:
    (folder / "serve.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "serve.md").write_text(markdown(result))


def markdown(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    told = " ".join(["anycost serve", result["bundle"], f"--workers {settings['workers']}", *settings["more"]])
    lines = [
        f"`{told}`, with the load on the same machine: {result['device']}. {settings['minutes']:g} minutes a level, arrivals "
        f"from seed {settings['seed']}.",
        "",
    ]
    if "broken" not in result:
        lines += [*_load(result), "", *_fault_lines(result), ""]
    found = result["failures"]
    lines += (
        ["What must not be and was:", *(f"- {line}" for line in found)]
        if found
        else ["Nothing that must not be was seen."]
    )
    return "\n".join(lines) + "\n"


def _load(result: Mapping[str, Any]) -> list[str]:
    capacity = result["capacity"]
    lines = [
        f"Capacity, a closed loop: **{capacity['images_a_second']:g} images a second** at p95 {_ms(capacity['p95_ms'])} "
        f"({_mix(capacity['subnets'])}).",
        "",
        "| load | a second | images | refused | lost | p50 | p95 | p99 | lowered | sub-networks | front | workers |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|---|---|",
    ]
    for level in result["levels"]:
        memory = [
            f"{slope_text(level['memory'][name])}, {verdict(level['memory'][name])}" for name in ("front", "workers")
        ]
        refused = ", ".join(f"{count} x {code}" for code, count in level["refused"].items()) or "0"
        cells = [
            f"{level['share']:g} x",
            f"{level['rate']:g}",
            str(level["accepted"]),
            refused,
            str(sum(level["lost"].values())),
            *(_ms(level[f"p{q}_ms"]) for q in (50, 95, 99)),
            str(level["downgrades"]),
            _mix(level["subnets"]),
            *memory,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    late = max((level["sent_late_p99_ms"] or 0 for level in result["levels"]), default=0)
    lines += [
        "",
        "Latencies count from when a request was due (open loop, Poisson arrivals); the load itself sent 99% within "
        f"{late:.0f} ms of that. Memory: least squares after the first fifth of a level, with its standard error widened by the "
        f"samples' autocorrelation; flat is below {SLOPE_MB:g} MB a minute with two standard errors.",
    ]
    return lines


def _fault_lines(result: Mapping[str, Any]) -> list[str]:
    kill, slow, silent, bad = (result[name] for name in ("kill", "slow", "half_open", "malformed"))
    lines = ["| fault | what happened |", "|---|---|"]
    back = ", ".join(f"{seconds:g} s" for seconds in kill["back_s"]) or "never"
    lines.append(
        f"| kill -9 of a worker, {kill['kills']} times at {kill['rate']:g} requests a second | ready again after {back}; "
        f"{kill['accepted']} images, {_refused(kill)}, {sum(kill['lost'].values())} lost, p99 {_ms(kill['p99_ms'])} |"
    )
    for kind, ends in slow["ends"].items():
        count = sum(ends.values())
        lines.append(f"| {count} clients, {kind}, for {slow['held_s']:g} s | {_ends(ends)} |")
    lines.append(
        f"| requests beside them, {slow['rate']:g} a second | {slow['accepted']} images, {_refused(slow)}, "
        f"{sum(slow['lost'].values())} lost, p95 {_ms(slow['p95_ms'])} |"
    )
    lines.append(
        f"| {silent['connections']} connections that say nothing, {silent['held_s']:g} s | {_ends(silent['ends']['silent'])}; "
        f"descriptors {' / '.join(map(str, silent['files']))} before, during, after; beside them {silent['accepted']} images, "
        f"{_refused(silent)}, {sum(silent['lost'].values())} lost, p95 {_ms(silent['p95_ms'])} |"
    )
    memory = "the server was gone"
    if all(bad["memory"]):
        kinds = (("front_mb", "front"), ("workers_mb", "workers"))
        resident = [f"{text} {' / '.join(_mb(sample[name]) for sample in bad['memory'])} MB" for name, text in kinds]
        files = " / ".join(str(sample["files"]) for sample in bad["memory"])
        memory = f"before, half-way and after: {', '.join(resident)}, {files} descriptors"
    lines.append(
        f"| {bad['requests']} malformed requests | {_ends(bad['statuses'])}; {sum(bad['problems'].values())} wrong answers, "
        f"{bad['restarts']} workers lost; slowest {bad['slowest_s']:g} s ({bad['slowest'].partition(',')[0]}); {memory} |"
    )
    return lines


def _refused(phase: Mapping[str, Any]) -> str:
    return f"{sum(phase['refused'].values())} refused"


def _ends(ends: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {end}" for end, count in ends.items())


def _mix(subnets: Mapping[str, int]) -> str:
    whole = sum(subnets.values())
    shares = [f"{name} {count / whole:.0%}" for name, count in subnets.items()]
    return ", ".join(shares[:6]) + (f" and {len(shares) - 6} more" if len(shares) > 6 else "") or "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
