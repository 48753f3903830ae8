// Who is kept: clicks and keys on a picture, moving or not, and the outline of what was chosen.

const STEP = 0.02; // of the picture, per press of an arrow

export class Choice {
  #stage;
  #video;
  #outline;
  #aim;
  #everybody;
  #place = { x: 0.5, y: 0.5 };
  #isMirrored;

  // parts: stage, video, outline, aim, everybody; send(what, place); isMirrored()
  constructor({ stage, video, outline, aim, everybody }, send, isMirrored) {
    [this.#stage, this.#video, this.#outline, this.#aim] = [stage, video, outline, aim];
    [this.#everybody, this.#isMirrored] = [everybody, isMirrored];
    const choose = (drops) => send(drops ? "drop" : "keep", this.#place);
    stage.onclick = (event) => {
      if (this.#aimAt(event.clientX, event.clientY)) choose(event.shiftKey);
    };
    stage.onkeydown = (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) this.#move(...step);
      else if (event.key === "Enter") choose(event.shiftKey);
      else if (event.key === "Escape") everybody.click();
      else return;
      event.preventDefault();
    };
    stage.onblur = () => (aim.hidden = true);
    everybody.onclick = () => send("everybody");
  }

  // polygons: in shares of the picture; none where everybody is kept.
  show(polygons, chooses = Boolean(polygons)) {
    this.#everybody.hidden = !chooses;
    const { left, top, width, height } = this.#area();
    const style = { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` };
    Object.assign(this.#outline.style, style);
    this.#outline.replaceChildren(
      ...(polygons ?? []).map((points) => {
        const edge = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
        edge.setAttribute("points", points.join(" "));
        return edge;
      }),
    );
  }

  // Where the picture lies within the stage: it keeps its shape.
  #area() {
    const { clientWidth, clientHeight, videoWidth, videoHeight, naturalWidth, naturalHeight } = this.#video;
    const own = { width: videoWidth ?? naturalWidth, height: videoHeight ?? naturalHeight };
    const scale = Math.min(clientWidth / own.width, clientHeight / own.height) || 0;
    const width = scale * own.width || clientWidth, height = scale * own.height || clientHeight;
    return { left: (clientWidth - width) / 2, top: (clientHeight - height) / 2, width, height };
  }

  #aimAt(clientX, clientY) {
    const box = this.#stage.getBoundingClientRect(), { left, top, width, height } = this.#area();
    const x = (clientX - box.left - left) / width, y = (clientY - box.top - top) / height;
    if (!(x >= 0 && x <= 1 && y >= 0 && y <= 1)) return false;
    this.#place = { x: this.#isMirrored() ? 1 - x : x, y };
    return true;
  }

  #move(right, down) {
    const turned = this.#isMirrored() ? -right : right;
    const inside = (value) => Math.min(1, Math.max(0, value));
    this.#place.x = inside(this.#place.x + STEP * turned);
    this.#place.y = inside(this.#place.y + STEP * down);
    const { left, top, width, height } = this.#area();
    const x = this.#isMirrored() ? 1 - this.#place.x : this.#place.x;
    this.#aim.hidden = false;
    Object.assign(this.#aim.style, { left: `${left + x * width}px`, top: `${top + this.#place.y * height}px` });
  }
}
