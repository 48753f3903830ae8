// The page: what its controls do.

import { checkSize, request, upload } from "./api.js";
import { Choice } from "./choice.js";
import { Jobs } from "./jobs.js";
import { Live } from "./live.js";
import { Plot } from "./plot.js";

const $ = (id) => document.getElementById(id);
const ms = (time) => `${time.toFixed(1)} ms`;

const state = await request("state");
const plot = new Plot($("plot"));
const jobs = new Jobs($("jobs"), $("job"), $("editor"), notice);
let live = null;
let doubt = "";

function notice(message) {
  $("notice").textContent = message;
  $("notice").hidden = !message;
}

function attempt(work) {
  return async (...given) => {
    notice("");
    try {
      await work(...given);
    } catch (error) {
      notice(error.message);
    }
  };
}

const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const background = () => ({ background: checked("background"), blur: $("blur").value });

// Camera

function show(text, isLive) {
  $("state").textContent = text;
  $("state").classList.toggle("live", isLive);
  $("start").textContent = live ? "Stop camera" : "Start camera";
}

const choice = new Choice(
  { stage: $("stage"), video: $("result"), outline: $("outline"), aim: $("aim"), everybody: $("everybody") },
  (what, place) => {
    notice("");
    live?.choose(what, place);
  },
  () => $("mirror").checked,
);

function end() {
  live = null;
  choice.show();
  $("camera").srcObject = $("result").srcObject = null;
  show("Camera off", false);
}

$("start").onclick = () => {
  notice("");
  if (live) return live.stop();
  plot.clear();
  live = new Live({
    onCamera: (stream) => ($("camera").srcObject = stream),
    onResult: (stream) => ($("result").srcObject = stream),
    onStatistics: statistics,
    onError: notice,
    onEnd: end,
  });
  show("Starting…", false);
  live.start({ ...background(), view: checked("view") });
};

$("result").onplaying = () => live && show("Live", true);

function statistics(now) {
  $("fps").textContent = now.fps.toFixed(1);
  $("p50").textContent = ms(now.latency_p50);
  $("p99").textContent = ms(now.latency_p99);
  $("drops").textContent = now.dropped;
  $("budget").textContent = `${now.budget_ms.toFixed(0)} ms, ${now.holds ? "held" : "missed"}`;
  $("budget").title = now.last_change && `Network changed ${now.level_changes} times: ${now.last_change}`;
  $("network").textContent = now.network_size.toReversed().join(" × ") + (now.carried ? ", carried" : "");
  $("stages").textContent = Object.entries(now.stages)
    .map(([stage, time]) => `${stage} ${ms(time)}`)
    .join(", ");
  choice.show(now.outline);
  if ((now.doubt ?? "") !== doubt) notice((doubt = now.doubt ?? ""));
  plot.add(now.latencies, now.budget_ms);
  $("plot").ariaLabel = `Latency of the last minute; the median is ${ms(now.latency_p50)}`;
}

$("views").onchange = (event) => {
  live?.set({ view: checked("view") });
  $("result-caption").textContent = event.target.labels[0].title || "Result";
};

$("mirror").onchange = () => $("live").classList.toggle("mirrored", $("mirror").checked);
$("mirror").onchange();

// Backgrounds

function addChoice({ id, name }) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const picture = document.createElement("img");
  const caption = document.createElement("span");
  label.className = "thumbnail";
  label.title = name;
  input.type = "radio";
  input.name = "background";
  input.value = id;
  picture.className = "picture";
  picture.alt = "";
  picture.src = `backgrounds/${id}/thumbnail`;
  caption.textContent = name;
  label.append(input, picture, caption);
  $("choices").lastElementChild.before(label);
  return input;
}

function choose() {
  const { background: id, blur } = background();
  const isBlur = id === state.blur.id;
  $("blur").disabled = !isBlur;
  $("blur").parentElement.classList.toggle("off", !isBlur);
  $("blur-value").textContent = blur;
  live?.set({ background: id, blur });
}

$("blur").max = state.blur.most;
$("blur").value = state.blur.sigma;
state.backgrounds.forEach(addChoice);
document.querySelector("input[name=background]").checked = true;
choose();

$("choices").addEventListener("change", (event) => event.target.name === "background" && choose());
$("blur").oninput = choose;

$("background-file").onchange = attempt(async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  checkSize(file, state.limits.background);
  const query = new URLSearchParams({ name: file.name });
  const input = addChoice(await upload(`backgrounds?${query}`, file, () => {}));
  input.checked = true;
  input.focus();
  choose();
});

// Files

const addJobs = attempt(async (files) => {
  for (const file of files) await jobs.add(file, background(), state.limits.video);
});

$("job-file").onchange = async (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  await addJobs(files);
};

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser opens a file that misses the field
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) addJobs([...event.dataTransfer.files]);
  });
}
