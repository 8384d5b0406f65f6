// What the page is told, and numbers as people read them.

const said = JSON.parse(document.getElementById("data").textContent);
const { report, picture } = said;

/** Kibibytes in the largest unit that leaves the number whole or over ten. */
function size(kb) {
  for (const [unit, of] of [["TiB", 2 ** 30], ["GiB", 2 ** 20], ["MiB", 2 ** 10]]) {
    const count = kb / of;
    if (count >= 10 || (count >= 1 && Number.isInteger(count))) return `${number(Number.isInteger(count) ? count : Math.floor(count * 10) / 10)} ${unit}`;
  }
  return `${number(kb)} KiB`;
}

/** Nanoseconds with three digits. */
function duration(ns) {
  for (const [unit, of] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (ns >= 0.9995 * of) return `${(ns / of).toPrecision(3)} ${unit}`;
  }
  return `${Math.round(ns)} ns`;
}

/** A moment of the recording. */
const moment = (at) => (picture.timed ? `after ${at.toFixed(at < 10 ? 3 : 1)} s` : `before operation ${number(Math.round(at))}`);

/** A number of about `most`, rounded up, that an axis may end at. */
function roundUp(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most);
}

/** A table of text: headings, rows of cells, the columns from the second on flush right. */
function grid(caption, headings, rows) {
  return make("table", { class: "grid" },
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, make("tr", {}, headings.map((heading) => make("th", { scope: "col" }, heading)))),
    make("tbody", {}, rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), rest.map((cell) => make("td", {}, cell))))));
}

/** A section of the page with its heading. */
const section = (id, title, ...children) => make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title), children);
