// One verdict: its run as lanes with the tables beside them, or what was explored if there is no run to tell.

let open = null;

const isNarrow = matchMedia("(max-width: 40rem)");

async function showStory(place, verdict, step) {
  const mine = { verdict, lanes: null };
  open = mine;
  place.replaceChildren(storyHead(verdict));
  place.querySelector(".row [aria-current]").scrollIntoView({ inline: "nearest", block: "nearest" });
  if (verdict.story === null) {
    place.append(explored(verdict));
    place.querySelector("h1").focus();
    return;
  }
  const story = await storyOf(verdict);
  story.named = namedIn(story);
  mine.story = story;
  // Somebody may have gone on meanwhile.
  if (open !== mine) return;
  const layout = arrange(story, isNarrow.matches);
  const feet = footsteps(story, layout);
  const drawn = make("figure", { "aria-label": "Page tables" });
  const about = make("div", {});
  const stateAt = (at) => story.states[at < 0 ? 0 : story.steps[at].shows];
  const lanes = new Lanes(story, (at) => {
    const state = stateAt(at);
    drawn.replaceChildren(drawTables(story, layout, {
      state, before: at < 0 ? state : stateAt(lanes.before(at)), step: story.steps[at] ?? null, feet: feet[at] ?? [],
    }));
    about.replaceChildren(aboutStep(story, lanes, at, state));
    announce(story, at);
    // The address that was opened stays until somebody moves.
    if (open.lanes) remember(verdict, story, lanes.chosen);
  });
  put(place,
    make("div", { class: "pane" }, lanes.element, report(story, verdict)),
    make("aside", { class: "pane tables", "aria-label": "The tables at this step", tabindex: 0 }, drawn, about, key()));
  if (Number.isInteger(step)) {
    // Of a step that repeats an earlier one, the last one that is told before it.
    lanes.choose(story.steps.findLastIndex((each) => each.number <= step));
  } else {
    lanes.moveToWrong();
  }
  open.lanes = lanes;
}

function storyHead(verdict) {
  const { row } = verdict;
  const others = [...said.protocols.map((protocol) => row.cells.get(protocol.name)).filter(Boolean), ...row.stepless];
  return make("header", {},
    make("h1", { tabindex: -1 }, make("a", { class: "back", href: "#", title: "Esc" }, "All verdicts"), make("span", { class: "slash", "aria-hidden": "true" }, "/"), `${row.id} under ${verdict.under}`,
      make("span", { class: `verdict ${verdict.sort}` }, `${SIGNS[verdict.sort]} ${inAWord(verdict)}`)),
    make("p", { class: "what" }, prose(row.what)),
    row.history && make("p", { class: "history" }, prose(row.history)),
    verdict.race && make("p", { class: "wrong" }, sentence(verdict.race.text),
      make("button", { type: "button", title: "w", onclick: () => open?.lanes?.moveToWrong() }, "Show")),
    make("p", { class: "command" }, verdict.replay && [make("code", {}, verdict.replay), copyButton("Copy", "Copy the command that runs it again", () => verdict.replay)],
      verdict.story !== null && copyButton("Diagram", "Copy a diagram for a commit message: 72 columns", () => open?.story?.diagram ?? ""),
      make("button", { type: "button", title: "Keys and signs", "aria-label": "Keys and signs", onclick: () => showHelp(document.getElementById("help")) }, "?")),
    make("nav", { class: "row", "aria-label": "The same scenario under other protocols" },
      others.map((other) => make("a", {
        class: other.sort, href: addressOf(other), "aria-current": other === verdict ? "page" : null, title: inWords(other),
      }, make("span", { class: "sign" }, SIGNS[other.sort]), other.left_out ? `−${other.left_out}` : other.protocol))));
}

/** What went wrong, without the name of the property before it. */
const sentence = (text) => arrows(text.replace(/^(I\d+|lock order): /, ""));

/** What the names in a drawing mean. */
function key() {
  const names = [
    ["P1, P2", "processes"], ["T3", "a table, of entries of huge pages"], ["T3[0]", "its first entry"],
    ["pud[4]", "the entry of a process that leads to a table"], ["users", "further users of a table (pt_share_count)"],
    ["gen", "how often it was detached"], ["quiet step", "a step on data that no other CPU of the scenario races for"],
  ];
  return make("p", { class: "key" }, names.map(([name, what], at) => [at > 0 && " · ", make("b", {}, name), ` ${what}`]));
}

/** What was done to find nothing. */
function explored(verdict) {
  const found = verdict.explored;
  const facts = [
    found && ["Explored", exploredInWords(verdict)],
    found && ["Objects that threads race for", number(found.contended)],
    found && ["Time", `${(found.milliseconds / 1000).toFixed(2)} s`],
    verdict.expected && ["Expected", verdict.expected.replaceAll("_", " ")],
  ].filter(Boolean);
  const says = {
    not_met: `No schedule that was run met a race. Random schedules cannot exclude one${verdict.expected === "race" ? "; a race is known here" : ""}.`,
    incomplete: "No schedule that was run violates anything that this scenario is judged by. The limit on executions came before all of them had been run: a greater --executions goes further.",
    safe: "No schedule that was run violates anything that this scenario is judged by.",
    race: `${verdict.race?.text}. Its run could not be told.`,
    does_not_apply: `This scenario says nothing about this protocol: ${verdict.why ?? "there is nothing to find out"}.`,
  }[verdict.verdict];
  return make("div", { class: "pane told" }, make("section", { class: "explored" },
    make("p", {}, says),
    make("dl", {}, facts.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    verdict.verdict === "safe" && make("p", { class: "soft" }, "Memory is sequentially consistent here; what depends on weaker orderings is checked elsewhere.")));
}

/** Says in words what the eye sees. */
function announce(story, at) {
  const step = story.steps[at];
  const text = step
    ? `Step ${step.number}, CPU ${story.cpus[step.cpu].letter}: ${step.text}. ${step.again ? `Then ${inTurns(step.again)}. ` : ""}${step.changes.length > 0 ? `Changed: ${step.changes.join("; ")}` : "Nothing changed"}.`
    : "Before the first step.";
  document.getElementById("live").textContent = text.replaceAll("->", "to");
}
