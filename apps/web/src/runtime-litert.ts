/** LiteRT.js on WebAssembly, with XNNPACK. */

import * as litert from "@litertjs/core";
import compatScript from "../node_modules/@litertjs/core/wasm/litert_wasm_compat_internal.js?url";
import compatWasm from "../node_modules/@litertjs/core/wasm/litert_wasm_compat_internal.wasm?url";
import script from "../node_modules/@litertjs/core/wasm/litert_wasm_internal.js?url";
import wasm from "../node_modules/@litertjs/core/wasm/litert_wasm_internal.wasm?url";
import type { Contract } from "./contract";
import type { Model } from "./runtimes";

/** LiteRT.js loads its script as a page does, or as a classic worker; this is a module worker, so it is given it. */
async function giveScript(scriptUrl: string, wasmUrl: string): Promise<void> {
  const text = await (await fetch(scriptUrl)).text();
  const home = URL.createObjectURL(new Blob([text, "\nexport default ModuleFactory;"], { type: "text/javascript" }));
  const scope = self as any;
  try {
    scope.ModuleFactory = (await import(/* @vite-ignore */ home)).default;
  } finally {
    URL.revokeObjectURL(home);
  }
  scope.importScripts = () => undefined;
  scope.Module = { locateFile: () => new URL(wasmUrl, self.location.href).href };
}

export async function open(contract: Contract, bytes: ArrayBuffer): Promise<Model> {
  const fast = await litert.supportsFeature("relaxedSimd");
  await giveScript(fast ? script : compatScript, fast ? wasm : compatWasm);
  await litert.loadLiteRt("given.js");
  const model = await litert.loadAndCompile(new Uint8Array(bytes), { accelerator: "wasm" });
  return {
    runtime: "LiteRT.js 2.5.3",
    async run(input) {
      const given = new litert.Tensor(input as any, contract.input.shape);
      const [answer] = await model.run([given]);
      const found = Float32Array.from(answer.toTypedArray() as Float32Array);
      answer.delete();
      given.delete();
      return found;
    },
  };
}
