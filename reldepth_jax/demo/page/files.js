// The files that can be saved: PNG of 16 bits or in colours, and NPY. Written a band of rows at a
// time, since a photograph may have 89 million pixels.

import { roundHalfEven } from "./resample.js";

const BAND = 2 ** 20; // pixels

function* bands(enlarged) {
  const [height, width] = enlarged.size;
  const rows = Math.max(1, Math.floor(BAND / width));
  for (let first = 0; first < height; first += rows) {
    yield enlarged.band(first, Math.min(first + rows, height));
  }
}

/** The least and the largest value of a map. */
export function range(enlarged) {
  let [low, high] = [Infinity, -Infinity];
  for (const band of bands(enlarged)) {
    for (const value of band) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

/** A map as NPY, float32. */
export function npy(enlarged) {
  const [height, width] = enlarged.size;
  const start = `{'descr': '<f4', 'fortran_order': False, 'shape': (${height}, ${width}), }`;
  const padding = 63 - ((10 + start.length) % 64);
  const text = `${start}${" ".repeat(padding)}\n`;
  const head = new Uint8Array(10 + text.length);
  head.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, text.length & 255, text.length >> 8]);
  head.set(new TextEncoder().encode(text), 10);
  // Typed arrays have the byte order of the machine; all that run browsers are little-endian.
  return new Blob([head, ...bands(enlarged)], { type: "application/octet-stream" });
}

/** A map as 16-bit PNG: the least value is 0, the largest 65535. */
export async function png16(enlarged, [low, high], texts) {
  const scale = high - low || 1;
  return png(enlarged, { depth: 16, type: 0, bytes: 2, texts }, (values) => {
    const bytes = new Uint8Array(2 * values.length);
    for (let k = 0; k < values.length; k++) {
      const level = roundHalfEven(65535 * ((values[k] - low) / scale));
      bytes[2 * k] = level >> 8;
      bytes[2 * k + 1] = level & 255;
    }
    return bytes;
  });
}

/** A map in colours as PNG; `paint` as in picture.js, for values and three bytes each. */
export async function pngInColours(enlarged, paint, texts) {
  return png(enlarged, { depth: 8, type: 2, bytes: 3, texts }, (values) => {
    const bytes = new Uint8Array(3 * values.length);
    paint(values, bytes);
    return bytes;
  });
}

async function png(enlarged, { depth, type, bytes, texts }, encode) {
  const [height, width] = enlarged.size;
  const packer = new CompressionStream("deflate");
  const packed = collect(packer.readable);
  const writer = packer.writable.getWriter();
  const stride = width * bytes;
  let above = new Uint8Array(stride);
  for (const band of bands(enlarged)) {
    const raw = encode(band);
    const rows = raw.length / stride;
    const lines = new Uint8Array(rows * (stride + 1));
    for (let row = 0; row < rows; row++) {
      const line = raw.subarray(row * stride, (row + 1) * stride);
      const at = row * (stride + 1);
      lines[at] = 2; // difference to the row above: maps are smooth
      for (let k = 0; k < stride; k++) lines[at + 1 + k] = line[k] - above[k];
      above = line;
    }
    await writer.ready;
    await writer.write(lines);
  }
  await writer.close();
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([depth, type, 0, 0, 0], 8);
  return new Blob(
    [
      new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
      ...chunk("IHDR", header),
      ...Object.entries(texts).flatMap(([key, text]) => chunk("tEXt", latin1(`${key}\0${text}`))),
      ...(await packed).flatMap((part) => chunk("IDAT", part)),
      ...chunk("IEND", new Uint8Array(0)),
    ],
    { type: "image/png" },
  );
}

async function collect(readable) {
  const parts = [];
  const reader = readable.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return parts;
    parts.push(value);
  }
}

const latin1 = (text) => Uint8Array.from(text, (letter) => {
  const code = letter.codePointAt(0);
  return code < 256 ? code : 63; // a question mark
});

const CRC = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function chunk(name, data) {
  const start = new Uint8Array(8);
  new DataView(start.buffer).setUint32(0, data.length);
  start.set(latin1(name), 4);
  let value = 0xffffffff;
  for (const part of [start.subarray(4), data]) {
    for (const byte of part) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  }
  const end = new Uint8Array(4);
  new DataView(end.buffer).setUint32(0, value ^ 0xffffffff);
  return [start, data, end];
}
