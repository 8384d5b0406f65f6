// Draws the tables as they are after a step, and marks what differs from the state before.

/** The drawing of `state`. `before` is the state to compare with; `feet` is where each processor is; `step` is null at the start. */
function drawTables(story, layout, { state, before, step, feet }) {
  const svg = draw("svg", {
    class: "drawing", viewBox: `0 0 ${layout.width} ${layout.height}`, role: "img", "aria-label": describeState(state),
    style: { "max-width": `${Math.round(layout.width * 1.45)}px` },
  });
  const hatch = draw("pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    draw("line", { class: "hatch-line", x1: 0, y1: 0, x2: 0, y2: 7, "stroke-width": 2 }));
  const edges = draw("g", {});
  svg.append(draw("defs", {}, hatch), edges);
  const pen = { story, layout, state, before, step, edges, svg };
  for (const box of layout.processes.values()) svg.append(drawProcess(pen, box));
  for (const box of layout.tables.values()) svg.append(drawTable(pen, box));
  for (const box of layout.pages.values()) svg.append(drawPage(pen, box));
  svg.append(drawFeet(pen, feet));
  return svg;
}

function drawProcess(pen, box) {
  const now = pen.state.processes.find((process) => process.name === box.name);
  const old = pen.before.processes.find((process) => process.name === box.name);
  const group = draw("g", { class: now ? "process" : "process absent", "data-process": box.name }, frame(box));
  const runs = pen.story.cpus.filter((cpu) => cpu.process === box.name).map((cpu) => cpu.letter);
  put(group,
    draw("text", { class: "name", x: box.x + 13, y: box.y + HEAD / 2 }, box.name),
    runs.length > 0 && draw("text", { class: "caption", x: box.x + box.width - 9, y: box.y + HEAD / 2, "text-anchor": "end" }, `run by ${runs.join(", ")}`));
  box.rows.forEach((index, row) => {
    group.append(drawEntry(pen, box, row, pudName(index), entryAt(now?.pud, index), entryAt(old?.pud, index)));
  });
  const cached = (state) => new Set(state.tlb.filter((each) => each.process === box.name).map((each) => `${each.range} ${each.to}`));
  const [holds, held] = [cached(pen.state), cached(pen.before)];
  box.tlb.forEach((key, at) => {
    const to = key.slice(key.indexOf(" ") + 1);
    group.append(drawEntry(pen, box, box.rows.length + at, "TLB", holds.has(key) ? to : null, held.has(key) ? to : null, key));
  });
  return group;
}

function drawTable(pen, box) {
  const now = pen.state.tables.find((table) => table.name === box.name);
  const old = pen.before.tables.find((table) => table.name === box.name);
  const group = draw("g", { class: `table ${now?.life ?? "absent"}`, "data-table": box.name, "data-life": now?.life ?? "absent" }, frame(box));
  const right = box.x + box.width;
  const life = { alive: "", retired: "waits for a grace period", freed: "freed" }[now?.life] ?? "not there yet";
  if (now && old && now.life !== old.life) group.append(marker(box.x + 1, box.y + 1, box.width - 2, HEAD - 2));
  group.append(
    draw("text", { class: now ? "name" : "name dim", x: box.x + 13, y: box.y + HEAD / 2 }, box.name),
    draw("text", { class: "caption life", x: right - 9, y: box.y + HEAD / 2, "text-anchor": "end" }, life));
  if (now) group.append(drawCounts(pen, box, now, old));
  box.rows.forEach((index, row) => {
    group.append(drawEntry(pen, box, row + 1, `[${index}]`, entryAt(now?.entries, index), entryAt(old?.entries, index), null, Boolean(now)));
  });
  if (now && box.rows.length === 0) group.append(draw("text", { class: "dim", x: box.x + 13, y: rowMiddle(box, 1) }, "empty"));
  return group;
}

/** A count. One that was counted below zero is written as a number near 2 to the power of 64, which is no number of this language. */
const countOf = (count) => (count > Number.MAX_SAFE_INTEGER ? "< 0" : number(count));

/** The second line of a table: how many use it, how often it was detached, who holds its lock. */
function drawCounts(pen, box, now, old) {
  const y = rowMiddle(box, 0);
  const group = draw("g", {});
  const parts = [
    ["users", "users", `users ${countOf(now.users)}`, old && old.users !== now.users, `extra users (pt_share_count): ${now.users}`],
    ["generation", "gen", `gen ${now.generation}`, old && old.generation !== now.generation, `generation, how often it was detached: ${now.generation}`],
    ["lock", "lock", now.lock_freed ? "lock freed" : `lock ${now.lock ?? "–"}`, old && (old.lock !== now.lock || old.lock_freed !== now.lock_freed), "who holds the table lock"],
  ];
  parts.forEach(([name, , text, changed, title], part) => {
    const { x, width } = partPlace(box, part);
    if (changed) group.append(marker(x, rowTop(box, 0) + 1, width, ROW - 2));
    const cpu = pen.story.cpus.findIndex((each) => each.letter === now.lock);
    const style = name === "lock" && cpu >= 0 && !now.lock_freed ? { "--cpu": CPU(cpu) } : null;
    group.append(draw("text", {
      class: name === "lock" && now.lock_freed ? "lost" : style ? "holder" : null,
      x: x + 4, y, "data-part": name, style: style ?? {},
    }, text, draw("title", {}, title)));
  });
  group.append(draw("line", { class: "inner", x1: box.x, x2: box.x + box.width, y1: rowTop(box, 1), y2: rowTop(box, 1) }));
  return group;
}

function drawPage(pen, box) {
  const used = (state) => [...state.processes.flatMap((each) => each.pud), ...state.tables.filter((each) => each.life !== "freed").flatMap((each) => each.entries)]
    .some((entry) => pageOf(entry.entry) === box.name);
  return draw("g", { class: used(pen.state) ? "page" : "page absent", "data-page": box.name }, frame(box),
    draw("text", { class: used(pen.state) ? null : "dim", x: box.x + box.width / 2, y: box.y + box.height / 2, "text-anchor": "middle" }, box.name));
}

/** A row of a box: the name of an entry, what it holds, what it held before if that has changed, and the edge from it. */
function drawEntry(pen, box, row, name, now, old, cached = null, there = true) {
  const y = rowMiddle(box, row);
  const changed = now !== old;
  const group = draw("g", { "data-entry": cached ? null : `${box.name} ${name}`, "data-holds": now ?? "none" });
  if (changed) group.append(marker(box.x + 1, rowTop(box, row) + 1, box.width - 2, ROW - 2));
  if (cached && !now && !changed) return group;
  const text = draw("text", { x: box.x + 13, y },
    draw("tspan", { class: cached ? "caption" : "dim" }, name),
    draw("tspan", { dx: 8, class: now ? null : "dim" }, now ?? (there ? "none" : "")));
  if (cached) text.append(draw("title", {}, cached));
  if (changed && old) text.append(draw("tspan", { dx: 8, class: "was" }, old));
  group.append(text);
  if (now) drawEdge(pen, box, row, now, { changed, cached });
  return group;
}

function drawEdge(pen, box, row, to, { changed, cached }) {
  const target = pen.layout.tables.get(tableOf(to)) ?? pen.layout.pages.get(pageOf(to));
  if (!target) return;
  const [x1, y1] = [box.x + box.width, rowMiddle(box, row)];
  const isTable = pen.layout.tables.has(target.name);
  const [x2, y2] = [target.x, target.y + (isTable ? HEAD / 2 : target.height / 2)];
  const life = isTable && pen.state.tables.find((table) => table.name === target.name)?.life;
  const mine = pen.state.processes.find((process) => process.name === box.name);
  const stale = life === "freed" || (cached && isTable && !mine?.pud.some((entry) => tableOf(entry.entry) === target.name));
  const classes = `${cached ? " tlb" : ""}${stale ? " stale" : ""}${changed ? " changed" : ""}`;
  const bend = Math.max(24, (x2 - x1) / 2);
  pen.edges.append(
    draw("path", { class: `edge${classes}`, d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2 - 5} ${y2}`, "data-from": box.name, "data-to": target.name }),
    draw("path", { class: `tip${classes}`, d: `M${x2} ${y2}l-7 -3.5v7z` }));
}

/** Where each processor has last touched the tables; the one that moves is filled, and what it touches is framed. */
function drawFeet(pen, feet) {
  const group = draw("g", {});
  const taken = new Map();
  const order = feet.map((_, cpu) => cpu).sort((a, b) => (a === pen.step?.cpu) - (b === pen.step?.cpu));
  for (const cpu of order) {
    const place = feet[cpu];
    if (!place) continue;
    const { box, row } = place;
    const key = `${box.name} ${row}`;
    const at = taken.get(key) ?? 0;
    taken.set(key, at + 1);
    const now = pen.step?.cpu === cpu && placeOf(pen.layout, pen.step.object) !== null;
    const [x, y] = [box.x - at * BADGE, row < 0 ? box.y + HEAD / 2 : rowMiddle(box, row)];
    const each = draw("g", { class: now ? "foot now" : "foot", style: { "--cpu": CPU(cpu) }, "data-foot": pen.story.cpus[cpu].letter });
    if (now) {
      const { x: left, width } = place.part === undefined ? { x: box.x, width: box.width } : partPlace(box, place.part);
      const [top, height] = row < 0 ? [box.y, HEAD] : [rowTop(box, row), ROW];
      each.append(draw("rect", { class: "touched", x: left, y: top, width, height, rx: 3 }));
    }
    each.append(
      draw("circle", { class: "badge", cx: x, cy: y, r: 8 }, draw("title", {}, `CPU ${pen.story.cpus[cpu].letter} was here last`)),
      draw("text", { class: "badge-letter", x, y: y + 0.5 }, pen.story.cpus[cpu].letter));
    group.append(each);
  }
  return group;
}

const frame = (box) => draw("rect", { class: "box", x: box.x, y: box.y, width: box.width, height: box.height, rx: 4 });
const marker = (x, y, width, height) => draw("rect", { class: "changed-row", x, y, width, height, rx: 2 });
const rowTop = (box, row) => box.y + HEAD + row * ROW;
const rowMiddle = (box, row) => rowTop(box, row) + ROW / 2;
const entryAt = (entries, index) => entries?.find((entry) => entry.index === index)?.entry ?? null;

/** The parts of a table's second line. */
function partPlace(box, part) {
  const width = box.width - 14;
  return { x: box.x + 9 + [0, 0.29, 0.58][part] * width, width: [0.29, 0.29, 0.42][part] * width };
}

/** The drawing in words, for who does not see it. */
function describeState(state) {
  const processes = state.processes.map((process) => {
    const entries = process.pud.map((entry) => `${pudName(entry.index)} is ${entry.entry}`).join(", ");
    return `${process.name}: ${entries || "no table"}`;
  });
  const tables = state.tables.map((table) => {
    const entries = table.entries.map((entry) => `${entry.index} is ${entry.entry}`).join(", ");
    return `${table.name}: ${table.life}, users ${table.users}, generation ${table.generation}, lock ${table.lock ?? "free"}; ${entries || "empty"}`;
  });
  return [...processes, ...tables].join(". ");
}
