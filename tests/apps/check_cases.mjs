// node check_cases.mjs PREPARE FOLDER: the TypeScript against what Python made; prints the cases that differ.
import { readFileSync } from "node:fs";

const { prepare } = await import(process.argv[2]);
const folder = process.argv[3];
const cases = JSON.parse(readFileSync(`${folder}/cases.json`, "utf8"));
const wrong = cases.flatMap((one, number) => {
  const picture = { data: new Uint8Array(readFileSync(`${folder}/${number}.rgb`)), width: one.width, height: one.height };
  const found = Buffer.from(prepare(picture, { rule: one.rule, input: one.input }).buffer);
  const wanted = readFileSync(`${folder}/${number}.bin`);
  return found.equals(wanted) ? [] : [[number, differing(found, wanted, one)]];
});

// By how many steps of 1/255 the values differ at most, and how many of them; lengths that differ are the worst.
function differing(found, wanted, one) {
  if (found.length !== wanted.length) return [Infinity, Infinity];
  const Kind = one.input.dtype === "uint8" ? Uint8Array : Float32Array;
  const [a, b] = [found, wanted].map((all) => new Kind(all.buffer.slice(all.byteOffset, all.byteOffset + all.length)));
  const step = one.input.kind === "tensor" ? 1 / 255 / Math.min(...one.rule.std) : 1;
  const gaps = Array.from(a, (value, i) => Math.abs(value - b[i]) / step);
  return [Math.max(...gaps), gaps.filter((gap) => gap > 0).length];
}

console.log(JSON.stringify({ cases: cases.length, wrong }));
