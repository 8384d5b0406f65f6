// The matrix of verdicts: scenarios and walkers down, protocols across. It is the index of the page.

const hiddenProtocols = new Set();
let sought = "";

function showMatrix(place, focused, unknown) {
  const shown = said.protocols.filter((protocol) => !hiddenProtocols.has(protocol.name));
  place.replaceChildren();
  const notice = unknown && make("p", { class: "notice", role: "status" },
    "This page has no verdict at ", make("code", {}, unknown), ": the report it shows may be of other scenarios or protocols.");
  put(place, notice, heading(), filters(place), make("div", { class: "wide" }, verdictTable(shown)), steps(), legend(shown), footer());
  const cells = [...place.querySelectorAll(".cell")];
  const first = cells.find((cell) => cell.hash === focused) ?? cells[0];
  if (first) first.tabIndex = 0;
  if (focused && first) first.focus();
}

function heading() {
  const verdicts = [...verdictsByAddress.values()];
  const count = (sort) => verdicts.filter((verdict) => verdict.verdict === sort).length;
  const unknown = count("not_met") - said.not_met;
  return make("header", {},
    make("h1", {}, "hugewalk check"),
    said.replayed ? make("p", { class: "summary" }, "One schedule, run again. Open it to see what happens under it.") : make("p", { class: "summary" },
      make("strong", {}, plural(count("race"), "race")),
      said.not_met > 0 && [", ", make("strong", { class: "unsure" }, `${plural(said.not_met, "known race")} not met`)],
      unknown > 0 && [", ", make("strong", { class: "unsure" }, `${number(unknown)} not met by chance`)],
      count("incomplete") > 0 && [", ", make("strong", { class: "unsure" }, `${number(count("incomplete"))} incomplete`)], " and ",
      make("strong", {}, `${number(count("safe"))} safe`),
      ` in ${plural(said.rows.length, "scenario")} under ${plural(said.protocols.length, "protocol")}. `,
      said.unexpected > 0
        ? make("span", { class: "bad" }, `${plural(said.unexpected, "verdict is", "verdicts are")} not as expected.`)
        : verdicts.some((verdict) => verdict.as_expected) && `All ${said.not_met > 0 ? "other " : ""}verdicts are as expected.`,
      said.missing.length > 0 && make("span", { class: "unsure" }, ` The campaign is not finished: ${plural(said.missing.length, "part")} of ${number(said.parts)} ${said.missing.length === 1 ? "is" : "are"} missing or unfinished.`),
      " Open one to see what is behind it; ", make("kbd", {}, "?"), " lists the keys."));
}

function filters(place) {
  const again = (focus) => {
    showMatrix(place);
    place.querySelector(focus)?.focus();
  };
  const boxes = said.protocols.map((protocol) => make("label", { title: protocol.what },
    make("input", {
      type: "checkbox",
      value: protocol.name,
      checked: !hiddenProtocols.has(protocol.name),
      onchange: (event) => {
        if (event.target.checked) hiddenProtocols.delete(protocol.name);
        else hiddenProtocols.add(protocol.name);
        again(`input[value="${CSS.escape(protocol.name)}"]`);
      },
    }),
    make("span", { class: "mono" }, protocol.name)));
  const search = make("input", {
    type: "search", placeholder: "S9, gup, unshare…", value: sought, "aria-label": "Show scenarios with these words",
    oninput: (event) => {
      sought = event.target.value;
      const at = event.target.selectionStart;
      again("input[type=search]");
      place.querySelector("input[type=search]").setSelectionRange(at, at);
    },
  });
  return make("div", { class: "filters" }, make("fieldset", {}, make("legend", {}, "Protocols"), boxes), search);
}

function verdictTable(shown) {
  const words = sought.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => words.every((word) => `${row.id} ${row.what}`.toLowerCase().includes(word));
  const rows = said.rows.filter(fits);
  if (rows.length === 0) return make("p", { class: "soft" }, "No scenario has these words.");
  const variants = rows.some((row) => row.variant);
  const body = [...grouped(rows).values()].flatMap((group) => group.map((row, at) => make("tr", { class: variants && at + 1 === group.length ? "last" : null },
    at === 0 && make("th", { class: "id", scope: "rowgroup", rowspan: group.length > 1 ? group.length : null }, row.line),
    variants && make("th", { class: "variant", scope: "row" }, row.variant),
    make("th", { class: "what", scope: "row" }, prose(row.what)),
    shown.map((protocol) => cell(row, row.cells.get(protocol.name))))));
  return make("table", { class: "verdicts", onkeydown: moveAmongCells },
    make("thead", {}, make("tr", {},
      make("th", { scope: "col", class: "id" }, make("span", { class: "unseen" }, "Scenario")),
      variants && make("th", { class: "variant", scope: "col" }, make("span", { class: "unseen" }, "Walker or mistake")),
      make("th", {}, make("span", { class: "unseen" }, "What happens")),
      shown.map((protocol) => make("th", { class: "protocol", scope: "col", title: protocol.what }, protocol.name)))),
    make("tbody", {}, body));
}

function grouped(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row.line, [...(groups.get(row.line) ?? []), row]);
  return groups;
}

function cell(row, verdict) {
  if (!verdict) return make("td", { class: "empty" }, make("span", { class: "unseen" }, "not in this report"));
  const wrong = verdict.as_expected === false;
  return make("td", { "data-protocol": verdict.protocol }, make("a", {
    class: `cell ${verdict.sort}${wrong ? " wrong" : ""}`, href: addressOf(verdict), tabindex: -1,
    title: `${row.id} under ${verdict.under}: ${inWords(verdict)}`,
  },
  make("span", { class: "sign", "aria-hidden": "true" }, SIGNS[verdict.sort]),
  verdict.sort === "does_not_apply" ? make("span", { class: "unseen" }, inAWord(verdict)) : inAWord(verdict),
  make("span", { class: "more" }, inShort(verdict)),
  wrong && make("span", { class: "expected" }, `expected: ${verdict.expected.replaceAll("_", " ")}`)));
}

/** The kind of fault, if there is one: `use after free`. */
const inAWord = (verdict) => (said.replayed && !verdict.race ? "nothing goes wrong" : null) ?? verdict.fault ?? verdict.sort.replaceAll("_", " ");

function inShort(verdict) {
  if (verdict.race) return verdict.race.switches > 0 && `${verdict.race.shortest ? "" : "~"}${plural(verdict.race.switches, "switch", "switches")}`;
  if (!verdict.explored) return null;
  if (verdict.verdict === "not_met") return `in ${plural(verdict.explored.executions, "run")}`;
  const { kind, preemptions } = coverage(verdict);
  const bound = { everything: "all", preemptions: `≤ ${preemptions}`, some: "some" }[kind];
  return `${number(verdict.explored.executions)}, ${bound}`;
}

function inWords(verdict) {
  if (verdict.race) return `${verdict.fault} ${verdict.race.switches > 0 ? `after ${plural(verdict.race.switches, "switch", "switches")}` : "without a switch"}: ${verdict.race.text}`;
  if (verdict.sort === "not_asked") return `not asked: ${verdict.why}`;
  if (verdict.verdict === "not_met") return verdict.explored ? `not met: ${exploredInWords(verdict)}` : "nothing goes wrong under this schedule";
  if (!verdict.explored) return `does not apply: ${verdict.why ?? "there is nothing to find out"}`;
  return `${verdict.verdict}: ${exploredInWords(verdict)}`;
}

/** How much of a scenario was explored. */
function coverage(verdict) {
  const told = verdict.explored.coverage;
  if (typeof told === "string") return { kind: told };
  return { kind: "preemptions", preemptions: told.preemptions };
}

function exploredInWords(verdict) {
  const { kind, preemptions } = coverage(verdict);
  const runs = plural(verdict.explored.executions, "execution");
  return {
    everything: `${runs}, which stand for every interleaving`,
    preemptions: `${runs}: every one with up to ${plural(preemptions, "preemption")}`,
    some: `${runs}, which are not all`,
    up_to_the_race: `${runs}, up to the race`,
  }[kind];
}

/** Each step of our protocol, and what goes wrong without it. */
function steps() {
  if (said.steps.length === 0) return null;
  const link = (verdict) => [make("a", { class: verdict.verdict, href: addressOf(verdict), title: inWords(verdict) },
    make("span", { class: "sign", "aria-hidden": "true" }, SIGNS[verdict.verdict]), `${verdict.scenario}: ${inAWord(verdict)}`), " "];
  const shown = (step) => {
    if (step.races.length + step.not_met.length > 0) return [...step.races, ...step.not_met].map(link);
    if (!step.exhausted) return make("span", { class: "unsure" }, "no race in what was explored, which is not all");
    return make("span", { class: "bad" }, "nothing: no scenario shows what it is there for");
  };
  return make("section", { class: "steps" },
    make("h2", {}, "Without a step of hugewalk"),
    make("p", { class: "soft" }, "Each step of the protocol left out in turn, and what goes wrong without it."),
    make("dl", {}, said.steps.map((step) => [
      make("dt", {}, step.step),
      make("dd", { class: "what" }, step.what),
      make("dd", {}, shown(step))])));
}

function legend(shown) {
  return make("dl", { class: "legend", "aria-label": "Protocols" },
    shown.map((protocol) => [make("dt", {}, protocol.name), make("dd", {}, protocol.what)]),
    make("dt", {}, "✗ use after free, …"),
    make("dd", {}, "A schedule breaks it, and this is how. The number is that of its switches from one processor to another, the fewest that were found; “~” if there may be fewer. A fault without a number takes no switch: one processor does it alone."),
    said.rows.some((row) => row.verdicts.some((verdict) => verdict.verdict === "not_met")) && [
      make("dt", {}, "○ not met"),
      make("dd", {}, "Random schedules met no race. They cannot exclude one; most often it is known that there is one.")],
    said.rows.some((row) => row.verdicts.some((verdict) => verdict.verdict === "incomplete")) && [
      make("dt", {}, "◐ incomplete"),
      make("dd", {}, "No schedule that was run breaks it, and the limit on executions came before all of them had been run.")],
    make("dt", {}, "✓ safe"),
    make("dd", {}, "No schedule breaks it. The number is that of executions: “all” if they stand for every interleaving, “≤ N” if every one with up to N preemptions was run."),
    make("dt", {}, "– does not apply"),
    make("dd", {}, "The scenario says nothing about this protocol; open it to see why."),
    make("dt", {}, "· not asked"),
    make("dd", {}, "A mistake in a step that other protocols have, or do otherwise."));
}

function footer() {
  return make("footer", {},
    make("p", {}, [`hugewalk ${said.version}`, said.date, plural(said.executions, "execution"), `${number(Math.round(said.seconds))} s`, said.parts > 1 && plural(said.parts, "part"), said.schema].filter(Boolean).join(" · ")),
    make("p", {}, make("code", {}, said.command), " ", copyButton("Copy", "Copy the command that does the same", () => said.command)));
}

/** Arrow keys go from cell to cell, as in a table of figures. */
function moveAmongCells(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], h: [-1, 0], l: [1, 0], k: [0, -1], j: [0, 1] }[event.key];
  const from = event.target.closest("td");
  if (!step || !from || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const rows = [...event.currentTarget.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
  let y = rows.findIndex((row) => row.includes(from));
  let x = rows[y].indexOf(from);
  for (;;) {
    [x, y] = [x + step[0], y + step[1]];
    const next = rows[y]?.[x];
    if (!next) return;
    const link = next.querySelector(".cell");
    if (!link) continue;
    from.firstElementChild.tabIndex = -1;
    link.tabIndex = 0;
    link.focus();
    return;
  }
}
