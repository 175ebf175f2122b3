/** The input contract of a bundle, as its manifest states it; see edgevit's docs/input-contract.md. */

export type Backend = "onnx" | "litert";
export type CropMode = "center" | "squash" | "border";
export type Filter = "bicubic" | "bilinear" | "nearest" | "lanczos";

export interface Rule {
  size: [number, number];
  crop_pct: number;
  crop_mode: CropMode;
  interpolation: Filter;
  mean: number[];
  std: number[];
}

export interface Input {
  name: string;
  kind: "image" | "tensor";
  layout: "NHWC" | "NCHW";
  dtype: "uint8" | "float32";
  shape: [number, number, number, number];
}

export interface Contract {
  model: string;
  backend: Backend;
  precision: string;
  entry: string;
  bytes: number;
  sha256: string;
  input: Input;
  rule: Rule;
  output: { name: string; kind: "probabilities" | "logits"; classes: number };
  labels: string[];
}

/** Something a person can read and act on. */
export class Unusable extends Error {}

const RUNTIMES: Record<string, string> = {
  coreml: "Core ML runs on Apple's systems only",
  executorch: "ExecuTorch does not run in a browser",
};

/** Read what an app needs of a manifest, and refuse what it cannot run. */
export function readContract(manifest: any): Contract {
  const version = manifest?.schema_version;
  if (version !== 1) throw new Unusable(`This app reads manifests of version 1; this one has ${version ?? "none"}.`);
  const backend = manifest.target.backend;
  if (backend !== "onnx" && backend !== "litert") {
    const why = RUNTIMES[backend] ?? "no browser runtime is known for it";
    throw new Unusable(`The bundle is in the format ${backend}: ${why}. Export it with -t onnx or -t litert.`);
  }
  if (manifest.output.kind === "features")
    throw new Unusable("The bundle gives features, not classes. Export it with --output probabilities.");
  const file = (manifest.files ?? []).find((one: any) => one.path === manifest.entry);
  if (!file) throw new Unusable("The manifest does not list the model file.");
  return {
    model: manifest.model.name,
    backend,
    precision: manifest.target.precision,
    entry: manifest.entry,
    bytes: file.bytes,
    sha256: file.sha256,
    input: manifest.input,
    rule: manifest.preprocess,
    output: manifest.output,
    labels: manifest.labels.length ? manifest.labels : Array.from({ length: manifest.output.classes }, (_, i) => `${i}`),
  };
}

/** Refuse a model file that is not the one the manifest names. */
export async function checkFile(contract: Contract, bytes: ArrayBuffer): Promise<void> {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = Array.from(found, (one) => one.toString(16).padStart(2, "0")).join("");
  if (bytes.byteLength !== contract.bytes || hex !== contract.sha256)
    throw new Unusable(
      `The model file ${contract.entry} is not the one its manifest names: it was changed or cut off. Copy the bundle again.`,
    );
}

export interface Guess {
  index: number;
  label: string;
  score: number;
}

/** The most likely classes, best first; of equal scores the lower index first. */
export function best(scores: ArrayLike<number>, labels: string[], count = 5): Guess[] {
  return Array.from(scores, (score, index) => ({ index, label: labels[index] ?? `${index}`, score }))
    .sort((a, b) => b.score - a.score || a.index - b.index)
    .slice(0, count);
}
