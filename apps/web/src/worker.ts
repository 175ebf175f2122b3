/** Loads the bundle, checks it, and classifies; beside the page, which stays quick. */

import { best, checkFile, type Contract, type Guess, readContract, Unusable } from "./contract";
import { prepare, withoutAlpha } from "./prepare";
import { type Model, openModel } from "./runtimes";

export type Ask =
  | { kind: "load"; manifest: string; files: Record<string, string> }
  | { kind: "classify"; number: number; rgba: ArrayBuffer; width: number; height: number };

export interface Found {
  guesses: Guess[];
  prepareMs: number;
  runMs: number;
}

export type Say =
  | { kind: "progress"; text: string }
  | { kind: "ready"; contract: Contract; runtime: string }
  | { kind: "unusable"; text: string }
  | ({ kind: "found"; number: number } & Found)
  | { kind: "failed"; number: number; text: string };

let contract: Contract;
let model: Model;
const say = (message: Say) => self.postMessage(message);

async function fetched(url: string, what: string): Promise<Response> {
  const answer = await fetch(url).catch(() => null);
  if (!answer?.ok) throw new Unusable(`${what} could not be fetched. Is the connection there?`);
  return answer;
}

async function load(manifestUrl: string, files: Record<string, string>): Promise<void> {
  const manifest = await (await fetched(manifestUrl, "The manifest")).json().catch(() => {
    throw new Unusable("The manifest is not JSON.");
  });
  contract = readContract(manifest);
  const url = files[contract.entry];
  if (!url) throw new Unusable(`The app was built without the model file ${contract.entry}.`);
  say({ kind: "progress", text: `Fetching the model, ${(contract.bytes / 1e6).toFixed(1)} MB` });
  const bytes = await (await fetched(url, "The model file")).arrayBuffer();
  await checkFile(contract, bytes);
  say({ kind: "progress", text: "Starting the runtime" });
  model = await openModel(contract, bytes);
  const { dtype, shape } = contract.input;
  const length = shape.reduce((a, b) => a * b);
  await model.run(dtype === "uint8" ? new Uint8Array(length) : new Float32Array(length)); // the first run is slow
  say({ kind: "ready", contract, runtime: model.runtime });
}

async function classify(rgba: ArrayBuffer, width: number, height: number): Promise<Found> {
  const start = performance.now();
  const input = prepare(withoutAlpha(new Uint8Array(rgba), width, height), contract);
  const middle = performance.now();
  const scores = await model.run(input);
  return {
    guesses: best(scores, contract.labels),
    prepareMs: middle - start,
    runMs: performance.now() - middle,
  };
}

const message = (error: unknown) => (error instanceof Error ? error.message : String(error));

self.onmessage = async ({ data }: MessageEvent<Ask>) => {
  if (data.kind === "load") {
    await load(data.manifest, data.files).catch((error) =>
      say({ kind: "unusable", text: error instanceof Unusable ? error.message : `The model cannot be loaded: ${message(error)}` }),
    );
    return;
  }
  try {
    say({ kind: "found", number: data.number, ...(await classify(data.rgba, data.width, data.height)) });
  } catch (error) {
    say({ kind: "failed", number: data.number, text: `The model could not run: ${message(error)}` });
  }
};
