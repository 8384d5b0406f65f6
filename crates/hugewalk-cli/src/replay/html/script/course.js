// The course of time: tables, faults and unshares, the pool, one above the other, and a line through all of them that moves.

const COURSE = { width: 1000, left: 8, right: 8, panel: 96, gap: 30, top: 18 };

/** The panels. Each area has a name, a value at each look, and how it is drawn. */
const PANELS = [
  { title: "Tables", unit: (value) => number(value), areas: [
    ["without sharing", (look) => look.uses, "unshared"], ["there are", (look) => look.tables, "there"]] },
  { title: "Faults", unit: (value) => number(value), areas: [] },
  { title: "Pool", unit: (value) => size(value), areas: [
    ["in use and reserved", (look) => look.used_kb + look.reserved_kb, "reserved"], ["in use", (look) => look.used_kb, "used"]] },
];

function course() {
  const { looks, faults, unshares } = picture;
  const { width, left, right, panel, gap, top } = COURSE;
  const height = top + PANELS.length * (panel + gap);
  const x = (at) => left + (picture.end > 0 ? at / picture.end : 0) * (width - left - right);
  const drawing = draw("svg", { class: "course", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const labels = [];
  PANELS.forEach(({ title, unit, areas }, at) => {
    const base = top + at * (panel + gap) + panel;
    const values = areas.length > 0 ? looks.flatMap((look) => areas.map(([, of]) => of(look))) : picture.course;
    const highest = Math.max(1, ...values);
    const scale = title === "Pool" ? [2 ** 30, 2 ** 20, 2 ** 10, 1].find((of) => highest >= of) : 1;
    const most = roundUp(highest / scale) * scale;
    const y = (value) => base - (value / most) * panel;
    put(drawing, draw("path", { class: "axis", d: `M${left} ${base}H${width - right}M${left} ${base - panel}H${width - right}` }));
    for (const [, of, kind] of areas) {
      // What was seen holds until the next look.
      let path = `M${x(looks[0]?.at ?? 0)} ${base}`;
      for (const look of looks) path += `H${x(look.at)}V${y(of(look))}`;
      put(drawing, draw("path", { class: `area ${kind}`, d: `${path}H${width - right}V${base}Z` }));
    }
    if (areas.length === 0) {
      const part = picture.end / picture.course.length;
      picture.course.forEach((count, index) => {
        if (count > 0) put(drawing, draw("rect", { class: "bar", x: x(index * part), y: y(count), width: Math.max(1.5, x(part) - x(0) - 0.5), height: base - y(count) }));
      });
      for (const unshare of unshares) put(drawing, draw("path", { class: "unshare", d: `M${x(unshare.at)} ${base - panel}v14` }));
    }
    const key = areas.length > 0
      ? areas.map(([name, , kind]) => [make("i", { class: `swatch ${kind}` }), name])
      : [[make("i", { class: "swatch bar" }), "faults"], [make("i", { class: "swatch unshare" }), "tables given up"]];
    labels.push(make("p", { class: "panel-label", style: { top: `${((base - panel - 20) / height) * 100}%` } },
      make("b", {}, title), key.map((each) => make("span", {}, each)), make("span", { class: "most" }, `up to ${unit(most)}`)));
  });
  const line = draw("path", { class: "cursor", d: "" });
  put(drawing, line);
  const told = make("p", { class: "told", role: "status", "aria-live": "polite" });
  const fullest = looks.findIndex((look) => look.at >= picture.fullest);
  let chosen = fullest < 0 ? looks.length - 1 : fullest;

  function choose(index) {
    if (looks.length === 0) return;
    chosen = Math.max(0, Math.min(looks.length - 1, index));
    const look = looks[chosen];
    line.setAttribute("d", `M${x(look.at)} ${top - 6}V${height - gap + 6}`);
    const given = unshares.filter((unshare) => unshare.at <= look.at && (chosen === 0 || unshare.at > looks[chosen - 1].at));
    const words = [
      `${moment(look.at)}${chosen === fullest ? " (the peak)" : ""}: ${plural(look.processes, "process", "processes")}`,
      `${plural(look.tables, "table")}, ${number(look.uses)} without sharing`,
      `${plural(faults[chosen - 1] ?? 0, "fault")} since the look before`,
      `pool: ${size(look.used_kb)} in use, ${size(look.reserved_kb)} reserved`,
      ...given.slice(0, 2).map((unshare) => `${unshare.call} of process ${unshare.pid} gave up ${plural(unshare.tables, "table")} (line ${unshare.line})`),
      given.length > 2 && `and ${plural(given.length - 2, "more call")} did`,
    ];
    told.textContent = words.filter(Boolean).join("; ");
    frame.setAttribute("aria-valuenow", chosen);
    frame.setAttribute("aria-valuetext", told.textContent);
  }

  const frame = make("div", { class: "frame", tabindex: 0, role: "slider", "aria-label": "Moment of the recording", "aria-valuemin": 0, "aria-valuemax": Math.max(0, looks.length - 1),
    onkeydown: (event) => {
      const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
      if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      choose(chosen + steps[event.key]);
    },
    onpointermove: (event) => {
      const box = drawing.getBoundingClientRect();
      const at = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right) * picture.end;
      const after = looks.findIndex((look) => look.at > at);
      choose((after < 0 ? looks.length : after) - 1);
    } }, drawing, labels);
  choose(chosen);
  const rows = looks.map((look, at) => [moment(look.at), number(look.processes), number(look.tables), number(look.uses), number(faults[at - 1] ?? 0), size(look.used_kb), size(look.reserved_kb)]);
  return section("course", "Time line",
    make("p", { class: "soft" }, picture.timed ? `${picture.end.toFixed(3)} s from the first call on huge pages to the end.` : "The recording has no times: one step is one operation.",
      picture.more_unshares > 0 && ` ${plural(picture.more_unshares, "smaller unshare")} not marked.`),
    frame, told,
    make("details", {}, make("summary", {}, "The same as a table"),
      make("div", { class: "wide" }, grid("The course of time", ["moment", "processes", "tables", "without sharing", "faults before", "pool in use", "reserved"], rows))));
}
