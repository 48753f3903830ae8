// The latency of each frame of the last minute, as a line.

const SPAN = 60_000;

export class Plot {
  #canvas;
  #points = [];
  #last = performance.now();
  #budget = 0;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").onchange = () => this.#draw();
  }

  // latencies: in ms, of the frames since the last call; budget: what they are to stay below.
  add(latencies, budget) {
    const now = performance.now();
    this.#budget = budget;
    const step = (now - this.#last) / latencies.length;
    latencies.forEach((latency, index) => {
      this.#points.push([this.#last + step * (index + 1), latency]);
    });
    this.#last = now;
    this.#points = this.#points.filter(([time]) => time > now - SPAN);
    this.#draw();
  }

  clear() {
    this.#points = [];
    this.#last = performance.now();
    this.#draw();
  }

  #draw() {
    const canvas = this.#canvas, style = getComputedStyle(canvas), scale = devicePixelRatio;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = `12px ${style.fontFamily}`;
    const top = scaleFor(this.#points.map(([, latency]) => latency));
    const y = (latency) => height - 4 - Math.min(1, latency / top) * (height - 20);
    pen.strokeStyle = pen.fillStyle = getComputedStyle(document.body).color;
    pen.globalAlpha = 0.5;
    pen.lineWidth = 0.5;
    for (const latency of [0, top / 2, top]) {
      pen.beginPath();
      pen.moveTo(0, y(latency));
      pen.lineTo(width, y(latency));
      pen.stroke();
      if (latency) pen.fillText(`${latency} ms`, 0, y(latency) - 3);
    }
    if (this.#budget) {
      pen.setLineDash([4, 4]);
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(0, y(this.#budget));
      pen.lineTo(width, y(this.#budget));
      pen.stroke();
      pen.setLineDash([]);
    }
    const now = performance.now();
    pen.strokeStyle = style.color;
    pen.globalAlpha = 1;
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (const [time, latency] of this.#points) {
      pen.lineTo(width * (1 - (now - time) / SPAN), y(latency));
    }
    pen.stroke();
  }
}

// The upper end of the scale, in ms.  The odd slow frame runs into it; else nobody saw the others.
function scaleFor(latencies) {
  const sorted = latencies.toSorted((a, b) => a - b);
  const high = sorted[Math.floor(0.95 * sorted.length)] ?? 0;
  return Math.max(50, Math.ceil((1.2 * high) / 50) * 50);
}
