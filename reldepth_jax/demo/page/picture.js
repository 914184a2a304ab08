// A map in colours, as `pictures.colorize` of the Python package: by rank, so that they show order
// and not amount.

import { roundHalfEven } from "./resample.js";

const LEVELS = 256;

/** The values at which the colour changes, from a sample of an enlarged map. */
export function colourEdges(enlarged) {
  const [height, width] = enlarged.size;
  const count = height * width;
  const stride = Math.floor(count / 2 ** 18) | 1;
  const sample = new Float32Array(Math.ceil(count / stride));
  for (let k = 0; k < sample.length; k++) {
    const place = k * stride;
    sample[k] = enlarged.at(Math.floor(place / width), place % width);
  }
  sample.sort();
  return Float32Array.from({ length: LEVELS - 1 }, (_, k) =>
    sample[roundHalfEven((sample.length - 1) * ((k + 1) / LEVELS))],
  );
}

function searchSorted(edges, value, right) {
  let [low, high] = [0, edges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (right ? edges[middle] <= value : edges[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Write the colour of each value into `pixels`, of `channels` bytes each. */
export function paint(values, edges, colours, pixels, channels) {
  for (let k = 0; k < values.length; k++) {
    const below = searchSorted(edges, values[k], false);
    const upTo = searchSorted(edges, values[k], true);
    const level = 3 * ((below + upTo) >> 1);
    for (let c = 0; c < 3; c++) pixels[channels * k + c] = colours[level + c];
    if (channels === 4) pixels[4 * k + 3] = 255;
  }
}
