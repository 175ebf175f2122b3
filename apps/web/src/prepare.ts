/**
 * From the pixels of a picture of any size to the exact input of the model: resize, crop, normalise.
 *
 * The same integers as Pillow's resize gives, which edgevit uses: two passes with coefficients of 22 fractional
 * bits, rounded to bytes in between. A canvas would resize faster, differently in every browser, and wrongly.
 */

import type { Contract, Filter, Rule } from "./contract";

/** Interleaved RGB bytes. */
export interface Pixels {
  data: Uint8Array;
  width: number;
  height: number;
}

const BITS = 22;
const HALF = 1 << (BITS - 1);

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const KERNELS: Record<Exclude<Filter, "nearest">, [number, (x: number) => number]> = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [
    2,
    (signed) => {
      const x = Math.abs(signed);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    },
  ],
  lanczos: [3, (x) => (x > -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

interface Taps {
  first: Int32Array;
  count: Int32Array;
  weights: Int32Array;
  stride: number;
}

/** Which source pixels make each target pixel, and how much of each. */
function taps(from: number, to: number, filter: Exclude<Filter, "nearest">): Taps {
  const [reach, kernel] = KERNELS[filter];
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const support = reach * widened;
  const stride = Math.ceil(support) * 2 + 1;
  const [first, count] = [new Int32Array(to), new Int32Array(to)];
  const weights = new Int32Array(to * stride);
  const exact = new Float64Array(stride);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    let total = 0;
    for (let k = 0; k < end - start; k++) {
      exact[k] = kernel((k + start - centre + 0.5) * (1 / widened));
      total += exact[k];
    }
    for (let k = 0; k < end - start; k++) {
      const weight = (total === 0 ? exact[k] : exact[k] / total) * (1 << BITS);
      weights[i * stride + k] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    first[i] = start;
    count[i] = end - start;
  }
  return { first, count, weights, stride };
}

const byte = (sum: number) => {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
};

/** One pass along the rows or the columns. */
function pass(source: Pixels, to: number, filter: Exclude<Filter, "nearest">, across: boolean): Pixels {
  const along = across ? source.width : source.height;
  const lines = across ? source.height : source.width;
  const { first, count, weights, stride } = taps(along, to, filter);
  const width = across ? to : source.width;
  const height = across ? source.height : to;
  const data = new Uint8Array(width * height * 3);
  const [stepIn, lineIn] = across ? [3, source.width * 3] : [source.width * 3, 3];
  const [stepOut, lineOut] = across ? [3, width * 3] : [width * 3, 3];
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < to; i++) {
      let [r, g, b] = [HALF, HALF, HALF];
      let at = line * lineIn + first[i] * stepIn;
      for (let k = i * stride; k < i * stride + count[i]; k++, at += stepIn) {
        r += source.data[at] * weights[k];
        g += source.data[at + 1] * weights[k];
        b += source.data[at + 2] * weights[k];
      }
      const out = line * lineOut + i * stepOut;
      data[out] = byte(r);
      data[out + 1] = byte(g);
      data[out + 2] = byte(b);
    }
  }
  return { data, width, height };
}

function nearest(source: Pixels, width: number, height: number): Pixels {
  const data = new Uint8Array(width * height * 3);
  const [stepX, stepY] = [source.width / width, source.height / height];
  let y = stepY * 0.5;
  for (let row = 0; row < height; row++, y += stepY) {
    let x = stepX * 0.5;
    for (let column = 0; column < width; column++, x += stepX) {
      const at = (Math.trunc(y) * source.width + Math.trunc(x)) * 3;
      data.set(source.data.subarray(at, at + 3), (row * width + column) * 3);
    }
  }
  return { data, width, height };
}

/** Resize as Pillow does. */
export function resize(source: Pixels, width: number, height: number, filter: Filter): Pixels {
  if (source.width === width && source.height === height) return source;
  if (filter === "nearest") return nearest(source, width, height);
  const wide = source.width === width ? source : pass(source, width, filter, true);
  return wide.height === height ? wide : pass(wide, height, filter, false);
}

/** Python's round: halves go to the even neighbour. */
const round = (value: number) => {
  const low = Math.floor(value);
  const rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
};

/** Width and height after resizing, before cropping. */
export function resizedSize(width: number, height: number, rule: Rule): [number, number] {
  const [tall, wide] = rule.size.map((side) => Math.floor(side / rule.crop_pct));
  if (rule.crop_mode === "squash") return [wide, tall];
  if (rule.crop_mode === "center" && tall === wide)
    return width <= height
      ? [tall, Math.trunc((tall * height) / width)]
      : [Math.trunc((tall * width) / height), tall];
  const ratios = [height / tall, width / wide];
  const ratio = rule.crop_mode === "border" ? Math.max(...ratios) : Math.min(...ratios);
  return [round(width / ratio), round(height / ratio)];
}

/** Cut the centre out; what is missing is the mean colour (border) or black. */
function centre(source: Pixels, rule: Rule): Pixels {
  const [height, width] = rule.size;
  const missing = [Math.max(0, height - source.height), Math.max(0, width - source.width)];
  let from = source;
  if (missing[0] || missing[1]) {
    const fill = rule.crop_mode === "border" ? rule.mean.map((value) => round(255 * value)) : [0, 0, 0];
    from = { width: source.width + missing[1], height: source.height + missing[0], data: new Uint8Array() };
    from.data = new Uint8Array(from.width * from.height * 3).map((_, i) => fill[i % 3]);
    for (let row = 0; row < source.height; row++) {
      const at = ((row + (missing[0] >> 1)) * from.width + (missing[1] >> 1)) * 3;
      from.data.set(source.data.subarray(row * source.width * 3, (row + 1) * source.width * 3), at);
    }
  }
  const top = round((from.height - height) / 2);
  const left = round((from.width - width) / 2);
  const data = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row++) {
    const at = ((top + row) * from.width + left) * 3;
    data.set(from.data.subarray(at, at + width * 3), row * width * 3);
  }
  return { data, width, height };
}

/** RGB bytes at the model's size. */
export function toModelSize(source: Pixels, rule: Rule): Pixels {
  const [width, height] = resizedSize(source.width, source.height, rule);
  return centre(resize(source, width, height, rule.interpolation), rule);
}

/** The exact input: bytes [1, H, W, 3], or floats as the contract says. */
export function prepare(source: Pixels, contract: Contract): Uint8Array | Float32Array {
  const { data } = toModelSize(source, contract.rule);
  const { kind, layout } = contract.input;
  if (kind === "image" && layout === "NHWC") return data;
  const plane = data.length / 3;
  const found = new Float32Array(data.length);
  const [f, { mean, std }] = [Math.fround, contract.rule];
  for (let channel = 0; channel < 3; channel++)
    for (let i = 0; i < plane; i++) {
      const value = data[i * 3 + channel];
      found[channel * plane + i] =
        kind === "tensor" ? f(f(f(value / 255) - f(mean[channel])) / f(std[channel])) : value;
    }
  return found;
}

/** RGB of RGBA, as a canvas gives it. */
export function withoutAlpha(rgba: Uint8ClampedArray | Uint8Array, width: number, height: number): Pixels {
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height };
}
