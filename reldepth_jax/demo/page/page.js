// The page: what a person does, and what the worker answers. Positions of points are pixels of the
// photograph, [row, column].

const $ = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });

let facts; // of the network, once it is loaded
let job = 0; // the number of the newest photograph; answers to older ones are dropped
let name = ""; // of its file
let size = null; // [height, width] of the photograph that is shown
let ready = false; // its map is there
let points = [];
let turn = 0; // the number of the newest pair of points
let cross = null; // where the keyboard points to

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// ---- from the worker

const answers = {
  loading: ({ text }) => say(text),
  ready({ facts: loaded, runtime }) {
    facts = loaded;
    if (!job) say("Ready.");
    describe(runtime);
  },
  broken({ text }) {
    say(`The network cannot be started: ${text}`, true);
    for (const id of ["choose", "camera", "example"]) $(id).disabled = true;
  },
  photograph(answer) {
    size = answer.size;
    draw($("photograph"), answer.photograph);
    $("map").hidden = $("divider").hidden = true;
    $("result").hidden = false;
    $("busy").hidden = false;
    say(`Computing the map of ${name}…`);
  },
  map({ picture, seconds, networkSeconds, input }) {
    draw($("map"), picture);
    ready = true;
    $("map").hidden = $("divider").hidden = false;
    $("busy").hidden = true;
    setBorder(50);
    enableSaving(true);
    const [height, width] = size;
    say(
      `${name}, ${width}x${height}: ${seconds.toFixed(1)} s, of which the network` +
        ` ${networkSeconds.toFixed(2)} s at ${input[1]}x${input[0]}.`,
    );
    $("stage").dataset.job = job;
  },
  order: tell,
  file({ what, blob }) {
    const endings = { png16: ".png", npy: ".npy", colours: "_color.png" };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name.replace(/\.[^.]*$/, "") + endings[what];
    link.click();
    // Late: the browser reads it after the click.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    enableSaving(true);
    say(`Saved: ${link.download}`);
  },
  failed({ text }) {
    $("busy").hidden = true;
    if (ready) enableSaving(true);
    else $("result").hidden = true;
    say(`${name}: ${text}.`, true);
  },
};

worker.onmessage = ({ data }) => {
  if (data.job === undefined || data.job === job) answers[data.kind](data);
};
worker.onerror = (event) => {
  event.preventDefault();
  answers.broken({ text: event.message || "this browser cannot run it" });
};

function describe({ threads }) {
  const { name, version, licence, temperature, note } = facts;
  $("licence").textContent = `Licence of the network's weights: ${licence || "not stated"}.`;
  $("note").textContent = note;
  const sure = temperature
    ? ` How sure it is: sigmoid(|difference of scores| / ${temperature.toPrecision(3)}), a` +
      " temperature fitted on validation photographs. It fits other kinds of photographs less well."
    : " No temperature was fitted for this network, so it cannot say how sure it is.";
  $("facts").textContent =
    `${name}, reldepth_jax ${version}, ONNX Runtime Web (WebAssembly, ${threads}` +
    ` thread${threads > 1 ? "s" : ""}).${sure}`;
  const legend = $("legend").getContext("2d");
  const row = legend.createImageData(256, 1);
  for (let k = 0; k < 256; k++) {
    row.data.set([...facts.colours.slice(3 * k, 3 * k + 3), 255], 4 * k);
  }
  legend.putImageData(row, 0, 0);
}

function draw(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

// ---- photographs

function show(file, called) {
  if ($("choose").disabled) return;
  job += 1;
  name = called || file.name || "photograph";
  ready = false;
  cross = null;
  forgetPoints();
  enableSaving(false);
  $("cross").hidden = true;
  say(facts ? `Reading ${name}…` : `Loading the network, then ${name}…`);
  worker.postMessage({ kind: "photograph", job, file });
}

$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  const [file] = $("file").files;
  if (file) show(file);
  $("file").value = ""; // so that the same file can be chosen again
};
$("example").onclick = async () => {
  try {
    const answer = await fetch("example.jpg");
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.blob(), "example.jpg");
  } catch (error) {
    say(`The example cannot be loaded: ${error.message}`, true);
  }
};

let entered = 0;
addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++entered > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dragging", --entered > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  entered = 0;
  document.body.classList.remove("dragging");
  const [file] = event.dataTransfer.files;
  if (file) show(file);
  else say("What was dropped is no file: save the picture first, then drop or choose it.", true);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) show(file, "pasted");
  else say("The clipboard holds no picture.", true);
});

// ---- camera

let stream = null;

$("camera").onclick = async () => {
  if (!navigator.mediaDevices) {
    say("The camera needs https, or a server on this machine.", true);
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 } },
    });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    say(denied ? "The camera was not allowed." : "No camera can be used here.", true);
    return;
  }
  $("video").srcObject = stream;
  $("viewfinder").showModal();
};
$("shoot").onclick = () => {
  const video = $("video");
  if (!video.videoWidth) return;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => show(blob, "camera.png"), "image/png");
  $("viewfinder").close();
};
$("cancel").onclick = () => $("viewfinder").close();
$("viewfinder").onclose = () => {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = $("video").srcObject = null;
};

// ---- slider

function setBorder(percent) {
  const border = Math.min(100, Math.max(0, percent));
  $("border").value = border;
  $("map").style.clipPath = `inset(0 0 0 ${border}%)`;
  $("divider").style.left = `${border}%`;
}
$("border").oninput = () => setBorder(Number($("border").value));
let dragged = false; // else it was a click, which sets a point as beside the divider
$("divider").onpointerdown = (event) => {
  dragged = false;
  $("divider").setPointerCapture(event.pointerId);
  event.preventDefault();
};
$("divider").onpointermove = (event) => {
  if (!$("divider").hasPointerCapture(event.pointerId)) return;
  dragged = true;
  const { left, width } = $("stage").getBoundingClientRect();
  setBorder((100 * (event.clientX - left)) / width);
};
$("divider").onclick = (event) => dragged && event.stopPropagation();

// ---- two points

$("stage").onclick = (event) => {
  const box = $("stage").getBoundingClientRect();
  if (!ready) return;
  const inside = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
  setPoint([
    inside((event.clientY - box.top) / box.height, size[0]),
    inside((event.clientX - box.left) / box.width, size[1]),
  ]);
};
$("stage").onkeydown = (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  if (!ready || !(step || event.key === "Enter" || event.key === " ")) return;
  event.preventDefault();
  cross = cross || size.map((side) => Math.floor(side / 2));
  if (step) {
    // A step that can be seen: a fortieth of the picture, with Shift one pixel.
    const far = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(...size) / 40));
    cross = cross.map((at, axis) =>
      Math.min(size[axis] - 1, Math.max(0, at + far * step[axis])));
  } else setPoint(cross);
  place($("cross"), cross);
};
$("stage").onblur = () => ($("cross").hidden = true);

function place(element, [row, column]) {
  element.hidden = false;
  element.style.top = `${(100 * (row + 0.5)) / size[0]}%`;
  element.style.left = `${(100 * (column + 0.5)) / size[1]}%`;
}

function forgetPoints() {
  points = [];
  $("point-0").hidden = $("point-1").hidden = $("answer").hidden = true;
  $("line").style.display = "none";
  $("how").textContent = "Click two points in the picture.";
}

function setPoint(point) {
  if (points.length === 2) forgetPoints();
  points.push(point);
  const marker = $(`point-${points.length - 1}`);
  marker.classList.remove("nearer");
  place(marker, point);
  if (points.length === 1) {
    $("how").textContent = "Now the second point.";
    return;
  }
  const line = $("line");
  points.forEach(([row, column], index) => {
    line.setAttribute(`x${index + 1}`, `${(100 * (column + 0.5)) / size[1]}%`);
    line.setAttribute(`y${index + 1}`, `${(100 * (row + 0.5)) / size[0]}%`);
  });
  line.style.display = "";
  $("how").textContent = "Another click starts a new pair.";
  turn += 1;
  worker.postMessage({ kind: "compare", job, points, turn });
}

function tell({ scores, confidence, points: asked, turn: answered }) {
  if (answered !== turn || points.length !== 2) return;
  const answer = $("answer");
  const nearer = scores[0] < scores[1] ? 0 : 1;
  const tie = scores[0] === scores[1];
  if (!tie) $(`point-${nearer}`).classList.add("nearer");
  $("order").textContent = tie
    ? "A and B are equally far for the network."
    : `${"AB"[nearer]} is nearer than ${"AB"[1 - nearer]}.`;
  $("sure").hidden = !confidence;
  if (confidence) {
    $("sure-bar").style.width = `${100 * confidence}%`;
    $("sure-text").textContent = `The network is ${percent(confidence)} sure; 50 % would be a coin toss.`;
  }
  $("scores").textContent =
    `Scores: A ${scores[0].toFixed(3)}, B ${scores[1].toFixed(3)}. Larger is farther; no unit.` +
    (confidence ? "" : " No temperature was fitted for this network: it cannot say how sure it is.");
  Object.assign(answer.dataset, {
    turn: answered,
    points: JSON.stringify(asked),
    scores: JSON.stringify(scores),
    confidence: confidence ?? "",
  });
  answer.hidden = false;
}

// Never "100 %": a network that is always right does not exist.
function percent(share) {
  return share >= 0.995 ? "more than 99 %" : `${Math.round(100 * share)} %`;
}

// ---- saving

function enableSaving(enabled) {
  for (const button of document.querySelectorAll("[data-save]")) button.disabled = !enabled;
}
for (const button of document.querySelectorAll("[data-save]")) {
  button.onclick = () => {
    enableSaving(false);
    say("Writing the file…");
    worker.postMessage({ kind: "save", job, what: button.dataset.save });
  };
}
enableSaving(false);
