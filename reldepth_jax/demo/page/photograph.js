// From a file to the pixels of a photograph as it is displayed, a band of rows at a time.

const BAND = 2 ** 22; // pixels
const TILE = 8192; // columns; some browsers have no wider canvas

const KINDS = { heic: "HEIC", heix: "HEIC", mif1: "HEIC", msf1: "HEIC", hevc: "HEIC" };

/** What is wrong with a file, in one line for the person who chose it. */
export class Unusable extends Error {}

/**
 * Decode a file: turned as its EXIF orientation says, its colour profile ignored, as the package
 * does. Throws Unusable for what is no photograph and for more than `maxPixels`, which is known
 * before anything is decoded.
 */
export async function decode(file, maxPixels) {
  if (!file.size) throw new Unusable("the file is empty");
  const { kind, size } = await outline(file);
  if (size) refuseLarge(size, maxPixels);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    if (!kind) throw new Unusable("this is not a photograph that can be read (JPEG, PNG, WebP, AVIF, GIF, BMP)");
    if (kind === "TIFF" || kind === "HEIC") {
      throw new Unusable(`this browser does not read ${kind}; save the photograph as JPEG or PNG`);
    }
    throw new Unusable(
      `this ${kind} cannot be decoded: it is damaged, or too large for the memory of this browser`,
    );
  }
  try {
    refuseLarge([bitmap.height, bitmap.width], maxPixels);
  } catch (error) {
    bitmap.close();
    throw error;
  }
  return bitmap;
}

function refuseLarge([height, width], maxPixels) {
  if (height < 1 || width < 1) throw new Unusable("the image is empty");
  if (height * width > maxPixels) {
    const millions = (pixels) => (pixels / 1e6).toFixed(0);
    throw new Unusable(
      `${width}x${height} are ${millions(height * width)} million pixels; the limit is` +
        ` ${millions(maxPixels)} million. Make the photograph smaller first`,
    );
  }
}

/** Call `take(rgba, offset, y)` for every row; transparent pixels lie on white. */
export function readRows(bitmap, take) {
  const { width, height } = bitmap;
  const rows = Math.min(height, Math.max(1, Math.floor(BAND / width)));
  const canvas = new OffscreenCanvas(Math.min(width, TILE), rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Unusable("this browser has no memory left for the photograph");
  context.imageSmoothingEnabled = false;
  const band = width > TILE ? new Uint8ClampedArray(4 * width * rows) : null;
  let visible = false;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    let pixels = band;
    for (let left = 0; left < width; left += TILE) {
      const columns = Math.min(TILE, width - left);
      context.clearRect(0, 0, columns, count);
      context.drawImage(bitmap, left, top, columns, count, 0, 0, columns, count);
      const tile = context.getImageData(0, 0, columns, count).data;
      if (!band) {
        pixels = tile;
        continue;
      }
      for (let y = 0; y < count; y++) {
        const row = tile.subarray(4 * y * columns, 4 * (y + 1) * columns);
        band.set(row, 4 * (y * width + left));
      }
    }
    visible = layOnWhite(pixels, 4 * width * count) || visible;
    for (let y = 0; y < count; y++) take(pixels, 4 * y * width, top + y);
  }
  if (!visible) throw new Unusable("all pixels of this file are transparent");
}

function layOnWhite(pixels, end) {
  let visible = false;
  for (let at = 3; at < end; at += 4) {
    const alpha = pixels[at];
    if (alpha === 255) {
      visible = true;
      continue;
    }
    visible = visible || alpha > 0;
    for (let c = at - 3; c < at; c++) {
      pixels[c] = Math.round((pixels[c] * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return visible;
}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

/** What the first bytes of a file say: its kind and [height, width], where they are known. */
async function outline(file) {
  const bytes = new Uint8Array(await file.slice(0, 65536).arrayBuffer());
  const view = new DataView(bytes.buffer);
  try {
    if (view.getUint16(0) === 0xffd8) return { kind: "JPEG", size: await sizeOfJpeg(file) };
    if (text(bytes, 1, 4) === "PNG") {
      return { kind: "PNG", size: [view.getUint32(20), view.getUint32(16)] };
    }
    if (text(bytes, 0, 3) === "GIF") {
      return { kind: "GIF", size: [view.getUint16(8, true), view.getUint16(6, true)] };
    }
    if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP") {
      return { kind: "WebP", size: sizeOfWebp(bytes, view) };
    }
    if (text(bytes, 0, 2) === "BM") {
      return { kind: "BMP", size: [Math.abs(view.getInt32(22, true)), view.getInt32(18, true)] };
    }
    if (["II*\0", "MM\0*"].includes(text(bytes, 0, 4))) return { kind: "TIFF" };
    if (text(bytes, 4, 8) === "ftyp") {
      const brand = text(bytes, 8, 12);
      if (KINDS[brand]) return { kind: KINDS[brand] };
      if (!brand.startsWith("avi")) return {};
      return { kind: "AVIF", size: sizeOfAvif(bytes, view) };
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a header that ends early
  }
  return {};
}

async function sizeOfJpeg(file) {
  for (let at = 2; at < file.size; ) {
    const view = new DataView(await file.slice(at, at + 9).arrayBuffer());
    const marker = view.getUint16(0);
    if (marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker)) {
      return [view.getUint16(5), view.getUint16(7)];
    }
    if (marker === 0xffda) return undefined;
    at += marker === 0xffff ? 1 : 2 + view.getUint16(2);
  }
  return undefined;
}

function sizeOfWebp(bytes, view) {
  const part = text(bytes, 12, 16);
  if (part === "VP8X") {
    const side = (at) => 1 + bytes[at] + (bytes[at + 1] << 8) + (bytes[at + 2] << 16);
    return [side(27), side(24)];
  }
  if (part === "VP8L") {
    const bits = view.getUint32(21, true);
    return [1 + ((bits >>> 14) & 0x3fff), 1 + (bits & 0x3fff)];
  }
  return [view.getUint16(28, true) & 0x3fff, view.getUint16(26, true) & 0x3fff];
}

function sizeOfAvif(bytes, view) {
  for (let at = 0; at + 16 < bytes.length; at++) {
    if (text(bytes, at, at + 4) === "ispe") return [view.getUint32(at + 12), view.getUint32(at + 8)];
  }
  return undefined;
}
