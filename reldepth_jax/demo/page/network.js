// The network and the runtime that computes it: files that lie beside this page.

import * as ort from "./runtime/ort.wasm.min.mjs";

const RUNTIME = new URL("./runtime/", import.meta.url);

/** Return what is known of the network and a function from its input to its output. */
export async function load(say) {
  say("Loading the network…");
  const bytes = async (answer) => new Uint8Array(await answer.arrayBuffer());
  const known = fetched("network.json").then((answer) => answer.json());
  const [facts, model, arrays, wasm] = await Promise.all([
    known,
    fetched("network.onnx").then(bytes),
    known.then(({ arrays: path }) => path && fetched(path).then(bytes)),
    fetched("runtime/ort-wasm-simd-threaded.wasm.gz").then(unpacked),
  ]);
  say("Starting the network…");
  ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.mjs", RUNTIME).href };
  ort.env.wasm.wasmBinary = wasm;
  // Threads share memory, which browsers allow only where the server sends two headers (docs/demo.md).
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ["wasm"],
    externalData: facts.arrays ? [{ path: facts.arrays, data: arrays }] : [],
  });
  const [inputName] = session.inputNames;
  const [outputName] = session.outputNames;

  async function run({ data, size: [height, width] }) {
    const input = new ort.Tensor("float32", data, [1, 3, height, width]);
    const { [outputName]: output } = await session.run({ [inputName]: input });
    const values = Float32Array.from(output.data);
    const size = output.dims.slice(-2);
    input.dispose();
    output.dispose();
    return { data: values, size };
  }

  return { facts, run, runtime: { threads } };
}

async function fetched(path) {
  const answer = await fetch(new URL(path, import.meta.url));
  if (!answer.ok) throw new Error(`${path} is missing on the server (${answer.status})`);
  return answer;
}

// Some servers say that a .gz is only packed for the way; then it arrives unpacked.
async function unpacked(answer) {
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes.buffer;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
