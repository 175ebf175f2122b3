/** The golden vectors of the bundle in `model/`: each picture gives the exact input that edgevit compared. */

import { readdirSync, readFileSync } from "node:fs";
// @ts-expect-error it has no types
import { PNG } from "pngjs";
import { expect, test } from "vitest";
import { readContract } from "../src/contract";
import { prepare, withoutAlpha } from "../src/prepare";

const FOLDER = process.env.EDGEVIT_BUNDLE ?? "model";

/** One tensor of a safetensors file. */
function tensor(path: string, name: string): { values: Uint8Array | Float32Array; shape: number[] } {
  const file = readFileSync(path);
  const size = Number(file.readBigUInt64LE(0));
  const { dtype, shape, data_offsets: [start, end] } = JSON.parse(file.toString("utf8", 8, 8 + size))[name];
  const bytes = new Uint8Array(file.subarray(8 + size + start, 8 + size + end));
  return { values: dtype === "U8" ? bytes : new Float32Array(bytes.buffer), shape };
}

const contract = readContract(JSON.parse(readFileSync(`${FOLDER}/manifest.json`, "utf8")));
const golden = tensor(`${FOLDER}/golden/inputs.safetensors`, "inputs");
const pictures = readdirSync(`${FOLDER}/golden`).filter((name) => name.endsWith(".png"));

test("there is a picture for every golden input", () => {
  expect(pictures.length).toBe(golden.shape[0]);
});

test.each(pictures)("%s becomes its golden input exactly", (name) => {
  const { data, width, height } = PNG.sync.read(readFileSync(`${FOLDER}/golden/${name}`));
  const index = Number(/\d+/.exec(name)![0]);
  const length = golden.values.length / golden.shape[0];
  const wanted = golden.values.subarray(index * length, (index + 1) * length);
  const found = prepare(withoutAlpha(data, width, height), contract);
  expect(found.constructor).toBe(wanted.constructor);
  expect(Buffer.from(found.buffer).equals(Buffer.from(wanted.slice().buffer))).toBe(true);
});
