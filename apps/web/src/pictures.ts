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

/**
 * What a picture with transparent parts holds, for the contract drops alpha: a 2D canvas multiplies colours by it, and
 * what is transparent comes back black. Null where WebGL is missing or the picture is too large for it.
 */
function withColoursBehindAlpha(bitmap: ImageBitmap): Frame | null {
  const { width, height } = bitmap;
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl) return null;
  try {
    if (Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
    gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) return null;
    const rgba = new Uint8Array(width * height * 4);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
    return gl.getError() === gl.NO_ERROR ? { rgba: rgba.buffer, width, height } : null;
  } finally {
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** Whether any part of it is transparent. */
function isTransparent(frame: Frame): boolean {
  const rgba = new Uint8Array(frame.rgba);
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] !== 255) return true;
  return false;
}

/** Upright and with the file's own colours; older browsers know fewer of the options and apply the orientation anyway. */
async function decoded(file: File): Promise<ImageBitmap> {
  const options: ImageBitmapOptions = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  try {
    return await createImageBitmap(file, { ...options, imageOrientation: "from-image" });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return await createImageBitmap(file, options);
  }
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
  const bitmap = await decoded(file).catch(() => {
    throw new Unusable(`${file.name} could not be decoded: it may be damaged or cut off.`);
  });
  try {
    const frame = pixelsOf(bitmap, bitmap.width, bitmap.height);
    return (isTransparent(frame) && withColoursBehindAlpha(bitmap)) || frame;
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
