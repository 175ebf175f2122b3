/** onnxruntime-web on WebAssembly. */

import * as ort from "onnxruntime-web/wasm";
import mjs from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import type { Contract } from "./contract";
import { type Model, threads } from "./runtimes";

export async function open(contract: Contract, bytes: ArrayBuffer): Promise<Model> {
  ort.env.wasm.wasmPaths = { mjs: new URL(mjs, self.location.href), wasm: new URL(wasm, self.location.href) };
  ort.env.wasm.numThreads = threads();
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return {
    runtime: `ONNX Runtime Web ${ort.env.versions.web ?? ""}`.trim(),
    async run(input) {
      const feeds = { [contract.input.name]: new ort.Tensor(contract.input.dtype, input as any, contract.input.shape) };
      const found = await session.run(feeds);
      return found[contract.output.name].data as Float32Array;
    },
  };
}
