// Resizing as the Python package does it (data/images/preprocessing.py, geometry.py, resampling.py):
// the same size rules, kernels, order of passes and rounding. Canvas scaling differs between
// browsers, and a network that sees other pixels gives another map.
//
// Sizes are [height, width]. Arrays are row-major.

const LEAST = 32; // geometry.STRIDE
const AREA_FACTOR = 4; // of geometry.affordable_scale
const PRECISION = 1 << 22; // Pillow's fixed point for 8-bit images
const CUBIC = -0.75; // Keys' parameter, as OpenCV and torch have it

/** Round halves to even, as Python and NumPy do. */
export function roundHalfEven(x) {
  const below = Math.floor(x);
  const rest = x - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** The size at which the network sees a photograph, without padding. */
export function fittedSize([height, width], { fit, size, multiple }) {
  if (fit === "square") return [size, size];
  if (fit === "short_side") {
    const wanted = size / Math.min(height, width);
    const affordable = affordableScale(height, width, size, LEAST);
    const side = wanted <= affordable
      ? (length) => roundHalfEven(length * wanted)
      : (length) => Math.trunc(length * affordable);
    return [Math.max(1, side(height)), Math.max(1, side(width))];
  }
  if (fit === "long_side_ceil") {
    const part = multiple * Math.max(height, width);
    return [height, width].map((side) => Math.ceil((side * size) / part) * multiple);
  }
  if (fit === "long_side_floor") {
    const scale = Math.min(size / height, size / width);
    return [height, width].map(
      (side) => Math.max(1, roundHalfEven((scale * side) / multiple)) * multiple,
    );
  }
  if (fit !== "lower_bound" && fit !== "minimal") throw new Error(`unknown fit ${fit}`);
  const [byHeight, byWidth] = [size / height, size / width];
  let scale = Math.max(byHeight, byWidth);
  if (fit === "minimal") {
    scale = Math.abs(1 - byWidth) < Math.abs(1 - byHeight) ? byWidth : byHeight;
  }
  const affordable = affordableScale(height, width, size, multiple);
  const least = fit === "lower_bound" && scale <= affordable ? size : 1;
  return [height, width].map((side) => {
    const exact = (Math.min(scale, affordable) * side) / multiple;
    const count = roundHalfEven(exact);
    return ((count * multiple >= least ? count : Math.ceil(exact)) || 1) * multiple;
  });
}

function affordableScale(height, width, shortSide, least) {
  const area = AREA_FACTOR * shortSide ** 2;
  return Math.min(Math.sqrt(area / (height * width)), area / (least * Math.max(height, width)));
}

// For each new pixel of an axis the old ones that it is computed from, and their weights.

function averagingTaps(before, after, support, kernel) {
  const scale = before / after;
  const wide = Math.max(scale, 1);
  const reach = support * wide;
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(before, Math.trunc(centre + reach + 0.5));
    const weights = [];
    let total = 0;
    for (let old = first; old < end; old++) {
      const weight = kernel((old - centre + 0.5) * (1 / wide));
      weights.push(weight);
      total += weight;
    }
    return weights.map((weight, index) => ({
      from: first + index,
      weight: total === 0 ? weight : weight / total,
    }));
  });
}

const triangle = (x) => Math.max(0, 1 - Math.abs(x));
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const lanczos = (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0);

function betweenTwo(where, before) {
  const held = Math.min(Math.max(where, 0), before - 1);
  const below = Math.floor(held);
  const share = held - below;
  return [
    { from: below, weight: 1 - share },
    { from: Math.min(below + 1, before - 1), weight: share },
  ];
}

function cubicTaps(where, before) {
  const below = Math.floor(where);
  return [-1, 0, 1, 2].map((step) => {
    const x = Math.abs(where - (below + step));
    const near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
    const far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC;
    const from = Math.min(Math.max(below + step, 0), before - 1);
    return { from, weight: x <= 1 ? near : x < 2 ? far : 0 };
  });
}

function boxTaps(before, after, place) {
  const [low, high] = [(place * before) / after, ((place + 1) * before) / after];
  const taps = [];
  let total = 0;
  for (let old = Math.floor(low); old < high; old++) {
    const weight = Math.min(high, old + 1) - Math.max(low, old);
    taps.push({ from: Math.min(old, before - 1), weight });
    total += weight;
  }
  return taps.map(({ from, weight }) => ({ from, weight: weight / total }));
}

// OpenCV's INTER_AREA where a side grows, in its own floats.
function stretchTaps(before, after, place) {
  const first = Math.floor(place * (1 / (after / before)));
  let share = Math.fround(place + 1 - (first + 1) * (after / before));
  share = share > 0 ? share - Math.floor(share) : 0;
  return [
    { from: first, weight: 1 - share },
    { from: Math.min(first + 1, before - 1), weight: share },
  ];
}

function tapsOf(before, after, kernel, grows) {
  if (kernel === "triangle") return averagingTaps(before, after, 1, triangle);
  if (kernel === "lanczos") return averagingTaps(before, after, 3, lanczos);
  const centre = (place) => (place + 0.5) * (before / after) - 0.5;
  const one = {
    linear: (place) => betweenTwo(centre(place), before),
    linear_aligned: (place) =>
      betweenTwo(place * ((before - 1) / Math.max(after - 1, 1)), before),
    cubic: (place) => cubicTaps(centre(place), before),
    area: (place) =>
      grows ? stretchTaps(before, after, place) : boxTaps(before, after, place),
  }[kernel];
  if (!one) throw new Error(`unknown kernel ${kernel}`);
  return Array.from({ length: after }, (_, place) => one(place));
}

const clip8 = (x) => Math.min(255, Math.max(0, x));
const inFixedPoint = (taps) =>
  taps.map((tap) =>
    tap.map(({ from, weight }) => ({
      from,
      weight: Math.trunc(weight * PRECISION + (weight < 0 ? -0.5 : 0.5)),
    })),
  );

// An axis that keeps its length is left alone, as Pillow does.
const identity = (length) => Array.from({ length }, (_, place) => [{ from: place, weight: 1 }]);

// Flat arrays: the loops over all pixels of a photograph must not chase objects.
function flat(taps) {
  const start = new Int32Array(taps.length + 1);
  taps.forEach((tap, place) => (start[place + 1] = start[place] + tap.length));
  const from = new Int32Array(start[taps.length]);
  const weight = new Float64Array(start[taps.length]);
  let at = 0;
  for (const tap of taps) {
    for (const each of tap) {
      from[at] = each.from;
      weight[at++] = each.weight;
    }
  }
  return { start, from, weight };
}

/**
 * Shrinks (or enlarges) a photograph whose rows arrive from the top, so that it is never held whole
 * beside its decoded form.
 */
export class Shrinker {
  constructor(before, after, kernel) {
    const [height, width] = before;
    const [newHeight, newWidth] = after;
    this.size = after;
    this.eightBit = kernel === "triangle" || kernel === "lanczos"; // as Pillow computes
    const grows = newHeight > height || newWidth > width;
    const taps = (old, made) => {
      if (old === made) return identity(old);
      const exact = tapsOf(old, made, kernel, grows);
      return this.eightBit ? inFixedPoint(exact) : exact;
    };
    this.columns = width === newWidth ? null : flat(taps(width, newWidth));
    this.copiesRows = height === newHeight;
    const rows = taps(height, newHeight);
    // Turned around: for each old row the new ones that it enters.
    const enters = Array.from({ length: height }, () => []);
    rows.forEach((taps, place) => {
      for (const { from, weight } of taps) if (weight) enters[from].push({ from: place, weight });
    });
    this.rows = flat(enters);
    this.total = new Float64Array(newHeight * newWidth * 3);
    if (this.eightBit && !this.copiesRows) this.total.fill(PRECISION / 2);
    this.line = new Float64Array(newWidth * 3);
  }

  /** Take row `y`, bytes of RGBA from `offset` on; alpha is not looked at. */
  push(rgba, offset, y) {
    const { start, from: into, weight: share } = this.rows;
    if (start[y] === start[y + 1]) return;
    this.#squeeze(rgba, offset);
    const length = this.line.length;
    for (let k = start[y]; k < start[y + 1]; k++) {
      const at = into[k] * length;
      for (let x = 0; x < length; x++) this.total[at + x] += share[k] * this.line[x];
    }
  }

  #squeeze(rgba, offset) {
    const line = this.line;
    if (!this.columns) {
      for (let x = 0; x * 3 < line.length; x++) {
        for (let c = 0; c < 3; c++) line[3 * x + c] = rgba[offset + 4 * x + c];
      }
      return;
    }
    const { start, from, weight } = this.columns;
    for (let x = 0; x * 3 < line.length; x++) {
      let red = this.eightBit ? PRECISION / 2 : 0;
      let green = red;
      let blue = red;
      for (let k = start[x]; k < start[x + 1]; k++) {
        const at = offset + 4 * from[k];
        red += weight[k] * rgba[at];
        green += weight[k] * rgba[at + 1];
        blue += weight[k] * rgba[at + 2];
      }
      if (this.eightBit) {
        red = clip8(Math.floor(red / PRECISION));
        green = clip8(Math.floor(green / PRECISION));
        blue = clip8(Math.floor(blue / PRECISION));
      }
      line[3 * x] = red;
      line[3 * x + 1] = green;
      line[3 * x + 2] = blue;
    }
  }

  /** The photograph as float32 RGB (3, h, w) in [0, 1], its edges repeated up to `multiple`. */
  finish(multiple) {
    const [height, width] = this.size;
    const paddedHeight = Math.ceil(height / multiple) * multiple;
    const paddedWidth = Math.ceil(width / multiple) * multiple;
    const planes = new Float32Array(3 * paddedHeight * paddedWidth);
    const whole = this.eightBit && !this.copiesRows;
    for (let c = 0; c < 3; c++) {
      for (let y = 0; y < paddedHeight; y++) {
        const row = Math.min(y, height - 1) * width;
        for (let x = 0; x < paddedWidth; x++) {
          const value = this.total[3 * (row + Math.min(x, width - 1)) + c];
          planes[(c * paddedHeight + y) * paddedWidth + x] =
            (whole ? clip8(Math.floor(value / PRECISION)) : value) / 255;
        }
      }
    }
    return { data: planes, size: [paddedHeight, paddedWidth] };
  }
}

/** A map at the size of the photograph, of which only the pixels that are asked for are computed. */
export class Enlarged {
  constructor(map, before, after, kernel) {
    const [height, width] = before;
    const [newHeight, newWidth] = after;
    const grows = newHeight > height || newWidth > width;
    const taps = (old, made) =>
      flat(old === made ? identity(old) : tapsOf(old, made, kernel, grows));
    this.size = after;
    this.map = map;
    this.width = width;
    this.columns = taps(width, newWidth);
    this.rows = taps(height, newHeight);
    // Pillow rounds to float32 between its two passes, the others compute in float64.
    this.between = kernel === "triangle" ? Math.fround : (x) => x;
    this.columnsFirst = kernel === "triangle" || newHeight * width > height * newWidth;
    this.lines = new Map();
  }

  /** The value of one pixel. */
  at(row, column) {
    const [outer, inner] = this.columnsFirst ? [this.rows, this.columns] : [this.columns, this.rows];
    const [there, here] = this.columnsFirst ? [row, column] : [column, row];
    const [outerStep, innerStep] = this.columnsFirst ? [this.width, 1] : [1, this.width];
    let sum = 0;
    for (let k = outer.start[there]; k < outer.start[there + 1]; k++) {
      if (!outer.weight[k]) continue;
      const start = outer.from[k] * outerStep;
      let part = 0;
      for (let j = inner.start[here]; j < inner.start[here + 1]; j++) {
        if (inner.weight[j]) part += inner.weight[j] * this.map[start + inner.from[j] * innerStep];
      }
      sum += outer.weight[k] * this.between(part);
    }
    return Math.fround(sum);
  }

  /** All values of the rows from `first` to before `end`. */
  band(first, end) {
    const width = this.size[1];
    const values = new Float32Array((end - first) * width);
    const { start, from, weight } = this.rows;
    const sum = new Float64Array(width);
    for (let row = first; row < end; row++) {
      sum.fill(0);
      for (let k = start[row]; k < start[row + 1]; k++) {
        const share = weight[k];
        if (!share) continue;
        const line = this.#line(from[k]);
        for (let x = 0; x < width; x++) sum[x] += share * line[x];
      }
      values.set(sum, (row - first) * width);
    }
    return values;
  }

  // A row of the map at the new width. The few that neighbouring rows share are kept.
  #line(row) {
    let line = this.lines.get(row);
    if (line) return line;
    const width = this.size[1];
    const { start, from, weight } = this.columns;
    line = this.between === Math.fround ? new Float32Array(width) : new Float64Array(width);
    const at = row * this.width;
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let k = start[x]; k < start[x + 1]; k++) {
        if (weight[k]) sum += weight[k] * this.map[at + from[k]];
      }
      line[x] = sum;
    }
    if (this.lines.size > 8) this.lines.delete(this.lines.keys().next().value);
    this.lines.set(row, line);
    return line;
  }
}
