/** Pixels of a picked file and of the camera, and what to tell a person where there are none. */

import { Unusable } from "./contract";

export const MAX_MEGAPIXELS = 40;

export interface Frame {
  rgba: ArrayBuffer;
  width: number;
  height: number;
}

const canvas = document.createElement("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true })!;

/** What is drawn, at its own size. */
export function pixelsOf(source: CanvasImageSource, width: number, height: number): Frame {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  pen.clearRect(0, 0, width, height);
  pen.drawImage(source, 0, 0);
  return { rgba: pen.getImageData(0, 0, width, height).data.buffer as ArrayBuffer, width, height };
}

/** The size of a picture, before it is decoded into memory. */
async function sizeOf(url: string, name: string): Promise<[number, number]> {
  const probe = new Image();
  probe.src = url;
  await new Promise<void>((done, failed) => {
    probe.onload = () => done();
    probe.onerror = () =>
      failed(new Unusable(`${name} is not a picture that this browser can read. It may be damaged, or another kind of file.`));
  });
  return [probe.naturalWidth, probe.naturalHeight];
}

/** Decode a file as it is: upright, without colour management, which edgevit does not apply either. */
export async function readFile(file: File, url: string): Promise<Frame> {
  const [width, height] = await sizeOf(url, file.name);
  const megapixels = (width * height) / 1e6;
  if (megapixels > MAX_MEGAPIXELS)
    throw new Unusable(
      `${file.name} has ${megapixels.toFixed(0)} megapixels, more than ${MAX_MEGAPIXELS}. Make it smaller and try again.`,
    );
  if (!width || !height) throw new Unusable(`${file.name} does not say how large it is; choose a JPEG or PNG.`);
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Unusable(`${file.name} could not be decoded: it may be damaged or cut off.`);
  });
  try {
    return pixelsOf(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

/** Open a camera. */
export async function openCamera(facing: "environment" | "user"): Promise<MediaStream> {
  if (!navigator.mediaDevices?.getUserMedia)
    throw new Unusable("This page may not use the camera: browsers allow it on HTTPS and on localhost only.");
  const wanted = { facingMode: facing, width: { ideal: 640 }, height: { ideal: 480 } };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: false, video: wanted });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    throw new Unusable(CAMERA[name] ?? `The camera does not start: ${error instanceof Error ? error.message : error}`);
  }
}

const CAMERA: Record<string, string> = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser's site settings, or choose a picture.",
  NotFoundError: "No camera was found. You can still choose a picture.",
  NotReadableError: "Another program is using the camera. Close it, then start the camera again.",
  OverconstrainedError: "No camera was found that fits. You can still choose a picture.",
};
