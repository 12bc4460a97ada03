// What the page does: keeps the strokes, sends a picture of them as often as an answer comes, and
// shows the answer. No state is in the server: each picture is the whole drawing.

// Lengths are in heights of the paper.
const WIDTH = 2; // of the paper, as style.css has it
const PEN = 0.055; // its width: between those of MNIST's strokes in a large and in a small digit
const STEP = 1 / 32; // of the keyboard's pen
const PICTURE = 320, MARGIN = 32; // pixels; the margin is the ground that a digit at the edge lacks
const QUIET_MS = 700; // a screen reader hears the answer once the hand rests

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const element = (id) => document.getElementById(id);
const paper = element("paper");

let strokes = []; // each a list of [x, y]
const earlier = []; // what `strokes` was before each change
let pen = [WIDTH / 2, 0.5], penDown = false; // the keyboard's
const held = new Set(); // its arrow keys
let pointer = null; // the one that draws
let numbers = []; // what was read

// Strokes

function begin(point) {
  earlier.push(strokes);
  strokes = [...strokes, [point]];
}

function undo() {
  letGo();
  if (earlier.length) strokes = earlier.pop();
  changed();
}

function clear() {
  letGo();
  if (strokes.length) earlier.push(strokes);
  strokes = [];
  changed();
}

function letGo() {
  pointer = null;
  penDown = false;
  held.clear();
}

function changed() {
  draw();
  read();
}

// Drawing

function paint(context, height) {
  context.lineWidth = PEN * height;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] * height, stroke[0][1] * height);
    // A line of no length is not drawn; this one is a dot.
    for (const [x, y] of stroke) context.lineTo(x * height + 0.01, y * height);
    context.stroke();
  }
}

function draw() {
  const height = paper.height, context = paper.getContext("2d");
  const colour = (name) => getComputedStyle(paper).getPropertyValue(name);
  context.clearRect(0, 0, paper.width, height);
  for (const number of numbers) {
    const [left, top, right, bottom] = number.box.map((side) => (side - MARGIN) / PICTURE);
    const around = 0.75 * PEN; // the box touches no ink
    context.beginPath();
    context.roundRect(
      (left - around) * height, (top - around) * height,
      (right - left + 2 * around) * height, (bottom - top + 2 * around) * height, 0.02 * height,
    );
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = colour(number.unsure ? "--unsure" : "--sure");
    context.setLineDash(number.unsure ? [8 * devicePixelRatio, 6 * devicePixelRatio] : []);
    context.stroke();
    context.setLineDash([]);
  }
  context.strokeStyle = colour("color");
  paint(context, height);
  if (!paper.matches(":focus-visible")) return;
  context.beginPath();
  context.arc(pen[0] * height, pen[1] * height, (PEN / 2) * height, 0, 2 * Math.PI);
  context.lineWidth = 0.015 * height;
  context.strokeStyle = colour("--sure");
  context.stroke();
}

function fit() {
  paper.width = Math.round(paper.clientWidth * devicePixelRatio);
  paper.height = Math.round(paper.clientHeight * devicePixelRatio);
  draw();
}

function picture() {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * PICTURE + 2 * MARGIN;
  canvas.height = PICTURE + 2 * MARGIN;
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.translate(MARGIN, MARGIN);
  context.beginPath();
  context.rect(0, 0, WIDTH * PICTURE, PICTURE); // what left the paper is not drawn
  context.clip();
  context.strokeStyle = "black";
  paint(context, PICTURE);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// Mouse, finger, pen

function at(event) {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) / box.height, (event.clientY - box.top) / box.height];
}

paper.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0 || pointer !== null) return; // a palm beside the pen
  letGo();
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  begin(at(event));
  changed();
});

paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(events.length ? events : [event]).map(at));
  changed();
});

paper.addEventListener("lostpointercapture", (event) => {
  if (event.pointerId === pointer) pointer = null;
});

// Keys

paper.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key in ARROWS) {
    held.add(event.key);
    move();
  } else if (event.key === " ") {
    if (!event.repeat) toggle();
  } else if (event.key === "Backspace") undo();
  else if (event.key === "Delete") clear();
  else return;
  event.preventDefault();
  tell();
});

paper.addEventListener("keyup", (event) => held.delete(event.key));

paper.addEventListener("focus", () => {
  draw();
  tell();
});

paper.addEventListener("blur", () => {
  letGo();
  draw();
  element("pen").textContent = "";
});

function move() {
  for (const key of held) {
    pen = pen.map((value, axis) => value + ARROWS[key][axis] * STEP);
    pen = [Math.min(WIDTH, Math.max(0, pen[0])), Math.min(1, Math.max(0, pen[1]))];
  }
  if (penDown) {
    strokes.at(-1).push(pen);
    changed();
  } else draw();
}

function toggle() {
  const down = !penDown;
  letGo();
  penDown = down;
  if (!penDown) return draw();
  begin(pen);
  changed();
}

function tell() {
  if (!paper.matches(":focus-visible")) return;
  const [column, row] = pen.map((value) => Math.round(value / STEP));
  element("pen").textContent =
    `Pen ${penDown ? "down" : "up"}, column ${column} of ${WIDTH / STEP}, row ${row} of ${1 / STEP}`;
}

element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", clear);

// Reading

let reading = false, outdated = false, quiet;

async function read() {
  outdated = true;
  if (reading) return;
  reading = true;
  while (outdated) {
    outdated = false;
    await (strokes.length ? ask() : show([], "The paper is empty."));
  }
  reading = false;
}

async function ask() {
  try {
    const response = await fetch("read", {
      method: "POST",
      body: await picture(),
      signal: AbortSignal.timeout(10_000),
    });
    const answer = await response.json();
    if (!response.ok) show([], `Not read: ${answer.error}.`);
    else show(answer.numbers, answer.numbers.length ? "" : "No number found: write plain digits side by side.");
  } catch {
    show([], "No answer: is trainer.draw still running?");
  }
}

// A whole percentage, never rounded up to certainty.
const percent = (share) => `${Math.min(Math.floor(share * 100 + 0.5), share < 1 ? 99 : 100)} %`;

function make(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

function show(read, problem = "") {
  numbers = read;
  draw();
  const phrases = numbers.map(({ number, confidence, unsure }) => {
    const phrase = make("span", "", unsure ? "unsure" : "");
    phrase.append(make("b", number), ` ${percent(confidence)}${unsure ? ", unsure" : " sure"}`);
    return phrase;
  });
  element("verdict").replaceChildren(...phrases, problem);
  element("fields").replaceChildren(...numbers.flatMap(({ digits }) => digits.map(field)));
  element("seeing").hidden = !numbers.length;
  clearTimeout(quiet);
  const spoken = phrases.length ? `The model reads ${phrases.map((p) => p.textContent).join("; ")}.` : problem;
  quiet = setTimeout(() => { element("spoken").textContent = spoken; }, QUIET_MS);
}

function field(digit) {
  const item = make("li"), canvas = make("canvas"), pixels = new ImageData(28, 28);
  canvas.width = canvas.height = 28;
  canvas.ariaHidden = true;
  pixels.data.set(digit.field.flat().flatMap((level) => [level, level, level, 255]));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const [, second] = [...digit.probabilities.keys()]
    .sort((a, b) => digit.probabilities[b] - digit.probabilities[a]);
  const share = digit.probabilities[second];
  item.append(canvas, make("b", digit.digit), ` ${percent(digit.confidence)}`);
  if (share >= 0.01) item.append(make("small", `or ${second}, ${percent(share)}`));
  return item;
}

async function introduce() {
  const run = await (await fetch("model")).json();
  element("model").textContent = run.model
    ? `${run.model} reads ${(100 * run.test_accuracy).toFixed(2)} % of the ${run.dataset} test digits right`
    : "The model came without its run; how well it reads is not known";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(fit).observe(paper);
introduce();
read();
