// The lanes: a column for each processor, time downwards. Steps on data that no other CPU races for are folded.

const CPU = (number) => `var(--cpu-${number % 8})`;

class Lanes {
  /** `onlook` is called with the number of a step, -1 for the state before all, when another one is looked at. */
  constructor(story, onlook) {
    this.story = story;
    this.onlook = onlook;
    this.chosen = -1;
    this.items = new Map();
    this.folds = [];
    this.element = this.build();
    this.follow();
  }

  build() {
    const { cpus, steps } = this.story;
    const start = make("li", { class: "step start", "data-step": -1, tabindex: -1 }, make("span", { class: "text" }, "Before the first step"));
    this.items.set(-1, start);
    const turns = turnsOf(steps);
    const waits = waitsOf(this.story);
    const lane = (cpu, from, parts) => make("li", {
      class: `turn${from === cpu ? "" : " switched"}`,
      style: { "--lane": cpu, "--from": from, "--cpu": CPU(cpu) },
    }, make("ol", { "aria-label": `CPU ${cpus[cpu].letter}` }, parts));
    const before = (list, at) => list[at - 1]?.cpu ?? list[at].cpu;
    const ran = turns.map((turn, at) => lane(turn.cpu, before(turns, at), this.parts(turn)));
    const ends = [...turns.slice(-1), ...waits];
    const waiting = waits.map((wait) => lane(wait.cpu, before(ends, ends.indexOf(wait)), waitItem(wait)));
    const lines = cpus.map((_, number) => make("i", { class: "lane-line", style: { "--lane": number } }));
    const width = Math.max(34, Math.min(100, Math.round(276 / cpus.length)));
    const folds = this.folds.length;
    this.all = make("button", { type: "button", "aria-pressed": "false", onclick: () => this.foldAll() }, "");
    this.nameAll();
    return make("div", { class: "lanes", style: { "--width": `${width}px` } },
      make("div", { class: "lanes-head" },
        cpus.map((cpu, number) => make("div", { class: "cpu", style: { "--cpu": CPU(number) } },
          make("b", {}, `CPU ${cpu.letter}`), cpu.process ? ` in ${cpu.process}` : null, make("span", {}, cpu.name))),
        folds > 0 && make("div", { class: "fold" }, this.all)),
      make("div", { style: { position: "relative" } }, lines,
        make("ol", { class: "turns", "aria-label": "Steps, in the order in which they happened" }, make("li", {}, make("ol", {}, start)), ran, waiting)));
  }

  /** Steps of a turn, those in between that nobody races for folded. */
  parts(turn) {
    const parts = [];
    for (let at = turn.first; at <= turn.last;) {
      let end = at;
      if (this.isShown(at)) parts.push(this.item(at));
      else {
        while (end < turn.last && !this.isShown(end + 1) && !this.isLoud(end)) end += 1;
        parts.push(this.fold(at, end));
      }
      if (this.isLoud(end)) parts.push(againItem(this.story.steps[end]));
      at = end + 1;
    }
    return parts;
  }

  isShown(at) {
    return this.story.steps[at].contended || at + 1 === this.story.steps.length || goesWrong(this.story, at) || this.story.named.has(at);
  }

  /** Does a loop with steps that are shown end its first turn here? */
  isLoud(at) {
    const steps = this.story.steps[at].again?.steps ?? 0;
    return Array.from({ length: steps }, (_, back) => at - back).some((each) => this.isShown(each));
  }

  item(at) {
    const step = this.story.steps[at];
    const { source, kernel } = step;
    const violation = goesWrong(this.story, at);
    const item = make("li", {
      class: `step${step.contended ? "" : " quiet"}${violation ? " violation" : ""}`,
      id: `step-${step.number}`, "data-step": at, "data-kind": step.kind, tabindex: -1,
      style: { "--cpu": CPU(step.cpu) },
    },
    sign(step.kind),
    make("span", { class: "words" },
      make("span", { class: "text" }, arrows(step.text)),
      kernel && [" ", make("span", { class: "kernel", title: `${kernel}() of Linux does this` }, `${kernel}()`)]),
    source && make("span", { class: "source", title: `${source.function}, ${source.file}:${source.line}` }, `${fileName(source.file)}:${source.line}`));
    this.items.set(at, item);
    return item;
  }

  fold(first, last) {
    const list = make("ol", { hidden: true });
    for (let at = first; at <= last; at += 1) {
      list.append(this.item(at));
      if (this.story.steps[at].again && !this.isLoud(at)) list.append(againItem(this.story.steps[at]));
    }
    const says = make("span", {});
    const button = make("button", { type: "button", title: "steps on data that no other CPU races for", "aria-expanded": "false", onclick: () => this.setFold(fold, list.hidden) }, says);
    const fold = { first, last, list, button, says };
    this.folds.push(fold);
    this.nameFold(fold);
    return make("li", { class: "folded" }, button, list);
  }

  nameFold({ first, last, list, says }) {
    says.textContent = `${list.hidden ? "▸" : "▾"} ${plural(howMany(this.story, first, last), "quiet step")}`;
  }

  nameAll() {
    const open = this.folds.some((fold) => !fold.list.hidden);
    const hidden = this.folds.reduce((sum, fold) => sum + howMany(this.story, fold.first, fold.last), 0);
    this.all.textContent = open ? "Fold quiet steps" : `Show ${plural(hidden, "quiet step")}`;
    this.all.setAttribute("aria-pressed", String(open));
  }

  setFold(fold, open) {
    fold.list.hidden = !open;
    fold.button.setAttribute("aria-expanded", String(open));
    this.nameFold(fold);
    this.nameAll();
    if (!open && this.chosen >= fold.first && this.chosen <= fold.last) this.choose(this.before(fold.first));
  }

  foldAll() {
    const open = !this.folds.some((fold) => !fold.list.hidden);
    for (const fold of this.folds) this.setFold(fold, open);
    this.items.get(this.chosen).scrollIntoView({ block: "nearest" });
  }

  /** Numbers of the steps that can be seen, the state before all first. */
  visible() {
    const folded = (at) => this.folds.some((fold) => fold.list.hidden && at >= fold.first && at <= fold.last);
    return [...this.items.keys()].sort((a, b) => a - b).filter((at) => !folded(at));
  }

  /** The visible step before this one; -1 if there is none. */
  before(at) {
    return this.visible().findLast((other) => other < at) ?? -1;
  }

  choose(at, { focus = true } = {}) {
    const fold = this.folds.find((each) => each.list.hidden && at >= each.first && at <= each.last);
    if (fold) this.setFold(fold, true);
    const old = this.items.get(this.chosen);
    old.classList.remove("chosen");
    old.removeAttribute("aria-current");
    old.tabIndex = -1;
    this.chosen = at;
    const item = this.items.get(at);
    item.classList.add("chosen");
    item.setAttribute("aria-current", "step");
    item.tabIndex = 0;
    if (focus) item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    this.look(at);
  }

  look(at) {
    this.near?.classList.remove("near");
    this.near = at === this.chosen ? null : this.items.get(at);
    this.near?.classList.add("near");
    this.onlook(at);
  }

  move(by) {
    const visible = this.visible();
    const to = visible.indexOf(this.chosen) + by;
    this.choose(visible[Math.max(0, Math.min(visible.length - 1, to))]);
  }

  moveToEnd(last) {
    const visible = this.visible();
    this.choose(last ? visible.at(-1) : visible[0]);
  }

  moveToWrong() {
    const wrong = this.story.steps.findIndex((_, at) => goesWrong(this.story, at));
    if (wrong >= 0) {
      this.choose(wrong);
      return;
    }
    this.moveToEnd(this.story.report !== null);
    // What goes wrong is no step then: somebody waits, or nobody ends.
    const lines = [...this.element.querySelectorAll(".waiting, .again")].filter((line) => line.offsetHeight > 0);
    lines.at(-1)?.scrollIntoView({ block: "center" });
  }

  /** To the next or previous step of the same processor. */
  moveOnCpu(by) {
    const visible = this.visible();
    const { steps } = this.story;
    const cpu = steps[this.chosen]?.cpu ?? steps[0].cpu;
    for (let at = visible.indexOf(this.chosen) + by; at > 0 && at < visible.length; at += by) {
      if (steps[visible[at]].cpu === cpu) return this.choose(visible[at]);
    }
    return undefined;
  }

  /** Follows the pointer. A page that scrolls under a pointer at rest is not the pointer's doing. */
  follow() {
    let last = "";
    this.element.addEventListener("pointermove", (event) => {
      const place = `${event.clientX},${event.clientY}`;
      if (place === last || event.pointerType === "touch") return;
      last = place;
      const item = event.target.closest("[data-step]");
      const at = item ? Number(item.dataset.step) : this.chosen;
      if (at !== this.looked()) this.look(at);
    });
    this.element.addEventListener("pointerleave", () => this.looked() !== this.chosen && this.look(this.chosen));
    this.element.addEventListener("click", (event) => {
      const item = event.target.closest("[data-step]");
      if (item) this.choose(Number(item.dataset.step));
    });
    this.element.addEventListener("focusin", (event) => {
      const item = event.target.closest("[data-step]");
      if (item && Number(item.dataset.step) !== this.chosen) this.choose(Number(item.dataset.step), { focus: false });
    });
  }

  /** The number of the chosen step, as an address has it; 0 before the first one. */
  number() {
    return this.story.steps[this.chosen]?.number ?? 0;
  }

  looked() {
    return this.near ? Number(this.near.dataset.step) : this.chosen;
  }
}

/** Is this the step that the report is about? */
const goesWrong = (story, at) => Number.isInteger(story.report?.step) && story.report.step + 1 === story.steps[at].number;

/** The steps that the report names: where locks were taken in the other order, what waits is waited for, and a free. */
function namedIn({ report, steps }) {
  const named = new Set();
  if (!report) return named;
  const held = new Map();
  steps.forEach((step, at) => {
    if (step.kind === "lock") {
      for (const taken of report.order) {
        const before = held.get(`${step.cpu} ${taken.held}`);
        if (taken.cpu === step.cpu && taken.taken === step.object && before !== undefined) named.add(before).add(at);
      }
      held.set(`${step.cpu} ${step.object}`, at);
    } else if (step.kind === "unlock") {
      held.delete(`${step.cpu} ${step.object}`);
    } else if (report.freed && step.object === report.freed.object && ["free", "free_lock", "call_rcu"].includes(step.kind)) {
      named.add(at);
    }
  });
  // Where somebody waits, all that is held has a part in it.
  if (report.waits.length > 0) for (const at of held.values()) named.add(at);
  return named;
}

/** Steps from one to another, with those that are not told because they repeat others. */
function howMany(story, first, last) {
  const end = story.steps[last + 1]?.number ?? story.count + 1;
  const { again } = story.steps[last];
  // What repeats steps that are shown is told beside them.
  return end - story.steps[first].number - (again && last - first + 1 < again.steps ? again.steps * again.times : 0);
}

const againItem = ({ again }) => make("li", { class: "again" }, make("span", {}, `↻ ${inTurns(again)}`));

/** What is done over and over. */
const inTurns = ({ steps, times }) => `${steps === 1 ? "the same" : `the last ${number(steps)} steps`} ${number(times)} times more`;

/** Who waits for what at the end, in vain, or would have waited if it may. */
function waitsOf({ report }) {
  const does = report && isSleep(report) ? "may sleep for" : "waits for";
  return (report?.waits ?? []).map(([cpu, what], at) => ({ cpu, text: `${does} ${what}`, source: report.waits_in?.[at]?.[0] }));
}

/** Is the report about a sleep where none may be, whether or not it would have come to that? */
const isSleep = (report) => report.property === "I10";

/** What does not happen any more is no step: there is no state after it. */
function waitItem({ text, source }) {
  return make("li", { class: "waiting" },
    sign("wait"),
    make("span", { class: "words" },
      make("span", { class: "text" }, text),
      source?.kernel && [" ", make("span", { class: "kernel" }, `${source.kernel}()`)]),
    source && make("span", { class: "source", title: `${source.function}, ${source.file}:${source.line}` }, `${fileName(source.file)}:${source.line}`));
}

/** Runs of steps of one processor. */
function turnsOf(steps) {
  const turns = [];
  steps.forEach((step, at) => {
    const last = turns.at(-1);
    if (last?.cpu === step.cpu) last.last = at;
    else turns.push({ cpu: step.cpu, first: at, last: at });
  });
  return turns;
}
