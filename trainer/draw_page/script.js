// What the page does: keeps the strokes, sends a picture of them as often as an answer comes, and
// shows the answer. No state is in the server: each picture is the whole drawing.

// Lengths are in sides of the paper.
const PEN = 0.07; // its width: about that of MNIST's strokes in a digit that fills the paper
const STEP = 1 / 32; // of the keyboard's pen
const PICTURE = 144, MARGIN = 16; // pixels; the margin is the ground that a digit at the edge lacks
const QUIET_MS = 700; // a screen reader hears the answer once the hand rests

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const element = (id) => document.getElementById(id);
const paper = element("paper");

let strokes = []; // each a list of [x, y]
const earlier = []; // what `strokes` was before each change
let pen = [0.5, 0.5], penDown = false; // the keyboard's
const held = new Set(); // its arrow keys
let pointer = null; // the one that draws

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

function paint(context, side) {
  context.lineWidth = PEN * side;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] * side, stroke[0][1] * side);
    // A line of no length is not drawn; this one is a dot.
    for (const [x, y] of stroke) context.lineTo(x * side + 0.01, y * side);
    context.stroke();
  }
}

function draw() {
  const side = paper.width, context = paper.getContext("2d");
  const colour = getComputedStyle(paper).color;
  context.clearRect(0, 0, side, side);
  context.strokeStyle = context.fillStyle = colour;
  paint(context, side);
  if (!paper.matches(":focus-visible")) return;
  context.beginPath();
  context.arc(pen[0] * side, pen[1] * side, (PEN / 2) * side, 0, 2 * Math.PI);
  context.lineWidth = 0.015 * side;
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--bar");
  context.stroke();
}

function fit() {
  paper.width = paper.height = Math.round(paper.clientWidth * devicePixelRatio);
  draw();
}

function picture() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = PICTURE + 2 * MARGIN;
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.translate(MARGIN, MARGIN);
  context.beginPath();
  context.rect(0, 0, PICTURE, PICTURE); // what left the paper is not drawn
  context.clip();
  context.strokeStyle = "black";
  paint(context, PICTURE);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// Mouse, finger, pen

function at(event) {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

paper.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
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
    pen = pen.map((value, axis) => Math.min(1, Math.max(0, value + ARROWS[key][axis] * STEP)));
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
    `Pen ${penDown ? "down" : "up"}, column ${column}, row ${row} of ${1 / STEP}`;
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
    await (strokes.length ? ask() : show(null, "The paper is empty."));
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
    if (response.ok) show(answer);
    else show(null, `Not read: ${answer.error}.`);
  } catch {
    show(null, "No answer: is trainer.draw still running?");
  }
}

// A whole percentage, never rounded up to certainty.
const percent = (share) => `${Math.min(Math.floor(share * 100 + 0.5), share < 1 ? 99 : 100)} %`;

const bars = Array.from({ length: 10 }, (_, digit) => {
  const item = document.createElement("li");
  item.innerHTML = '<span></span><span class="trough"><span class="bar"></span></span><span class="share"></span>';
  item.firstChild.textContent = digit;
  element("bars").append(item);
  return item;
});

function show(answer, text) {
  const verdict = element("verdict");
  verdict.replaceChildren();
  if (answer) {
    text = `${percent(answer.probabilities[answer.digit])} sure`;
    verdict.append(Object.assign(document.createElement("b"), { textContent: answer.digit }));
  }
  verdict.append(text);
  bars.forEach((item, digit) => {
    const share = answer ? answer.probabilities[digit] : 0;
    item.querySelector(".bar").style.width = `${share * 100}%`;
    item.querySelector(".share").textContent = answer ? percent(share) : "";
    item.classList.toggle("best", digit === answer?.digit);
  });
  const pixels = new ImageData(28, 28);
  pixels.data.set((answer?.seen ?? []).flat().flatMap((level) => [level, level, level, 255]));
  element("seen").getContext("2d").putImageData(pixels, 0, 0);
  clearTimeout(quiet);
  const spoken = answer ? `The model reads ${answer.digit}, ${text}.` : text;
  quiet = setTimeout(() => { element("spoken").textContent = spoken; }, QUIET_MS);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(fit).observe(paper);
read();
