// Who is kept in a video file: a frame to click on, a scrub bar, and the marks of what was chosen.

import { request } from "./api.js";
import { Choice } from "./choice.js";

const PAUSE = 150; // ms that the scrub bar rests before its frame is fetched

export class Editor {
  #job;
  #part;
  #choice;
  #prompts;
  #notice;
  #timer;

  // job: as the server describes it; again(job): it runs once more, and is described anew.
  constructor(template, job, again, notice) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#part = (name) => this.element.querySelector(name);
    this.#job = job;
    this.#prompts = [...job.prompts];
    this.#notice = notice;
    const [stage, outline, aim] = [".stage", ".outline", ".aim"].map(this.#part);
    const parts = { stage, video: this.#part(".frame"), outline, aim, everybody: this.#part(".everybody") };
    this.#choice = new Choice(parts, (what, place) => this.#add(what, place), () => false);
    const time = this.#part(".time");
    time.max = Math.max(0, (job.duration ?? 0) - 0.5 / (job.frame_rate || 25));
    time.step = 1 / (job.frame_rate || 25);
    this.#part("datalist").id = `marks-${job.id}`;
    time.setAttribute("list", `marks-${job.id}`);
    time.oninput = () => this.#seek();
    this.#part(".frame").onload = () => this.#outline();
    this.#part(".again").onclick = async () => {
      notice("");
      try {
        again(await request(`jobs/${job.id}/prompts`, this.#body({ prompts: this.#prompts })));
      } catch (error) {
        notice(error.message);
      }
    };
    this.#list();
    this.#fetch();
  }

  get #time() {
    return Number(this.#part(".time").value);
  }

  #add(what, place) {
    const time = this.#time;
    if (what === "everybody") this.#prompts = [];
    else this.#prompts.push({ [what]: [place.x, place.y].map((share) => Number(share.toFixed(4))), time });
    this.#list();
    this.#outline();
  }

  #seek() {
    clearTimeout(this.#timer);
    this.#part("output").textContent = clock(this.#time);
    this.#choice.show(undefined, this.#prompts.length > 0);
    this.#timer = setTimeout(() => this.#fetch(), PAUSE);
  }

  #fetch() {
    this.#part("output").textContent = clock(this.#time);
    this.#part(".frame").src = `jobs/${this.#job.id}/frame?time=${this.#time}`;
  }

  // What the prompts at this time choose; those of other times are followed by the job.
  async #outline() {
    const time = this.#time, prompts = this.#prompts.filter((prompt) => prompt.time === time);
    let edges;
    if (prompts.length) {
      try {
        const answer = await request(`jobs/${this.#job.id}/outline`, this.#body({ time, prompts }));
        edges = answer.outline;
        if (!edges.length) this.#notice("Nothing was found there.");
      } catch (error) {
        this.#notice(error.message);
      }
    }
    if (time === this.#time) this.#choice.show(edges, this.#prompts.length > 0);
  }

  #list() {
    this.#prompts.sort((one, other) => one.time - other.time);
    this.#part("datalist").replaceChildren(
      ...this.#prompts.map(({ time }) => Object.assign(document.createElement("option"), { value: time })),
    );
    this.#part(".marks").replaceChildren(...this.#prompts.map((prompt) => this.#mark(prompt)));
  }

  #mark(prompt) {
    const item = document.createElement("li");
    const go = document.createElement("button"), remove = document.createElement("button");
    go.type = remove.type = "button";
    go.textContent = `${"keep" in prompt ? "Keep" : "Drop"} at ${clock(prompt.time)}`;
    go.onclick = () => {
      this.#part(".time").value = prompt.time;
      this.#seek();
    };
    remove.textContent = "×";
    remove.ariaLabel = `Remove: ${go.textContent}`;
    remove.onclick = () => {
      this.#prompts = this.#prompts.filter((one) => one !== prompt);
      this.#list();
      this.#outline();
    };
    item.append(go, remove);
    return item;
  }

  #body(told) {
    return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(told) };
  }
}

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(2).padStart(5, "0")}`;
}
