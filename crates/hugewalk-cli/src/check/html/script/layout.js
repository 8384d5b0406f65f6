// Where things are in the drawing. A thing has one place for the whole story, so that what moves is what changed.

const CHAR = 7.3;
const ROW = 21;
const HEAD = 27;
const GAP = 16;
/** How far the marks of processors that were at the same place are apart. */
const BADGE = 15;

/** Places of all that there ever is in a story. On a narrow window pages are named in the entries alone. */
function arrange(story, narrow) {
  const processes = gather(story, (state) => state.processes, (process) => process.name, (process) => ({
    rows: process.pud.map((entry) => entry.index),
  }));
  const tables = gather(story, (state) => state.tables, (table) => table.name, (table) => ({
    rows: table.entries.map((entry) => entry.index),
  }));
  const pages = new Set();
  let [processChars, tableChars] = [17, 29];
  for (const state of story.states) {
    for (const process of state.processes) {
      for (const entry of process.pud) {
        processChars = Math.max(processChars, pudName(entry.index).length + entry.entry.length + 3);
        const page = pageOf(entry.entry);
        if (page) pages.add(page);
      }
    }
    for (const table of state.tables) {
      for (const entry of table.entries) {
        tableChars = Math.max(tableChars, entry.entry.length + 8);
        const page = pageOf(entry.entry);
        if (page) pages.add(page);
      }
    }
    for (const cached of state.tlb) {
      const page = pageOf(cached.to);
      if (page) pages.add(page);
      processes.get(cached.process)?.tlb.add(`${cached.range} ${cached.to}`);
    }
  }
  for (const [name, index] of touchedPuds(story)) processes.get(name)?.rows.add(index);

  const [processWidth, tableWidth, pageWidth] = [processChars * CHAR + 12, tableChars * CHAR + 12, 76];
  const margin = 11 + (story.cpus.length - 1) * BADGE;
  const [toTables, toPages] = narrow ? [44, 0] : [84, 60];
  const columns = { process: margin, table: margin + processWidth + toTables, page: margin + processWidth + tableWidth + toTables + toPages };
  if (narrow) pages.clear();
  const bottoms = [
    stack(processes, columns.process, processWidth, (process) => process.rows.size + process.tlb.size),
    stack(tables, columns.table, tableWidth, (table) => 1 + Math.max(1, table.rows.size)),
  ];
  const pageBoxes = new Map();
  let y = 1 + HEAD + ROW;
  for (const name of [...pages].sort((a, b) => a.localeCompare(b, "en", { numeric: true }))) {
    pageBoxes.set(name, { name, x: columns.page, y, width: pageWidth, height: ROW + 4 });
    y += ROW + 4 + GAP;
  }
  const width = pages.size > 0 ? columns.page + pageWidth + 1 : columns.table + tableWidth + 1;
  return { processes, tables, pages: pageBoxes, width, height: Math.max(...bottoms, y) };
}

const pudName = (index) => `pud[${index}]`;
const pageOf = (entry) => entry.match(/\bpage (?:0x)?[0-9a-f]+/)?.[0] ?? null;
const tableOf = (entry) => entry.match(/^T\d+$/)?.[0] ?? null;

/** All processes, or tables, of all states, with all the rows that they ever have. */
function gather(story, list, nameOf, partsOf) {
  const all = new Map();
  for (const state of story.states) {
    for (const thing of list(state)) {
      const name = nameOf(thing);
      const known = all.get(name) ?? { name, rows: new Set(), tlb: new Set() };
      for (const row of partsOf(thing).rows) known.rows.add(row);
      all.set(name, known);
    }
  }
  return new Map([...all].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })));
}

/** PUD entries that somebody looked at, though they may never hold anything. */
function touchedPuds(story) {
  return story.steps
    .map((step) => step.object?.match(/^(P\d+)\.pud\[(\d+)\]/))
    .filter(Boolean)
    .map(([, name, index]) => [name, Number(index)]);
}

/** Puts boxes below each other; returns where the last one ends. */
function stack(boxes, x, width, rowsOf) {
  let y = 1;
  for (const box of boxes.values()) {
    Object.assign(box, { x, y, width, height: HEAD + rowsOf(box) * ROW + 3, rows: [...box.rows].sort((a, b) => a - b), tlb: [...box.tlb].sort() });
    y += box.height + GAP;
  }
  return y - GAP + 1;
}

/** The place in the drawing of what a step was done to: a box and a row of it, -1 for its head. */
function placeOf(layout, object) {
  const text = object ?? "";
  const pud = text.match(/^(P\d+)\.pud\[(\d+)\]/);
  if (pud) {
    const box = layout.processes.get(pud[1]);
    const row = box?.rows.indexOf(Number(pud[2])) ?? -1;
    return row < 0 ? null : { box, row };
  }
  const name = text.match(/\bT\d+\b/)?.[0];
  const box = layout.tables.get(name);
  if (!box) return null;
  const entry = text.match(/^T\d+\[(\d+)\]/);
  if (entry) {
    const row = box.rows.indexOf(Number(entry[1]));
    return { box, row: row < 0 ? -1 : row + 1 };
  }
  const part = { users: 0, generation: 1, lock: 2 }[text.match(/\b(users|generation|lock)\b/)?.[0]];
  return part === undefined ? { box, row: -1 } : { box, row: 0, part };
}

/** For each step, where each processor has last touched the tables. */
function footsteps(story, layout) {
  const now = story.cpus.map(() => null);
  return story.steps.map((step) => {
    now[step.cpu] = placeOf(layout, step.object) ?? now[step.cpu];
    return [...now];
  });
}
