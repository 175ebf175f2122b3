// Measures models in this page for edgevit: asks the computer that served it for commands, and posts back what it
// finds, as the events of docs/profiling.md. One model a page load, so that each starts with a fresh heap.

const PROTOCOL = 1;
const EMIT_EVERY_MS = 250;
const LEAST_RUNS = 10;
const KEY = "edgevit-session";
const FOUND = "edgevit-found";

const show = (id, text) => {
  document.getElementById(id).textContent = text;
};
const progress = (share) => {
  document.getElementById("progress").value = share;
};
const short = (ms) => (ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3)) + " ms";

class Refused extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

// ------------------------------------------------------------------ talking to the computer that asked

const session = () => sessionStorage.getItem(KEY);

async function claim() {
  if (session()) return true;
  const token = new URLSearchParams(location.hash.slice(1)).get("t") || "";
  history.replaceState(null, "", location.pathname);
  const answer = await fetch("claim", { method: "POST", headers: { "X-Edgevit-Token": token } });
  if (!answer.ok) return false;
  sessionStorage.setItem(KEY, (await answer.json()).session);
  return true;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "X-Edgevit-Session": session() } });
  if (answer.status === 403) sessionStorage.removeItem(KEY);
  if (!answer.ok) throw new Refused("job", `${path}: ${answer.status} ${answer.statusText}`);
  return answer;
}

const emit = (...events) => ask("events", { method: "POST", body: JSON.stringify(events) });

// ------------------------------------------------------------------ what this browser says of itself

function clockResolution() {
  let least = Infinity;
  let last = performance.now();
  const end = last + 30;
  while (last < end) {
    const now = performance.now();
    if (now > last) least = Math.min(least, now - last);
    last = now;
  }
  return least;
}

async function hostEvents() {
  const data = navigator.userAgentData;
  const wanted = ["model", "platform", "platformVersion", "architecture", "bitness", "fullVersionList"];
  const hints = data ? await data.getHighEntropyValues(wanted).catch(() => ({})) : {};
  const brand = (hints.fullVersionList || []).filter((one) => !/not.a.brand/i.test(one.brand)).pop();
  const values = {
    browser: brand ? `${brand.brand} ${brand.version}` : navigator.userAgent,
    "user agent": navigator.userAgent,
    "secure context": String(isSecureContext),
    "cross-origin isolated": String(self.crossOriginIsolated === true),
    WebGPU: String(Boolean(navigator.gpu)),
    "clock resolution, µs": (clockResolution() * 1000).toFixed(0),
  };
  if (hints.model) values.model = hints.model;
  show("facts", `${values.browser}; ${navigator.hardwareConcurrency} cores; threads ${threadsPossible() ? "possible" : "not possible here"}`);
  return [
    {
      event: "host",
      protocol: PROTOCOL,
      machine: hints.architecture ? `${hints.architecture} ${hints.bitness || ""}`.trim() : "browser",
      model: hints.model || "",
      os: [hints.platform, hints.platformVersion].filter(Boolean).join(" ") || navigator.platform || "",
      cpus: navigator.hardwareConcurrency || 1,
      memory_bytes: navigator.deviceMemory ? navigator.deviceMemory * 2 ** 30 : null,
      emulator: "",
    },
    { event: "details", values },
  ];
}

const threadsPossible = () => self.crossOriginIsolated === true && typeof SharedArrayBuffer !== "undefined";

async function conditions(phase, at) {
  const event = { event: "conditions", phase, at_s: at };
  const battery = navigator.getBattery ? await navigator.getBattery().catch(() => null) : null;
  if (battery) event.battery = { level: `${Math.round(battery.level * 100)} %`, charging: String(battery.charging) };
  return event;
}

// ------------------------------------------------------------------ the runtimes

async function adapter() {
  if (!navigator.gpu) throw new Refused("runtime-missing", "this page has no WebGPU: it needs HTTPS or localhost, and a browser with it");
  const found = await navigator.gpu.requestAdapter();
  if (!found) throw new Refused("runtime-missing", "this browser gives no WebGPU adapter");
  return found.info || {};
}

async function openLiteRT(job, bytes) {
  const api = await import("@litertjs/core");
  const threaded = job.threads > 1 && threadsPossible();
  await api.loadLiteRt("./litert/wasm/", { threads: threaded });
  const gpu = job.accelerator === "webgpu";
  const started = performance.now();
  const options = gpu ? { accelerator: "webgpu" } : { accelerator: "wasm", cpuOptions: { numThreads: threaded ? job.threads : 1 } };
  const model = await api.loadAndCompile(bytes, options);
  const took = performance.now() - started;
  const shape = [...model.getInputDetails()[0].shape];
  let input = null;
  let answers = null;
  const forget = () => {
    for (const one of answers || []) if (!one.deleted) one.delete();
  };
  return {
    took,
    threads: gpu || !threaded ? 1 : job.threads,
    async feed(values) {
      input = new api.Tensor(values, shape);
      if (gpu) input = await input.moveTo("webgpu");
    },
    async run() {
      forget();
      answers = await model.run([input]);
      // Work on a GPU is only queued until its result is read.
      if (gpu) answers = [await answers[0].moveTo("wasm")];
    },
    output: async () => Float32Array.from(answers[0].toTypedArray()),
  };
}

async function openOnnx(job, bytes) {
  const gpu = job.accelerator === "webgpu";
  const api = await import(gpu ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
  api.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
  api.env.wasm.numThreads = threadsPossible() ? job.threads : 1;
  const started = performance.now();
  const options = { executionProviders: [gpu ? "webgpu" : "wasm"], graphOptimizationLevel: "all" };
  const session_ = await api.InferenceSession.create(bytes, options);
  const took = performance.now() - started;
  let feeds = {};
  let answers = null;
  return {
    took,
    threads: api.env.wasm.numThreads,
    async feed(values, shape) {
      const kind = values instanceof Uint8Array ? "uint8" : "float32";
      feeds = { [session_.inputNames[0]]: new api.Tensor(kind, values, shape) };
    },
    async run() {
      answers = await session_.run(feeds);
    },
    output: async () => Float32Array.from(answers[session_.outputNames[0]].data),
  };
}

const OPENERS = { "litert-js": openLiteRT, "onnxruntime-web": openOnnx };

// The tensor "inputs" of a safetensors file, one golden input at a time.
function goldenInputs(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const entry = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size))).inputs;
  const [start, end] = entry.data_offsets;
  const data = buffer.slice(8 + size + start, 8 + size + end);
  const values = entry.dtype === "U8" ? new Uint8Array(data) : new Float32Array(data);
  const [count, ...rest] = entry.shape;
  const length = values.length / count;
  return Array.from({ length: count }, (_, i) => ({ values: values.slice(i * length, (i + 1) * length), shape: [1, ...rest] }));
}

// ------------------------------------------------------------------ the phases

const ns = (ms) => Math.round(ms * 1e6);
const middle = (values) => {
  const ordered = [...values].sort((a, b) => a - b);
  const half = ordered.length >> 1;
  return ordered.length % 2 ? ordered[half] : (ordered[half - 1] + ordered[half]) / 2;
};

async function timed(model) {
  const started = performance.now();
  await model.run();
  return performance.now() - started;
}

const asBase64 = (floats) => {
  const bytes = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
};

async function load(job) {
  show("model", job.title);
  show("state", "loading");
  const bytes = new Uint8Array(await (await ask(job.model)).arrayBuffer());
  const inputs = goldenInputs(await (await ask(job.inputs)).arrayBuffer());
  const info = job.accelerator === "webgpu" ? await adapter() : null;
  let model;
  try {
    model = await OPENERS[job.runtime](job, bytes);
  } catch (error) {
    throw error instanceof Refused ? error : new Refused("load", `${job.runtime} cannot load the model: ${error && error.message ? error.message : error}`);
  }
  const events = [
    { event: "loaded", ns: ns(model.took), runtime: job.runtime, version: job.version, threads: model.threads, accelerator: job.accelerator },
  ];
  if (job.accelerator !== "webgpu" && job.asked_threads && job.asked_threads !== model.threads)
    events.push({ event: "stamp", reason: `${job.asked_threads} threads were asked for, ${model.threads} were there: the page is not cross-origin isolated` });
  if (info) {
    const name = [info.vendor, info.architecture, info.description].filter(Boolean).join(" ");
    events.push({ event: "details", values: { "WebGPU adapter": name || "unknown" } });
    if (info.isFallbackAdapter) events.push({ event: "stamp", reason: "the GPU is a software emulation, no device's" });
  }
  let first = null;
  const outputs = [];
  for (const one of inputs) {
    await model.feed(one.values, one.shape);
    const took = await timed(model);
    first = first === null ? took : first;
    outputs.push(await model.output());
  }
  const all = new Float32Array(outputs.flatMap((one) => [...one]));
  events.push({ event: "first", ns: ns(first) });
  events.push({ event: "outputs", shape: [outputs.length, outputs[0].length], float32: asBase64(all) });
  await model.feed(inputs[0].values, inputs[0].shape);
  await emit(...events);
  return model;
}

async function warmUp(model, job) {
  show("state", "warming up");
  const started = performance.now();
  const medians = [];
  let [batch, opened, runs, steady] = [[], performance.now(), 0, false];
  while (!steady && performance.now() - started < job.warmup_limit_s * 1000) {
    batch.push(await timed(model));
    runs += 1;
    if (batch.length >= 3 && performance.now() - opened >= job.warmup_window_s * 1000) {
      medians.push(middle(batch));
      const [a, b, c] = medians.slice(-3);
      steady = medians.length >= 3 && Math.max(a, b, c) <= Math.min(a, b, c) * (1 + job.warmup_agree);
      steady = steady && !(a > b && b > c * (1 + job.warmup_agree / 4));
      show("figure", short(medians[medians.length - 1]));
      await emit(); // A sign of life: a warm-up may last longer than a page may be silent.
      [batch, opened] = [[], performance.now()];
    }
  }
  await emit({ event: "warmup", runs, seconds: (performance.now() - started) / 1000, steady, medians_ns: medians.map(ns) });
}

// What was measured stays in view over the page loads between models.
const found = () => JSON.parse(sessionStorage.getItem(FOUND) || "[]");

function keep(line) {
  sessionStorage.setItem(FOUND, JSON.stringify([...found(), line]));
}

function showFound() {
  const items = found().map((line) => Object.assign(document.createElement("li"), { textContent: line }));
  document.getElementById("done").replaceChildren(...items);
}

async function measure(model, job, phase, seconds) {
  show("state", phase === "runs" ? "measuring" : "running without a pause");
  const medians = [];
  const started = performance.now();
  let [batch, count, emitted] = [[], 0, started];
  for (;;) {
    batch.push(await timed(model));
    count += 1;
    const now = performance.now();
    const elapsed = (now - started) / 1000;
    let over = seconds !== undefined && elapsed >= seconds;
    if (seconds === undefined) {
      over = count >= job.runs && elapsed >= job.least_seconds;
      over = over || (count >= LEAST_RUNS && elapsed >= job.seconds);
    }
    if (over || now - emitted >= EMIT_EVERY_MS) {
      medians.push(middle(batch));
      show("figure", short(medians[medians.length - 1]));
      progress(Math.min(1, elapsed / (seconds || job.seconds)));
      await emit({ event: phase, at_s: elapsed, ns: batch.map(ns) });
      [batch, emitted] = [[], performance.now()];
    }
    if (over) {
      keep(`${job.title}: about ${short(middle(medians))}`);
      return;
    }
  }
}

async function profile(job) {
  await emit(await conditions("before", 0));
  const model = await load(job);
  await warmUp(model, job);
  await measure(model, job, "runs");
  await emit(await conditions("after", 0));
  const heap = performance.memory ? performance.memory.usedJSHeapSize : null;
  if (heap) await emit({ event: "details", values: { "JavaScript heap, MB": (heap / 1e6).toFixed(1) } });
  if (job.sustained_s) await measure(model, job, "sustained", job.sustained_s);
}

const turning = new Map();

async function takeTurn(command) {
  const model = turning.get(command.id);
  await model.run();
  const taken = [];
  for (let i = 0; i < command.runs; i++) taken.push(ns(await timed(model)));
  await emit({ event: "turn", id: command.id, ns: taken });
}

async function openTurns(command) {
  const model = await load(command.job);
  await warmUp(model, command.job);
  turning.set(command.id, model);
  await emit({ event: "ready", id: command.id });
}

// ------------------------------------------------------------------ life

let hidden = document.visibilityState === "hidden";
document.addEventListener("visibilitychange", () => {
  hidden = hidden || document.visibilityState === "hidden";
});

function complain(error, id) {
  const kind = error instanceof RangeError ? "memory" : error.kind || "execute";
  return emit({ event: "error", id, kind, message: String((error && error.message) || error).slice(0, 600) });
}

async function guarded(work) {
  hidden = document.visibilityState === "hidden";
  try {
    await work();
    if (hidden) await emit({ event: "stamp", reason: "the page was not in front while it measured" });
    await emit({ event: "done" });
  } catch (error) {
    await complain(error);
  }
}

async function obey() {
  for (;;) {
    const command = await (await ask("next")).json();
    if (command.command === "probe") await emit(...(await hostEvents()), { event: "done" });
    else if (command.command === "profile") {
      await guarded(() => profile(command.job));
      location.reload();
      return;
    } else if (command.command === "load") await openTurns(command).catch((error) => complain(error, command.id));
    else if (command.command === "turn") await takeTurn(command).catch((error) => complain(error, command.id));
    else if (command.command === "bye") {
      sessionStorage.clear();
      show("state", "done: you can close this page");
      show("ask", "");
      show("model", "");
      progress(1);
      return;
    }
  }
}

showFound();
try {
  await navigator.wakeLock?.request("screen");
} catch {
  // A phone then dims after its own time; the page says to keep it on.
}
try {
  if (await claim()) {
    show("state", "connected, waiting for a model");
    await obey();
  } else {
    show("state", "This link was used already or is not complete. Ask for a new one.");
    document.getElementById("state").className = "bad";
  }
} catch (error) {
  show("state", `The computer that asked does not answer any more (${error.message || error}).`);
  document.getElementById("state").className = "bad";
}
