// What is known of the step that is looked at, in words; and the report at the end.

let stackOpen = false;

function aboutStep(story, lanes, at, state) {
  const step = story.steps[at];
  const visible = lanes.visible();
  const move = (by, label, mark) => make("button", { type: "button", title: label, "aria-label": label, onclick: () => lanes.move(by) }, mark);
  const position = at < 0 ? "Before the first step" : [`Step ${number(step.number)} of ${number(story.count)}, `, make("b", { style: { "--cpu": CPU(step.cpu) } }, `CPU ${story.cpus[step.cpu].letter}`), `, ${story.cpus[step.cpu].name}`];
  const about = make("section", { class: "about", "aria-label": "The step" },
    make("p", { class: "where" }, make("span", {}, position),
      make("span", { class: "buttons" }, move(-1, "The previous step", "‹"), " ", move(1, "The next step", "›"))));
  if (at >= 0) {
    const wrong = goesWrong(story, at);
    about.append(make("h2", { class: wrong ? "wrong" : null }, arrows(step.text)));
    if (wrong) about.append(make("p", {}, story.report.what));
  }
  const before = visible[visible.indexOf(at) - 1] ?? -1;
  about.append(make("dl", {},
    at >= 0 && [
      step.kernel && [make("dt", {}, "Linux"), make("dd", { class: "mono" }, `${step.kernel}()`)],
      step.source && [make("dt", {}, "Here"), make("dd", { class: "mono" }, `${step.source.function}  ${step.source.file}:${step.source.line}`, snippet(step.source))],
      make("dt", {}, "Changed"), make("dd", {}, changes(story, before, at)),
      step.again && [make("dt", {}, "Then"), make("dd", {}, inTurns(step.again))],
    ],
    make("dt", {}, "Held"), make("dd", {}, held(story, state))));
  const stack = at >= 0 && stackOf(story, step);
  if (stack?.length > 1) {
    about.append(make("details", { open: stackOpen, ontoggle: (event) => { stackOpen = event.target.open; } },
      make("summary", {}, "Called by"), frames(stack.slice(1))));
  }
  return about;
}

/** The lines around a place in our source, if the page has them. */
function snippet({ file, line }) {
  const found = said.snippets[`${file}:${line}`];
  if (!found) return null;
  return make("pre", { class: "snippet", tabindex: 0, "aria-label": `${file}, around line ${line}` },
    found.lines.map((text, at) => make("span", { class: found.from + at === line ? "at" : null }, `${String(found.from + at).padStart(4)} ${text}\n`)));
}

const stackOf = (story, step) => (Number.isInteger(step.stack) ? story.stacks?.[step.stack] : step.stack) ?? [];

/** What the step changed, and what changed in the folded steps before it. */
function changes(story, before, at) {
  const lines = (from, to) => story.steps.slice(from, to).flatMap((step) => step.changes);
  const own = lines(at, at + 1);
  const folded = lines(before + 1, at);
  if (own.length + folded.length === 0) return make("span", { class: "soft" }, "nothing");
  return make("ul", {},
    own.map((line) => make("li", {}, make("mark", {}, arrows(line)))),
    folded.length > 0 && make("li", { class: "soft" }, `in the ${plural(story.steps[at].number - (story.steps[before]?.number ?? 0) - 1, "folded step")} before: `, arrows(shorten(folded).join("; "))));
}

const shorten = (lines) => (lines.length > 6 ? [...lines.slice(0, 5), `${lines.length - 5} more`] : lines);

/** Who holds which locks. */
function held(story, state) {
  if (state.holds.length === 0) return make("span", { class: "soft" }, "nothing");
  return make("ul", { class: "held" }, state.holds.map(({ cpu, locks }) => make("li", {},
    make("span", { class: "holder", style: { "--cpu": CPU(cpu) } }, story.cpus[cpu].letter),
    locks.map((lock) => make("span", {}, lock)))));
}

function frames(stack) {
  // How the processors of a scenario are started is of no interest.
  const told = stack.filter((source) => !source.file.endsWith("/bench.rs"));
  return make("ol", { class: "frames" }, told.map((source) => make("li", {},
    make("span", {}, source.function, source.kernel && make("span", { class: "kernel" }, `  ${source.kernel}()`)),
    make("span", { class: "place" }, `${source.file}:${source.line}`))));
}

/** What a run is judged by. */
const PROPERTIES = {
  I1: "no table, and no lock in one or in a VMA, is used after it was freed",
  I2: "a walker writes only to a table that its own parent entry points to at that moment",
  I3: "a walker acts only on an entry that was its own when it was read",
  I4: "the share count of a table is right whenever i_mmap is free",
  I5: "a process shares a table only if it has a mapping that may",
  I6: "no TLB and no paging-structure cache reaches a table after it was unshared",
  I8: "nobody who has waited for a lock makes way for others without end",
  I9: "nothing is left at the end: tables, pages, reservations",
  I10: "nothing sleeps in an atomic section",
  I11: "no processor comes to a page, or stores to one, by a translation that is older than a call that is over",
  I12: "nobody comes to a page before it is filled",
  I13: "nothing that a processor has stored is lost, nor the dirty bit that says so",
  I14: "the references of a page are its mappings, the page cache and pins",
};

/** The report, in the manner of KASAN. */
function report(story, verdict) {
  const told = story.report;
  if (!told) return null;
  const by = (cpu) => (cpu === null || cpu === undefined ? "the setup" : `CPU ${story.cpus[cpu].letter}, ${story.cpus[cpu].name}`);
  const event = (name, what) => what && [
    make("h3", {}, `${what.object} ${name} by ${by(what.cpu)}`), frames(what.stack)];
  const waits = ([cpu, what]) => `${by(cpu)}, waits for ${what}`;
  // Where it waits itself is its stack. Of a sleep where none may be, the stack says it all.
  const own = !isSleep(told) && told.waits.find(([cpu]) => cpu === told.cpu);
  const end = story.states.at(-1);
  return make("section", { class: "report", "aria-label": "What went wrong" },
    make("h2", {}, `BUG: ${told.title}`),
    make("p", {}, `${told.property}: ${told.what}`),
    PROPERTIES[told.property] && make("p", { class: "soft" }, `${told.property} says: ${PROPERTIES[told.property]}.`),
    told.cpu !== null && told.stack?.length > 0 && [make("h3", {}, own ? waits(own) : `By ${by(told.cpu)}`), frames(told.stack)],
    !isSleep(told) && told.waits.map((wait, at) => wait !== own && [make("h3", {}, waits(wait)), frames(told.waits_in[at])]),
    told.order.map(({ cpu, held, taken, stack }) => [
      make("h3", {}, `${by(cpu)}, held ${held} when it took ${taken}`), frames(stack)]),
    event("was allocated", told.allocated),
    event("was freed", told.freed),
    end.holds.length > 0 && [make("h3", {}, "Locks held"), held(story, end)],
    make("h3", {}, "Schedule"),
    make("p", {}, make("code", {}, told.schedule), `: ${plural(told.switches, "switch", "switches")}, ${plural(told.steps, "step")}${verdict.race.shortest ? ", a shortest one" : ""}`));
}
