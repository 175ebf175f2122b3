/** The page: one picture at a time to the worker, and its answer on the screen. */

import "./style.css";
import manifest from "../model/manifest.json?url";
import { type Contract, Unusable } from "./contract";
import { type Frame, openCamera, pixelsOf, readFile } from "./pictures";
import type { Ask, Found, Say } from "./worker";

const FILES = import.meta.glob<string>("../model/*.{onnx,tflite}", { query: "?url", import: "default", eager: true });
const SPOKEN_EVERY_MS = 2000;
const SMOOTHING = 0.15;

const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const [camera, choose, flip] = ["camera", "choose", "flip"].map((id) => $<HTMLButtonElement>(id));
const [video, still, file, stage] = [
  $<HTMLVideoElement>("video"),
  $<HTMLImageElement>("still"),
  $<HTMLInputElement>("file"),
  $("stage"),
];

const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
let contract: Contract;
let stream: MediaStream | null = null;
let facing: "environment" | "user" = "environment";
let number = 0;
let shown = "";
let spokenAt = 0;
let [interval, lastAt] = [0, 0];
const waiting = new Map<number, { done: (found: Found) => void; failed: (error: Error) => void }>();

// ---------------------------------------------------------------- what is said

function complain(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  $("message").textContent = text;
  $("message").hidden = false;
}

function quiet(): void {
  $("message").hidden = true;
}

function show(found: Found, live: boolean): void {
  const shares = contract.output.kind === "probabilities";
  const rows = found.guesses.map((guess) => {
    const row = document.createElement("li");
    row.dataset.index = `${guess.index}`;
    row.dataset.score = `${guess.score}`;
    row.style.setProperty("--share", shares ? `${guess.score}` : "0");
    const [name, value] = [document.createElement("span"), document.createElement("span")];
    name.textContent = guess.label;
    value.textContent = shares ? `${(guess.score * 100).toFixed(1)} %` : guess.score.toFixed(2);
    row.append(name, value);
    return row;
  });
  $("results").replaceChildren(...rows);
  $("prepare").textContent = `${found.prepareMs.toFixed(1)} ms`;
  $("run").textContent = `${found.runMs.toFixed(1)} ms`;
  const now = performance.now();
  interval = lastAt && live ? (interval ? interval + SMOOTHING * (now - lastAt - interval) : now - lastAt) : 0;
  lastAt = live ? now : 0;
  $("rate").textContent = interval ? (1000 / interval).toFixed(1) : "–";
  const best = found.guesses[0];
  if (!live || now - spokenAt > SPOKEN_EVERY_MS) {
    spokenAt = now;
    $("spoken").textContent = shares ? `${best.label}, ${Math.round(best.score * 100)} percent` : best.label;
  }
}

// ---------------------------------------------------------------- the worker

function ask(frame: Frame): Promise<Found> {
  const asked = ++number;
  const answer = new Promise<Found>((done, failed) => waiting.set(asked, { done, failed }));
  const message: Ask = { kind: "classify", number: asked, ...frame };
  worker.postMessage(message, [frame.rgba]);
  return answer;
}

worker.onmessage = ({ data }: MessageEvent<Say>) => {
  if (data.kind === "progress") $("state").textContent = data.text;
  else if (data.kind === "unusable") {
    $("state").textContent = "This bundle cannot be used";
    complain(new Unusable(data.text));
  } else if (data.kind === "ready") {
    contract = data.contract;
    $("state").textContent = "Ready";
    $("about").textContent = `${contract.model}, ${contract.precision}, in ${data.runtime}; ${contract.labels.length} classes`;
    camera.disabled = choose.disabled = false;
  } else {
    const one = waiting.get(data.number);
    waiting.delete(data.number);
    if (data.kind === "found") one?.done(data);
    else one?.failed(new Error(data.text));
  }
};
worker.onerror = () => complain(new Unusable("The app could not start its worker; load the page again."));

// ---------------------------------------------------------------- camera

async function startCamera(): Promise<void> {
  const opened = await openCamera(facing);
  stopCamera();
  stream = opened;
  opened.getVideoTracks()[0].onended = () => {
    stopCamera();
    complain(new Unusable("The camera was taken away. Start it again, or choose a picture."));
  };
  video.srcObject = opened;
  await video.play();
  forgetStill();
  video.hidden = false;
  $("hint").hidden = true;
  camera.textContent = "Stop camera";
  camera.setAttribute("aria-pressed", "true");
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
  flip.hidden = cameras.length < 2;
  void look(opened);
}

function stopCamera(): void {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  video.srcObject = null;
  video.hidden = true;
  flip.hidden = true;
  $("hint").hidden = !still.hidden;
  camera.textContent = "Start camera";
  camera.setAttribute("aria-pressed", "false");
  lastAt = 0;
}

/** One frame after the other, never two at once; a page that is not seen rests. */
async function look(mine: MediaStream): Promise<void> {
  while (stream === mine) {
    await new Promise((next) => requestAnimationFrame(next));
    if (stream !== mine || !video.videoWidth) continue;
    try {
      const found = await ask(pixelsOf(video, video.videoWidth, video.videoHeight));
      if (stream === mine) show(found, true);
    } catch (error) {
      stopCamera();
      complain(error);
    }
  }
}

// ---------------------------------------------------------------- pictures

function forgetStill(): void {
  if (shown) URL.revokeObjectURL(shown);
  shown = "";
  still.hidden = true;
  still.removeAttribute("src");
}

async function classify(picture: File): Promise<void> {
  quiet();
  const url = URL.createObjectURL(picture);
  try {
    const frame = await readFile(picture, url);
    stopCamera();
    forgetStill();
    shown = url;
    still.src = url;
    still.alt = `The chosen picture, ${picture.name}`;
    still.hidden = false;
    $("hint").hidden = true;
    show(await ask(frame), false);
  } catch (error) {
    if (shown !== url) URL.revokeObjectURL(url);
    complain(error);
  }
}

function take(list: FileList | null | undefined): void {
  if (!contract) return;
  const picture = list?.[0];
  if (picture) void classify(picture);
}

camera.onclick = () => {
  quiet();
  if (stream) stopCamera();
  else startCamera().catch(complain);
};
flip.onclick = () => {
  facing = facing === "user" ? "environment" : "user";
  startCamera().catch(complain);
};
choose.onclick = () => file.click();
file.onchange = () => {
  take(file.files);
  file.value = "";
};
document.ondragover = (event) => {
  event.preventDefault();
  stage.classList.add("over");
};
document.ondragleave = () => stage.classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  take(event.dataTransfer?.files);
};
document.onpaste = (event) => take(event.clipboardData?.files);

const byName = Object.entries(FILES).map(([path, url]) => [path.replace("../model/", ""), url]);
const absolute = (url: string) => new URL(url, location.href).href;
worker.postMessage({
  kind: "load",
  manifest: absolute(manifest),
  files: Object.fromEntries(byName.map(([name, url]) => [name, absolute(url)])),
} satisfies Ask);

if (import.meta.env.PROD && "serviceWorker" in navigator) void navigator.serviceWorker.register("./offline.js");
