/** The two browser runtimes behind one function; only the one that the bundle needs is built into the app. */

import type { Contract } from "./contract";

/** Runs the model: the exact input to the one output. */
export interface Model {
  runtime: string;
  run(input: Uint8Array | Float32Array): Promise<Float32Array>;
}

declare const __BACKEND__: string;

/** Open the model in the runtime of its format. */
export async function openModel(contract: Contract, bytes: ArrayBuffer): Promise<Model> {
  if (__BACKEND__ === "onnx") return (await import("./runtime-onnx")).open(contract, bytes);
  return (await import("./runtime-litert")).open(contract, bytes);
}

/** How many threads the page may use: more than one only where it shares its process with no other origin. */
export const threads = (): number =>
  self.crossOriginIsolated ? Math.min(4, Math.max(1, navigator.hardwareConcurrency - 1)) : 1;
