// All that takes time: runtime, decoding, network, colours and files. The page stays responsive.
//
// Each message has a `kind`; answers to a photograph carry its `job`, so that the page can tell
// them from those of an earlier one.

import { load } from "./network.js";
import { Enlarged, Shrinker, fittedSize } from "./resample.js";
import { Unusable, decode, readRows } from "./photograph.js";
import { colourEdges, paint } from "./picture.js";
import { npy, png16, pngInColours, range } from "./files.js";

const SHOWN = 1600; // pixels of the longer side on the screen

const network = load((text) => postMessage({ kind: "loading", text }));
network.then(
  ({ facts, runtime }) => postMessage({ kind: "ready", facts, runtime }),
  (error) => postMessage({ kind: "broken", text: error.message }),
);

let current; // the photograph whose map is there
let queue = Promise.resolve();

onmessage = ({ data }) => {
  // One after the other: two photographs at once would need twice the memory.
  queue = queue.then(() => answer(data)).catch((error) => {
    const known = error instanceof Unusable;
    if (!known) console.error(error);
    const memory = /memory|allocat/i.test(error.message) || error instanceof RangeError;
    const text = known ? error.message : memory
      ? "the memory of this browser does not suffice for this photograph; make it smaller first"
      : `something went wrong: ${error.message}`;
    postMessage({ kind: "failed", job: data.job, text });
  });
};

async function answer(message) {
  if (message.kind === "photograph") return predict(message);
  if (!current || message.job !== current.job) return undefined;
  if (message.kind === "compare") return compare(message);
  return save(message);
}

async function predict({ job, file }) {
  const started = performance.now();
  const { facts, run } = await network;
  const bitmap = await decode(file, facts.max_pixels);
  const size = [bitmap.height, bitmap.width];
  const fitted = fittedSize(size, facts.preprocessing);
  const shrinker = new Shrinker(size, fitted, facts.preprocessing.shrink);
  try {
    readRows(bitmap, (rgba, offset, y) => shrinker.push(rgba, offset, y));
    const [height, width] = shownSize(size);
    const photograph = await createImageBitmap(bitmap, {
      resizeWidth: width,
      resizeHeight: height,
      resizeQuality: "high",
    });
    postMessage({ kind: "photograph", job, size, photograph }, [photograph]);
  } finally {
    bitmap.close();
  }
  const input = shrinker.finish(facts.preprocessing.multiple);
  const prepared = performance.now();
  const output = await run(input);
  const networkSeconds = (performance.now() - prepared) / 1e3;
  if (!output.data.every(Number.isFinite)) throw new Error("the network's output is not finite");
  const map = scoreOf(output, fitted, facts);
  const enlarged = new Enlarged(map, fitted, size, facts.preprocessing.enlarge);
  const edges = colourEdges(enlarged);
  current = { job, facts, enlarged, edges };
  const picture = await shownPicture(current);
  const seconds = (performance.now() - started) / 1e3;
  postMessage(
    { kind: "map", job, picture, input: input.size, seconds, networkSeconds },
    [picture],
  );
}

// The part that shows the photograph, with the sign that grows with distance.
function scoreOf({ data, size: [, width] }, [height, fittedWidth], facts) {
  const sign = facts.larger_is === "nearer" ? -1 : 1;
  const map = new Float32Array(height * fittedWidth);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < fittedWidth; x++) map[y * fittedWidth + x] = sign * data[y * width + x];
  }
  return map;
}

function shownSize(size) {
  const scale = Math.min(1, SHOWN / Math.max(...size));
  return size.map((side) => Math.max(1, Math.round(side * scale)));
}

// Each pixel of the screen has the value of one pixel of the map: none is made up.
async function shownPicture({ enlarged, edges, facts }) {
  const [height, width] = enlarged.size;
  const [rows, columns] = shownSize(enlarged.size);
  const image = new ImageData(columns, rows);
  const values = new Float32Array(columns);
  for (let y = 0; y < rows; y++) {
    const row = Math.floor(((y + 0.5) * height) / rows);
    const line = enlarged.band(row, row + 1);
    for (let x = 0; x < columns; x++) values[x] = line[Math.floor(((x + 0.5) * width) / columns)];
    const pixels = image.data.subarray(4 * y * columns, 4 * (y + 1) * columns);
    paint(values, edges, facts.colours, pixels, 4);
  }
  return createImageBitmap(image);
}

function compare({ job, points, turn }) {
  const { enlarged, facts } = current;
  const scores = points.map(([row, column]) => enlarged.at(row, column));
  const difference = Math.abs(scores[0] - scores[1]);
  const confidence = facts.temperature && 1 / (1 + Math.exp(-difference / facts.temperature));
  postMessage({ kind: "order", job, turn, points, scores, confidence });
}

async function save({ job, what }) {
  const { enlarged, edges, facts } = current;
  const software = { Software: `reldepth_jax ${facts.version}` };
  let blob;
  if (what === "npy") blob = npy(enlarged);
  else if (what === "colours") {
    const paintBytes = (values, bytes) => paint(values, edges, facts.colours, bytes, 3);
    const texts = { ...software, colors: "by rank; bright is near, dark is far" };
    blob = await pngInColours(enlarged, paintBytes, texts);
  } else {
    const [low, high] = range(enlarged);
    const texts = {
      ...software,
      larger_is: "farther",
      run: facts.name,
      step: String(facts.step),
      score_minimum: String(low),
      score_maximum: String(high),
    };
    blob = await png16(enlarged, [low, high], texts);
  }
  postMessage({ kind: "file", job, what, blob });
}
