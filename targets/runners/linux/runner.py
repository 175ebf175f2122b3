"""Measures one model on the machine it runs on. Needs Python 3.9, numpy and the model's runtime; nothing of edgevit.

    python3 runner.py '{"mode": "profile", "runtime": "litert", "model": "m.tflite", "inputs": "inputs.safetensors"}'

Writes one JSON object a line to standard output, each with an "event"; docs/profiling.md describes them. Ends when
its standard input closes and when "deadline_s" is over, whatever it is doing then.
"""

import base64
import contextlib
import ctypes
import glob
import importlib
import json
import os
import platform
import queue
import struct
import subprocess
import sys
import threading
import time

PROTOCOL = 1
# Of this Python, whatever the kernel is: Raspberry Pi OS runs 32-bit programs on a 64-bit one.
BITS = struct.calcsize("P") * 8
# onnxruntime's Linux wheel sends telemetry unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

EMIT_EVERY_S = 0.25
SAMPLE_EVERY_S = 1.0
LEAST_RUNS = 10
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
DEADLINE_STATUS, CLOSED_STATUS = 142, 143


class Refused(Exception):
    """What stops a job, with a kind that the host has a cure for."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


# ---------------------------------------------------------------- what the machine says of itself


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return None


def number(path):
    text = read(path)
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def table(path):
    lines = (read(path) or "").splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def memory_bytes(field, path="/proc/meminfo"):
    words = table(path).get(field, "").split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else None


def emulator():
    """The emulator that interprets this process, or an empty string. qemu-user forges /proc/self but not this link."""
    try:
        program = os.path.basename(os.readlink("/proc/thread-self/exe"))
    except OSError:
        return ""
    return program if "qemu" in program else ""


def instruction_sets():
    for line in (read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(value.split())
    return []


def core_kinds():
    lines = (read("/proc/cpuinfo") or "").splitlines()
    for wanted in ("model name", "CPU part"):
        found = sorted({line.partition(":")[2].strip() for line in lines if line.startswith(wanted)})
        if found:
            return found
    return []


def available_cpus():
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def host_facts():
    release = dict(line.split("=", 1) for line in (read("/etc/os-release") or "").splitlines() if "=" in line)
    return {
        "event": "host",
        "protocol": PROTOCOL,
        "machine": platform.machine(),
        "bits": BITS,
        "model": read("/proc/device-tree/model") or read("/sys/firmware/devicetree/base/model") or "",
        "os": release.get("PRETTY_NAME", "").strip('"') or platform.system(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "cpus": len(available_cpus()),
        "cores": core_kinds(),
        "instructions": instruction_sets(),
        "memory_bytes": memory_bytes("MemTotal"),
        "memory_available_bytes": memory_bytes("MemAvailable"),
        "page_bytes": os.sysconf("SC_PAGESIZE"),
        "emulator": emulator(),
        "virtual": "hypervisor" in instruction_sets(),
    }


def throttle_word():
    """The Raspberry Pi firmware's word on voltage and heat, or None on another machine."""
    text = read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    if text is None:
        said = command("vcgencmd", "get_throttled")
        text = said.partition("=")[2] if said and said.startswith("throttled=") else None
    try:
        return int(text, 16)
    except (TypeError, ValueError):
        return None


def command(*words):
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def throttle_count():
    """How often the processor slowed itself down because of heat since it started; x86 only."""
    counts = [number(path) for path in glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def conditions(phase, at):
    zones = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        degrees = number(zone + "/temp")
        if degrees is not None:
            zones[read(zone + "/type") or os.path.basename(zone)] = degrees / 1000
    policies = {os.path.basename(path): path for path in sorted(glob.glob("/sys/devices/system/cpu/cpufreq/policy*"))}

    def each(name, reader):
        values = {policy: reader(path + "/" + name) for policy, path in policies.items()}
        return {policy: value for policy, value in values.items() if value is not None}

    word = throttle_word()
    load = (read("/proc/loadavg") or "").split()
    return {
        "event": "conditions",
        "phase": phase,
        "at_s": at,
        "temperature_c": zones,
        "frequency_khz": each("scaling_cur_freq", number),
        "ceiling_khz": each("scaling_max_freq", number),
        "hardware_khz": each("cpuinfo_max_freq", number),
        "governor": each("scaling_governor", read),
        "throttled": [name for bit, name in THROTTLE_BITS.items() if word is not None and word >> bit & 1],
        "throttled_since_boot": [
            name for bit, name in THROTTLE_BITS.items() if word is not None and word >> bit + 16 & 1
        ],
        "throttle_count": throttle_count(),
        "load": float(load[0]) if load else None,
    }


def resident(field="VmRSS"):
    return memory_bytes(field, "/proc/self/status")


# ---------------------------------------------------------------- energy


class RaspberryPi5Meter:
    """The power of all rails that the Raspberry Pi 5's PMIC can read both voltage and current of.

    It leaves out USB, PCIe and the losses of conversion: less than the wall gives.
    """

    name = "Raspberry Pi 5 PMIC rails"

    def watts(self):
        rails = {"A": {}, "V": {}}
        for line in (command("vcgencmd", "pmic_read_adc") or "").splitlines():
            words = line.replace("=", " ").split()
            if len(words) == 3 and words[0][-2:] in ("_A", "_V"):
                rails[words[0][-1]][words[0][:-2]] = float(words[2].rstrip("AV"))
        both = rails["A"].keys() & rails["V"].keys()
        return sum(rails["A"][name] * rails["V"][name] for name in both) if both else None


METERS = (RaspberryPi5Meter,)


def find_meter():
    return next((meter for meter in (kind() for kind in METERS) if meter.watts() is not None), None)


# ---------------------------------------------------------------- the runtimes


def imported(name, runtime):
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation raises whatever it likes
        said = f"{runtime} cannot be imported: {error or type(error).__name__}"
    if BITS == 32:
        raise Refused("system-32-bit", f"{said}\nthis is a 32-bit system, and there are no packages of it for any")
    raise Refused("runtime-missing", said)


class LiteRT:
    package = "ai_edge_litert.interpreter"

    def __init__(self, job):
        module = imported(self.package, "LiteRT")
        try:
            self.interpreter = module.Interpreter(model_path=job["model"], num_threads=job["threads"])
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise Refused("load", f"LiteRT cannot load the model: {error}") from None
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.result = self.interpreter.get_output_details()[0]["index"]

    def feed(self, array):
        self.interpreter.set_tensor(self.source, array)

    def run(self):
        self.interpreter.invoke()

    def output(self):
        return self.interpreter.get_tensor(self.result)


class ONNXRuntime:
    package = "onnxruntime"

    def __init__(self, job, profile_to=None):
        module = imported(self.package, "ONNX Runtime")
        try:
            self.session = self._session(module, job, profile_to)
        except Exception as error:
            raise Refused("load", f"ONNX Runtime cannot load the model: {error}") from None
        self.name = self.session.get_inputs()[0].name
        self.feeds, self.answers = {}, None

    @staticmethod
    def _session(module, job, profile_to):
        def options(exact):
            found = module.SessionOptions()
            found.log_severity_level = 4 if exact else 3
            found.intra_op_num_threads = job["threads"]
            if profile_to:
                found.enable_profiling = True
                found.profile_file_prefix = profile_to
            if exact:
                found.add_session_config_entry("session.x64quantprecision", "1")
            return found

        # On x86 without VNNI, products of bytes overflow unless weights are made unsigned, which fails where weights
        # share a zero point; on other processors the option does nothing.
        providers = ["CPUExecutionProvider"]
        try:
            return module.InferenceSession(job["model"], options(True), providers=providers)
        except Exception:
            return module.InferenceSession(job["model"], options(False), providers=providers)

    def feed(self, array):
        self.feeds = {self.name: array}

    def run(self):
        self.answers = self.session.run(None, self.feeds)

    def output(self):
        return self.answers[0]


def executorch_library(job):
    try:
        return ctypes.CDLL(job["library"])
    except OSError as error:
        raise Refused("runtime-missing", f"the ExecuTorch library cannot be loaded: {error}") from None


class ExecuTorchLibrary:
    """A .pte through edgevit's C interface to the libraries of ExecuTorch's wheel: no torch."""

    def __init__(self, job):
        library = executorch_library(job)
        library.edgevit_open.restype = ctypes.c_void_p
        library.edgevit_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
        library.edgevit_problem.restype = ctypes.c_char_p
        for name in ("feed", "run", "output_count", "output", "operators"):
            getattr(library, "edgevit_" + name).restype = ctypes.c_longlong
        library.edgevit_feed.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        library.edgevit_run.argtypes = library.edgevit_output_count.argtypes = [ctypes.c_void_p]
        library.edgevit_output.argtypes = library.edgevit_operators.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
        ]
        self.library = library
        self.model = library.edgevit_open(job["model"].encode(), job["threads"], int(job["mode"] == "operators"))
        if not self.model:
            raise Refused("load", f"ExecuTorch cannot load the model: {self._problem()}")

    def _problem(self):
        return self.library.edgevit_problem().decode("utf-8", "replace")

    def feed(self, array):
        if self.library.edgevit_feed(self.model, array.ctypes.data, array.nbytes) != 0:
            raise Refused("input", f"ExecuTorch does not take the input: {self._problem()}")

    def run(self):
        if self.library.edgevit_run(self.model) != 0:
            raise Refused("execute", f"ExecuTorch stopped: {self._problem()}")

    def output(self):
        import numpy

        values = numpy.empty(self.library.edgevit_output_count(self.model), numpy.float32)
        if self.library.edgevit_output(self.model, values.ctypes.data, values.nbytes) != 0:
            raise Refused("execute", f"ExecuTorch gives another output than float32: {self._problem()}")
        return values[None]

    def operators(self):
        size = 1 << 22
        text = ctypes.create_string_buffer(size)
        self.library.edgevit_operators(self.model, text, size)
        return json.loads(text.value.decode("utf-8", "replace"))


class ExecuTorchPython:
    """A .pte through ExecuTorch's own Python bindings, which need torch."""

    def __init__(self, job):
        self.torch = imported("torch", "ExecuTorch's Python bindings need torch, which")
        lib = imported("executorch.extension.pybindings.portable_lib", "ExecuTorch")
        self.torch.set_num_threads(job["threads"])
        lib._unsafe_reset_threadpool(job["threads"])
        try:
            self.module = lib._load_for_executorch(job["model"], enable_etdump=job["mode"] == "operators")
        except RuntimeError as error:
            raise Refused("load", f"ExecuTorch cannot load the model: {error}") from None
        self.inputs, self.answers = None, None

    def feed(self, array):
        self.inputs = [self.torch.from_numpy(array.copy())]

    def run(self):
        self.answers = self.module.forward(self.inputs)

    def output(self):
        return self.answers[0].numpy()


def open_model(job, **more):
    if job["runtime"] == "executorch":
        return ExecuTorchLibrary(job) if job.get("library") else ExecuTorchPython(job)
    kinds = {"litert": LiteRT, "onnxruntime": ONNXRuntime}
    if job["runtime"] not in kinds:
        raise Refused("job", "this runner has no runtime {!r}".format(job["runtime"]))
    return kinds[job["runtime"]](job, **more)


DISTRIBUTIONS = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "executorch": "executorch", "numpy": "numpy"}


def versions():
    from importlib import metadata

    found = {}
    for runtime, name in DISTRIBUTIONS.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[runtime] = metadata.version(name)
    return found


def import_runtime(job):
    """Import before the model is loaded, so that the model's own memory and time can be told from the runtime's."""
    imported("numpy", "numpy")
    if job["runtime"] == "executorch":
        if job.get("library"):
            executorch_library(job)
        else:
            imported("torch", "ExecuTorch's Python bindings need torch, which")
            imported("executorch.extension.pybindings.portable_lib", "ExecuTorch")
    else:
        imported({"litert": LiteRT, "onnxruntime": ONNXRuntime}[job["runtime"]].package, job["runtime"])
    return job.get("library_version") or versions().get(job["runtime"], "")


def golden_inputs(path):
    """The tensor "inputs" of a safetensors file."""
    import numpy

    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + size])["inputs"]
    start, end = entry["data_offsets"]
    kind = {"U8": numpy.uint8, "F32": numpy.float32}[entry["dtype"]]
    return numpy.frombuffer(data[8 + size + start : 8 + size + end], kind).reshape(entry["shape"])


# ---------------------------------------------------------------- the phases


class Emitter:
    """Lines to the host; native code that prints to standard output cannot disturb them."""

    def __init__(self):
        self.file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.lock = threading.Lock()

    def __call__(self, **event):
        with self.lock:
            self.file.write(json.dumps(event) + "\n")
            self.file.flush()


def nanoseconds():
    return time.perf_counter_ns()


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def timed(run, clock):
    start = clock()
    run()
    return clock() - start


def warm_up(run, job, emit, clock=nanoseconds):
    """Run until three windows' medians agree within the job's share and do not fall any more, or time is up."""
    start, medians, window, opened, runs = clock(), [], [], clock(), 0
    steady = False
    while not steady and (clock() - start) / 1e9 < job["warmup_limit_s"]:
        window.append(timed(run, clock))
        runs += 1
        if len(window) >= 3 and (clock() - opened) / 1e9 >= job["warmup_window_s"]:
            medians.append(median(window))
            window, opened = [], clock()
            last = medians[-3:]
            steady = len(last) == 3 and max(last) <= min(last) * (1 + job["warmup_agree"])
            # Three that agree and still fall together are on their way.
            steady = steady and not last[0] > last[1] > last[2] * (1 + job["warmup_agree"] / 4)
    emit(event="warmup", runs=runs, seconds=(clock() - start) / 1e9, steady=steady, medians_ns=medians)


def measure(run, job, emit, sample, clock=nanoseconds, phase="runs", seconds=None):
    """Timed runs: as many as the job asks for, or as its time allows; or for so many seconds."""
    start, count, batch = clock(), 0, []
    emitted = sampled = start
    while True:
        batch.append(timed(run, clock))
        count += 1
        now = clock()
        elapsed = (now - start) / 1e9
        if seconds is not None:
            over = elapsed >= seconds
        else:
            over = count >= job["runs"] and elapsed >= job["least_seconds"]
            over = over or (count >= LEAST_RUNS and elapsed >= job["seconds"])
        if over or (now - emitted) / 1e9 >= EMIT_EVERY_S:
            emit(event=phase, at_s=elapsed, ns=batch)
            batch, emitted = [], clock()
        if over:
            return count
        if (now - sampled) / 1e9 >= SAMPLE_EVERY_S:
            sample("during" if phase == "runs" else phase, elapsed)
            sampled = clock()


def measure_energy(run, job, emit):
    """Power at rest, then power while running without pause; the meter is read from a thread that mostly sleeps."""
    meter = find_meter()
    if meter is None:
        return

    def mean_watts(work):
        readings, over = [], threading.Event()

        def watch():
            while not over.is_set():
                watts = meter.watts()
                if watts is not None:
                    readings.append(watts)
                over.wait(0.2)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        count = work()
        over.set()
        watcher.join()
        return sum(readings) / len(readings), len(readings), count

    seconds = job["energy_s"]
    rest, _, _ = mean_watts(lambda: time.sleep(seconds / 2) or 0)

    def work():
        start, count = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            run()
            count += 1
        return count

    start = time.monotonic()
    busy, readings, count = mean_watts(work)
    emit(
        event="energy",
        meter=meter.name,
        rest_watts=rest,
        busy_watts=busy,
        seconds=time.monotonic() - start,
        runs=count,
        readings=readings,
    )


def answer_golden(model, inputs, emit):
    """The outputs for all golden inputs; the first of these runs is the first inference."""
    import numpy

    outputs, first = [], None
    for one in inputs:
        model.feed(numpy.ascontiguousarray(one[None]))
        took = timed(model.run, nanoseconds)
        first = took if first is None else first
        outputs.append(numpy.array(model.output(), dtype=numpy.float32).reshape(-1))
    emit(event="first", ns=first)
    values = numpy.stack(outputs)
    emit(event="outputs", shape=list(values.shape), float32=base64.b64encode(values.tobytes()).decode())
    model.feed(numpy.ascontiguousarray(inputs[0][None]))


def load(job, emit):
    size = os.path.getsize(job["model"])
    free = memory_bytes("MemAvailable")
    if free is not None and size > free:
        raise Refused("memory", f"the model takes {size >> 20} MB, {free >> 20} MB of memory are free")
    version = import_runtime(job)
    before = resident()
    start = nanoseconds()
    model = open_model(job)
    took = nanoseconds() - start
    emit(
        event="loaded",
        ns=took,
        runtime=job["runtime"],
        version=version,
        threads=job["threads"],
        cpus=available_cpus(),
        rss_before=before,
        rss_after=resident(),
    )
    return model, before


def profile(job, emit, turns):
    begun = time.monotonic()

    def sample(phase, at=None):
        emit(**conditions(phase, time.monotonic() - begun if at is None else at))

    sample("before")
    model, before = load(job, emit)
    answer_golden(model, golden_inputs(job["inputs"]), emit)
    warm_up(model.run, job, emit)
    measure(model.run, job, emit, sample)
    sample("after")
    emit(event="memory", peak_bytes=resident("VmHWM"), before_bytes=before, now_bytes=resident())
    if job.get("sustained_s"):
        measure(model.run, job, emit, sample, phase="sustained", seconds=job["sustained_s"])
    if job.get("energy_s"):
        measure_energy(model.run, job, emit)


def take_turns(job, emit, turns):
    """Wait for a line with a number, run as often, report, wait again: the host interleaves two of these."""
    model, _ = load(job, emit)
    answer_golden(model, golden_inputs(job["inputs"]), emit)
    warm_up(model.run, job, emit)
    emit(**conditions("before", 0.0))
    emit(event="ready")
    while True:
        count = int(turns.get())
        if count == 0:
            break
        # The first of a turn finds caches and clocks as the other model left them.
        model.run()
        emit(event="turn", ns=[timed(model.run, nanoseconds) for _ in range(count)])
    emit(**conditions("after", 0.0))


# ---------------------------------------------------------------- time by operator


def summed(rows, runs):
    """Rows of (name, kind, unit, us) of several runs as mean microseconds of one, slowest first."""
    found = {}
    for name, kind, unit, took in rows:
        entry = found.setdefault((name, kind, unit), {"name": name, "kind": kind, "unit": unit, "calls": 0, "us": 0.0})
        entry["calls"] += 1
        entry["us"] += took
    for entry in found.values():
        entry["calls"] = max(1, round(entry["calls"] / runs))
        entry["us"] /= runs
    return sorted(found.values(), key=lambda entry: -entry["us"])


def onnx_operators(job, inputs, runs):
    """From the trace that ONNX Runtime writes when a session's profiling is on."""
    import tempfile

    import numpy

    with tempfile.TemporaryDirectory() as folder:
        model = ONNXRuntime(job, profile_to=os.path.join(folder, "trace"))
        model.feed(numpy.ascontiguousarray(inputs[0][None]))
        for _ in range(runs + 3):
            model.run()
        with open(model.session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    starts = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    return [
        (
            event["name"].replace("_kernel_time", ""),
            event["args"].get("op_name", ""),
            event["args"].get("provider", "").replace("ExecutionProvider", ""),
            event["dur"],
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= starts[3]
    ]


class _Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("total", "in_use", "private")]


class _LiteRTEvent(ctypes.Structure):
    """ProfiledEventData of LiteRT's C interface, litert/c/litert_profiler_event.h."""

    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("took_us", ctypes.c_uint64),
        ("before", _Usage),
        ("after", _Usage),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


def litert_operators(job, inputs, runs):
    """From the profiler of LiteRT's C interface, the only one of its interfaces that has it."""
    package = os.path.dirname(imported("ai_edge_litert", "LiteRT").__file__)
    lib = ctypes.CDLL(os.path.join(package, "libLiteRt.so"))
    kept = []

    def call(name, *arguments):
        status = getattr(lib, "LiteRt" + name)(*arguments)
        if status != 0:
            raise Refused("operators", f"LiteRt{name} gave status {status}")

    def made(name, *arguments):
        handle = ctypes.c_void_p()
        call(name, *arguments, ctypes.byref(handle))
        return handle

    environment = made("CreateEnvironment", 0, None)
    model = made("CreateModelFromFile", environment, job["model"].encode())
    options = made("CreateOptions")
    call("SetOptionsHardwareAccelerators", options, 1)
    forget = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)
    for identifier, text in (
        (b"xnnpack", f"num_threads = {job['threads']}\n"),
        (b"runtime_options_string", "enable_profiling = true\n"),
    ):
        payload = ctypes.create_string_buffer(text.encode())
        kept += [payload, forget]
        call("AddOpaqueOptions", options, made("CreateOpaqueOptions", identifier, payload, forget))
    compiled = made("CreateCompiledModel", environment, model, options)
    source, sink = litert_buffers(lib, call, made, environment, model, compiled, inputs[0])
    sources, sinks = (ctypes.c_void_p * 1)(source), (ctypes.c_void_p * 1)(sink)

    def run():
        call("RunCompiledModel", compiled, ctypes.c_size_t(0), ctypes.c_size_t(1), sources, ctypes.c_size_t(1), sinks)

    for _ in range(3):
        run()
    profiler = made("CompiledModelGetProfiler", compiled)
    rows = []
    for _ in range(runs):
        call("ResetProfiler", profiler)
        call("StartProfiler", profiler)
        run()
        call("StopProfiler", profiler)
        count = ctypes.c_int()
        call("GetNumProfilerEvents", profiler, ctypes.byref(count))
        events = (_LiteRTEvent * count.value)()
        call("GetProfilerEvents", profiler, count.value, events)
        rows += [litert_row(event) for event in events if event.kind in LITERT_UNITS]
    # Nothing is destroyed: the process ends now, and an order that is wrong for one version would crash it.
    return delegates_own_time(rows)


LITERT_UNITS = {2: "CPU", 4: "delegate", 8: "XNNPACK"}
DELEGATE, INSIDE_DELEGATE = "delegate", "XNNPACK"


def litert_row(event):
    name = (event.tag or b"?").decode("utf-8", "replace")
    kind = name.partition(" (")[0]
    return [f"{name} #{event.first}", kind, LITERT_UNITS[event.kind], event.took_us]


def delegates_own_time(rows):
    """Without the delegate's calls where the operators inside them are timed one by one: they would count twice."""
    inside = any(row[2] == INSIDE_DELEGATE for row in rows)
    return [row for row in rows if not (inside and row[2] == DELEGATE)]


def litert_buffers(lib, call, made, environment, model, compiled, array):
    """Tensor buffers for the one input, filled, and the one output."""
    import numpy

    graph = made("GetModelSubgraph", model, ctypes.c_size_t(0))

    def buffer(side):
        tensor = made("GetSubgraph" + side, graph, ctypes.c_size_t(0))
        shape = (ctypes.c_byte * 256)()
        call("GetRankedTensorType", tensor, ctypes.byref(shape))
        size_t = ctypes.c_size_t
        needs = made(f"GetCompiledModel{side}BufferRequirements", compiled, size_t(0), size_t(0))
        return made("CreateManagedTensorBufferFromRequirements", environment, ctypes.byref(shape), needs)

    source, sink = buffer("Input"), buffer("Output")
    data = numpy.ascontiguousarray(array)
    place = ctypes.c_void_p()
    call("LockTensorBuffer", source, ctypes.byref(place), 1)
    ctypes.memmove(place, data.ctypes.data, data.nbytes)
    call("UnlockTensorBuffer", source)
    return source, sink


def executorch_operators(job, inputs, runs):
    import numpy

    model = open_model(job)
    model.feed(numpy.ascontiguousarray(inputs[0][None]))
    for _ in range(runs):
        model.run()
    if isinstance(model, ExecuTorchPython):
        return executorch_dump(model)
    return [tuple(row) for row in model.operators()]


def executorch_dump(model):
    """From the ETDump that the Python bindings write."""
    import tempfile

    from executorch.devtools import Inspector

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dump.etdp")
        model.module.write_etdump_result_to_file(path)
        blocks = Inspector(etdump_path=path).event_blocks
    rows = []
    for block in blocks:
        for event in block.events if block.name == "Execute" else ():
            kernel = event.name.partition("native_call_")[2]
            if kernel or event.name == "DELEGATE_CALL":
                name, unit = (kernel, "CPU") if kernel else ("delegate", "XNNPACK")
                rows += [(name, name, unit, took * 1000) for took in event.perf_data.raw]
    return rows


OPERATORS = {"onnxruntime": onnx_operators, "litert": litert_operators, "executorch": executorch_operators}


def operators(job, emit, turns):
    import_runtime(job)
    runs = job["operator_runs"]
    rows = OPERATORS[job["runtime"]](job, golden_inputs(job["inputs"]), runs)
    emit(event="operators", runs=runs, rows=summed(rows, runs))


MODULES = {"litert": "ai_edge_litert.interpreter", "onnxruntime": "onnxruntime", "numpy": "numpy"}
IMPORT_S = 40


def import_fault(name, folder=""):
    """Why a module cannot be imported, from a process of its own, as some crash; an empty string if it can."""
    env = {**os.environ, "PYTHONPATH": folder or os.environ.get("PYTHONPATH", "")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import " + name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # this Python is started in another way: nothing is known
    if done.returncode < 0:
        return f"the import ends with signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # Anything else than Python's own end of a failed import says nothing of the module.
    return lines[-1][:300] if done.returncode == 1 and "Traceback" in done.stderr and lines else ""


def own_version(folder):
    """Of a runtime that edgevit put into its own folder."""
    try:
        return str(json.loads(read(folder + "/.edgevit.json") or "{}").get("version", ""))
    except (ValueError, AttributeError):
        return ""


def probe(job, emit, turns):
    found, own = versions(), job.get("own", {})
    broken = {}
    if job.get("imports"):
        places = {**dict.fromkeys(found, ""), **own}
        for runtime, folder in places.items():
            fault = import_fault(MODULES[runtime], folder) if runtime in MODULES else ""
            if fault:
                broken[runtime] = fault
    emit(
        event="runtimes",
        versions=found,
        own={runtime: own_version(folder) for runtime, folder in own.items()},
        broken=broken,
        meter=getattr(find_meter(), "name", ""),
    )


# ---------------------------------------------------------------- life and death


def watch_input(turns):
    """End with the host. `os.read`, because a thread inside `sys.stdin` aborts Python when the interpreter ends."""
    left = b""
    while True:
        got = os.read(0, 4096)
        if not got:
            os._exit(CLOSED_STATUS)
        left += got
        *lines, left = left.split(b"\n")
        for line in lines:
            turns.put(line)


def watch_clock(seconds):
    time.sleep(seconds)
    os._exit(DEADLINE_STATUS)


MODES = {"profile": profile, "turns": take_turns, "operators": operators, "probe": probe}


def main():
    job = {"threads": 1, **json.loads(sys.argv[1])}
    emit, turns = Emitter(), queue.Queue()
    threading.Thread(target=watch_input, args=(turns,), daemon=True).start()
    threading.Thread(target=watch_clock, args=(job.get("deadline_s", 600),), daemon=True).start()
    if job.get("cpus"):
        os.sched_setaffinity(0, job["cpus"])
    emit(**host_facts())
    try:
        MODES[job["mode"]](job, emit, turns)
    except Refused as error:
        emit(event="error", kind=error.kind, message=str(error))
    except MemoryError:
        emit(event="error", kind="memory", message="there is not enough memory for the model")
    except Exception as error:
        emit(event="error", kind="execute", message=f"{type(error).__name__}: {error}")
    else:
        emit(event="done")
    # Runtimes' threads and destructors are not waited for: what was measured is already on its way.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
