// Addresses and keys. `#` is the matrix, `#S1/legacy` a verdict, `#S1/legacy?step=12` a step of its run.

function verdictAt(hash) {
  const [path, query] = hash.split("?");
  const step = new URLSearchParams(query).get("step");
  return { verdict: verdictsByAddress.get(path), step: step === null ? undefined : Number.parseInt(step, 10) };
}

/** Keeps the step in the address, so that it can be passed on, without an entry in the history for each. */
function remember(verdict, story, at) {
  const address = `${addressOf(verdict)}?step=${at < 0 ? 0 : story.steps[at].number}`;
  if (location.hash === address) return;
  try {
    history.replaceState(null, "", address);
  } catch {
    // A browser may say that this is too often; the address then lags behind.
  }
}

function show() {
  const { verdict, step } = verdictAt(location.hash);
  const unknown = !verdict && !["", "#"].includes(location.hash) ? location.hash : null;
  const [matrix, story] = [document.getElementById("matrix"), document.getElementById("story")];
  const from = open && addressOf(open.verdict);
  [matrix.hidden, story.hidden] = [Boolean(verdict), !verdict];
  document.title = verdict ? `${verdict.scenario} under ${verdict.under}: ${inAWord(verdict)}` : "hugewalk check";
  if (verdict) {
    if (verdict !== open?.verdict || step !== undefined) showStory(story, verdict, step);
  } else {
    open = null;
    story.replaceChildren();
    showMatrix(matrix, from, unknown);
  }
}

/** The next race in the order of the matrix. */
function showRace(by) {
  const inMatrix = said.rows.flatMap((row) => said.protocols.map((protocol) => row.cells.get(protocol.name)));
  const races = [...inMatrix, ...said.steps.flatMap((step) => step.races)]
    .filter((verdict) => verdict?.race && !hiddenProtocols.has(verdict.protocol));
  if (races.length === 0) return;
  const at = races.indexOf(open.verdict);
  const next = at < 0 ? 0 : (at + by + races.length) % races.length;
  location.hash = addressOf(races[next]);
}

const KEYS = [
  [["j", "ArrowDown", "ArrowRight"], "the next step", () => open.lanes?.move(1)],
  [["k", "ArrowUp", "ArrowLeft"], "the previous step", () => open.lanes?.move(-1)],
  [["n"], "the next step of the same CPU", () => open.lanes?.moveOnCpu(1)],
  [["p"], "the previous step of the same CPU", () => open.lanes?.moveOnCpu(-1)],
  [["Home"], "the start", () => open.lanes?.moveToEnd(false)],
  [["End"], "the last step", () => open.lanes?.moveToEnd(true)],
  [["w"], "the step that goes wrong", () => open.lanes?.moveToWrong()],
  [["f"], "show or fold the quiet steps", () => open.lanes?.folds.length > 0 && open.lanes.foldAll()],
  [["]"], "the next race", () => showRace(1)],
  [["["], "the previous race", () => showRace(-1)],
  [["Escape"], "back to the matrix", () => { location.hash = ""; }],
];

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const help = document.getElementById("help");
  if (help.open) {
    if (event.key === "?") help.close();
    return;
  }
  if (event.target.matches("input[type=search]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "?") {
    showHelp(help);
    return;
  }
  if (!open) {
    if (event.key === "/") {
      event.preventDefault();
      document.querySelector("input[type=search]").focus();
    }
    return;
  }
  const known = KEYS.find(([keys]) => keys.includes(event.key));
  if (!known) return;
  event.preventDefault();
  known[2]();
}

function showHelp(dialog) {
  const names = { ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };
  const keys = (list) => list.map((key) => [make("kbd", {}, names[key] ?? key), " "]);
  dialog.replaceChildren(
    make("h2", { id: "help-title" }, "Keys and signs"),
    make("h3", {}, "In a run"),
    make("dl", {}, KEYS.map(([list, what]) => [make("dt", {}, keys(list)), make("dd", {}, what)])),
    make("h3", {}, "In the matrix"),
    make("dl", {},
      make("dt", {}, keys(["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"])), make("dd", {}, "from verdict to verdict"),
      make("dt", {}, keys(["Enter"])), make("dd", {}, "open it"),
      make("dt", {}, keys(["/"])), make("dd", {}, "look for scenarios by words")),
    make("h3", {}, "Steps"),
    make("dl", { class: "signs" }, Object.entries(SHAPES).filter(([kind]) => kind !== "free_lock").map(([kind, [what]]) => [
      make("dt", {}, draw("svg", { viewBox: "0 0 17 17", width: 17, height: 17, "aria-hidden": "true" }, SHAPES[kind][1]())), make("dd", {}, what)])),
    make("h3", {}, "Tables"),
    make("dl", {},
      make("dt", {}, make("span", { style: { background: "var(--mark)", padding: "0 0.4em" } }, "marked")), make("dd", {}, "differs from the step before; what it was is struck out"),
      make("dt", {}, "A, B, C in a circle"), make("dd", {}, "where that CPU has last touched the tables; filled: it moves now"),
      make("dt", {}, "users"), make("dd", {}, "extra users (pt_share_count in Linux)"),
      make("dt", {}, "gen"), make("dd", {}, "the generation: how often the table was detached"),
      make("dt", {}, "dotted arrow"), make("dd", {}, "what a TLB or a paging-structure cache still knows; red if it is stale")),
    make("form", { method: "dialog" }, make("button", { autofocus: true }, "Close")));
  dialog.showModal();
  // The focus is on the button at the end.
  dialog.scrollTop = 0;
}

// A page of one run opens on it.
if (said.replayed && ["", "#"].includes(location.hash)) history.replaceState(null, "", [...verdictsByAddress.keys()][0]);
addEventListener("hashchange", show);
addEventListener("keydown", onKey);
// The tables have other places then.
isNarrow.addEventListener("change", () => {
  if (open?.lanes) showStory(document.getElementById("story"), open.verdict, open.lanes.number());
});
show();
