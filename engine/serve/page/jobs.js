// Video files: upload, progress, download.

import { checkSize, request, upload } from "./api.js";
import { Editor } from "./editor.js";

const INTERVAL = 500;

export class Jobs {
  #list;
  #template;
  #items = new Map();
  #polling = false;
  #editor;
  #notice;

  constructor(list, template, editor, notice) {
    this.#list = list;
    this.#template = template;
    this.#editor = editor;
    this.#notice = notice;
    this.#poll();
  }

  // where: the query of the background.
  async add(file, where, limit) {
    checkSize(file, limit);
    const item = this.#item(file.name);
    try {
      const query = new URLSearchParams({ name: file.name, ...where });
      const job = await upload(`jobs?${query}`, file, (share) => {
        item.detail.textContent = `uploading, ${Math.round(100 * share)} %`;
        item.progress.value = share;
      });
      this.#items.set(job.id, item);
      this.#show(job);
    } catch (error) {
      item.row.remove();
      throw error;
    }
    this.#poll();
  }

  async #poll() {
    if (this.#polling) return;
    this.#polling = true;
    try {
      for (let busy = true; busy; ) {
        const jobs = await request("jobs");
        jobs.forEach((job) => this.#show(job));
        busy = jobs.some((job) => job.state === "queued" || job.state === "running");
        if (busy) await new Promise((resolve) => setTimeout(resolve, INTERVAL));
      }
    } catch {
      // The server is gone; the next upload will say so.
    } finally {
      this.#polling = false;
    }
  }

  #show(job) {
    if (!this.#items.has(job.id)) this.#items.set(job.id, this.#item(job.name));
    const { row, detail, progress, choose, link, remove } = this.#items.get(job.id);
    row.className = job.state;
    row.dataset.job = job.id;
    detail.textContent = describe(job);
    progress.hidden = job.state === "done" || job.state === "failed";
    if (job.total) progress.value = Math.min(1, job.frames / job.total);
    else progress.removeAttribute("value");
    choose.hidden = !progress.hidden || !job.duration;
    choose.onclick = () => this.#edit(job);
    link.hidden = !job.result;
    link.href = `jobs/${job.id}/result`;
    link.download = job.result ?? "";
    remove.textContent = progress.hidden ? "Remove" : "Cancel";
    remove.disabled = false;
    remove.onclick = async () => {
      this.#items.delete(job.id);
      row.remove();
      await request(`jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
    };
  }

  #item(name) {
    const row = this.#template.content.firstElementChild.cloneNode(true);
    const [title, detail, progress, choose, link, remove] = row.children;
    title.textContent = name;
    remove.disabled = true;
    this.#list.prepend(row);
    return { row, detail, progress, choose, link, remove };
  }

  // Opens the editor of a finished job, or closes it.
  #edit(job) {
    const { row, choose } = this.#items.get(job.id);
    const close = () => {
      row.querySelector(".editor")?.remove();
      choose.ariaExpanded = "false";
    };
    if (row.querySelector(".editor")) return close();
    const again = (queued) => {
      close();
      this.#show(queued); // at once: what it was chosen for before is not to be seen again
      this.#poll();
    };
    row.append(new Editor(this.#editor, job, again, this.#notice).element);
    choose.ariaExpanded = "true";
  }
}

function describe(job) {
  if (job.state === "queued") return "waiting for the previous job";
  if (job.state === "failed") return job.error.message;
  const frames = job.total && job.state === "running" ? `${job.frames} of ${job.total}` : job.frames;
  return `${frames} frames over ${job.background}, ${job.rate.toFixed(1)} per second`;
}
