// What if: other places, pages and numbers of processes. Each was performed beforehand; here one is looked up.

const WHAT_IF = report.what_if;

/** `#aligned,2048,10`, of the choice that is shown. */
const addressOfChoice = (what) => `#${what.aligned ? "aligned" : "recorded"},${what.page_kb},${what.clones}`;

function choice() {
  if (WHAT_IF.length === 0) {
    return section("what-if", "What if", make("p", {}, "Nothing was mapped in pages of 2 MiB at the peak: there is nothing to compare."));
  }
  const [base] = WHAT_IF;
  const places = [["recorded", "as recorded"], ["aligned", "from a 1 GiB boundary on"], ["gigantic", "in pages of 1 GiB"]];
  const placeOf = (what) => (what.page_kb !== base.page_kb ? "gigantic" : what.aligned ? "aligned" : "recorded");
  const times = [...new Set(WHAT_IF.map((what) => what.clones))].sort((one, other) => one - other);
  const asked = WHAT_IF.find((what) => addressOfChoice(what) === location.hash) ?? base;
  const state = { place: placeOf(asked), clones: asked.clones };
  const found = () => WHAT_IF.find((what) => placeOf(what) === state.place && what.clones === state.clones);
  const result = make("div", { class: "result", role: "status", "aria-live": "polite" });

  function show(remember) {
    const what = found();
    result.replaceChildren(...put(make("div"), shown(what, state)).childNodes);
    if (!remember || !what) return;
    try {
      history.replaceState(null, "", addressOfChoice(what));
    } catch {
      // A browser may say that this is too often; the address then lags behind.
    }
  }
  const radios = (name, title, options, of) => make("fieldset", {}, make("legend", {}, title), options.map(([value, label]) =>
    make("label", {}, make("input", { type: "radio", name, value, checked: state[of] === value, onchange: () => {
      state[of] = value;
      show(true);
    } }), label)));
  show(false);
  return section("what-if", "What if",
    make("p", { class: "soft" }, "The recording performed again by the engine, otherwise. Figures are of the peak; those of unsharing are of the whole run."),
    make("form", { class: "choices", onsubmit: (event) => event.preventDefault() },
      radios("place", "Mapped", places, "place"),
      times.length > 1 && radios("clones", "Processes", times.map((count) => [count, count === 1 ? "as recorded" : `× ${number(count)}`]), "clones")),
    result,
    make("details", {}, make("summary", {}, "All of them as a table"),
      make("div", { class: "wide" }, grid("What if", ["", "tables", "without sharing", "pages faulted in", "unshared", "pool"], WHAT_IF.map((what) => [
        `${places.find(([place]) => place === placeOf(what))[1]}${times.length > 1 ? `, × ${number(what.clones)}` : ""}`,
        ...(what.tables ? [number(what.tables.tables), number(what.tables.uses), number(what.tables.pages_faulted), number(what.unshared), size(what.reserved_kb)] : [what.not_computed, "", "", "", ""])])))));
}

/** What was computed, beside what there is with as many processes. */
function shown(what, { clones }) {
  if (!what) return make("p", {}, "This was not computed.");
  if (!what.tables) return make("p", { class: "notice" }, `Not computed: ${what.not_computed}.`);
  const now = WHAT_IF.find((other) => other.clones === clones && other.page_kb === WHAT_IF[0].page_kb && !other.aligned);
  const line = (name, of, unit = number) => {
    const [then, before] = [of(what), now?.tables ? of(now) : of(what)];
    const most = Math.max(then, before, 1);
    const change = then === before ? "the same" : before === 0 ? "" : `${then > before ? "+" : "−"}${number(Math.round((Math.abs(then - before) / before) * 100))} %`;
    return make("tr", {}, make("th", { scope: "row" }, name),
      make("td", { class: "bars", "aria-hidden": "true" }, make("span", { class: "bar now", style: { width: `${(before / most) * 100}%` } }), make("span", { class: "bar then", style: { width: `${(then / most) * 100}%` } })),
      make("td", {}, unit(before)), make("td", {}, unit(then)), make("td", { class: then < before ? "better" : then > before ? "worse" : "same" }, change));
  };
  const fault = report.costs.fault_ns;
  return [
    make("div", { class: "wide" }, make("table", { class: "grid compared" },
      make("caption", { class: "unseen" }, "As recorded, and otherwise"),
      make("thead", {}, make("tr", {}, ["", "", "as recorded", "then", ""].map((heading) => make("th", { scope: "col" }, heading)))),
      make("tbody", {},
        line("tables of huge-page entries", (of) => of.tables.tables),
        line("memory they take", (of) => of.tables.bytes / 1024, size),
        line("pages faulted in", (of) => of.tables.pages_faulted),
        line("time for that", (of) => of.tables.pages_faulted * fault, duration),
        line("pages reached without a fault", (of) => of.tables.faults_saved),
        line("tables unshared", (of) => of.unshared),
        line("broadcasts, ipi-each", (of) => of.broadcasts["ipi-each"] ?? 0),
        line("broadcasts, ipi-last", (of) => of.broadcasts["ipi-last"] ?? 0),
        line("what the pool needs", (of) => of.reserved_kb, size)))),
    what.page_kb !== WHAT_IF[0].page_kb && make("p", { class: "soft" }, "Tables that hold entries of 1 GiB are tables that a process has in any case."),
    what.left_out > 0 && make("p", { class: "notice" }, `${plural(what.left_out, "call")} on a part of a page of 1 GiB left out: the program would have to change.`),
    make("p", { class: "soft" }, `A fault counts as ${duration(fault)}: ${report.costs.source}, hugewalk bench kernel.`),
  ];
}
