// The page, from top to bottom.

function head() {
  const { recording, tables } = report;
  const fullest = report.peak?.tables ?? tables;
  const figure = (value, name) => make("div", { class: "figure" }, make("b", {}, value), make("span", {}, name));
  const reached = fullest.pages_faulted + fullest.faults_saved;
  const list = (title, sentences) => sentences.length > 0 && make("section", { class: "sentences" }, make("h2", {}, title), make("ul", {}, sentences.map((sentence) => make("li", {}, sentence))));
  return [
    make("header", {},
      make("h1", {}, fileName(recording.strace)),
      make("p", { class: "summary" }, [
        `${plural(recording.processes, "process", "processes")}, ${plural(recording.calls, "call")} on huge pages, ${plural(recording.huge_faults, "fault")} in huge mappings`,
        recording.clones > 1 && `${number(recording.clones)} times over`,
        report.differences.length === 0 ? "every call ended as recorded" : `${plural(report.differences.length, "line")} ended otherwise than recorded`,
        report.truth && (report.truth.equal ? `all ${number(report.truth.figures.length)} figures equal to the kernel's` : `${number(report.truth.differing)} figures differ from the kernel's`),
      ].filter(Boolean).join("; ")),
      make("div", { class: "figures" },
        figure(number(fullest.tables), `tables at the peak, ${number(fullest.uses)} without sharing`),
        figure(size(fullest.bytes / 1024), `they take, ${size(fullest.bytes_unshared / 1024)} without sharing`),
        figure(reached > 0 ? `${Math.round((fullest.faults_saved / reached) * 100)} %` : "–", "of the pages reached without a fault"),
        figure(number(Object.values(report.unsharing.by_call).reduce((sum, count) => sum + count, 0)), "tables given up")),
      SOMETHING && make("nav", { "aria-label": "Sections" }, SECTIONS.map(([key, id, name]) => [make("a", { href: `#${id}`, onclick: (event) => { event.preventDefault(); goTo(id); } }, name, " ", make("kbd", { "aria-hidden": "true" }, key)), " "]),
        make("button", { type: "button", onclick: showHelp, "aria-label": "Keys" }, "?"))),
    list("What this cannot say", report.notes),
    list("Advice", report.advice),
  ];
}

/** Is there anything to draw? */
const SOMETHING = report.mappings.length > 0;

const SECTIONS = [["t", "course", "Time line"], ["a", "addresses", "Addresses"], ["p", "processes", "Processes"], ["w", "what-if", "What if"], ["u", "unsharing", "Unsharing"]];

function goTo(id) {
  const title = document.getElementById(`${id}-title`);
  title.tabIndex = -1;
  title.scrollIntoView();
  title.focus({ preventScroll: true });
}

function unsharing() {
  const { protocols, cpus, by_call: byCall } = report.unsharing;
  const calls = Object.entries(byCall);
  return section("unsharing", "Unsharing",
    make("p", { class: "soft" }, calls.length === 0 ? "No process gave up a table that others were using." : `Given up: ${calls.map(([call, count]) => `${number(count)} by ${call}`).join(", ")}. What that costs with ${plural(cpus, "processor")}:`),
    calls.length > 0 && make("div", { class: "wide protocols" }, grid("What unsharing costs under each protocol", ["protocol", "flushes", "waits", "broadcasts", "disturbed", "rule"],
      protocols.map((protocol) => [make("code", {}, protocol.name), number(protocol.flushes), number(protocol.grace_periods), number(protocol.broadcasts), number(protocol.processors_disturbed), make("span", { class: "rule" }, protocol.rule)]))));
}

function showHelp() {
  const help = document.getElementById("help");
  const line = (key, what) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)];
  help.replaceChildren(
    make("h2", { id: "help-title" }, "Keys"),
    make("dl", {}, SECTIONS.map(([key, , name]) => line(key, name)), line("← →", "in the time line: from moment to moment; in a choice: the next one"), line("?", "this")),
    make("form", { method: "dialog" }, make("button", { autofocus: true }, "Close")));
  help.showModal();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  if (event.key === "?") showHelp();
  const known = SOMETHING && SECTIONS.find(([key]) => key === event.key);
  if (known) goTo(known[1]);
});

document.title = `${fileName(report.recording.strace)}: hugewalk replay`;
put(document.getElementById("replay"), head(),
  SOMETHING ? [course(), addresses(), holders(), choice(), unsharing()] : make("section", {}, make("p", {}, "No call mapped huge pages: there is nothing to draw.")),
  make("footer", {}, make("p", {}, make("code", {}, said.command), " ", copyButton("Copy", "Copy the command", () => said.command)), make("p", {}, `hugewalk ${said.version}, ${said.date}`)));
