// The map of addresses: each mapping, gigabyte by gigabyte, as it was at the peak.

function addresses() {
  const entries = picture.map.map((mapped) => mappingMap(mapped, report.mappings[mapped.mapping]));
  return section("addresses", "Addresses, gigabyte by gigabyte",
    make("p", { class: "soft" }, `The mappings that were there ${moment(picture.fullest)}, when most processes held huge pages. A table covers one gigabyte: a box is one, from boundary to boundary, and what is filled of it is mapped.`),
    make("ul", { class: "key-list" },
      make("li", {}, make("i", { class: "swatch cell-shared" }), "one table, shared"),
      make("li", {}, make("i", { class: "swatch cell-own" }), "a table for each process"),
      make("li", {}, make("i", { class: "swatch cell-empty" }), "no table yet")),
    entries.length > 0 ? entries : make("p", {}, "None."));
}

function mappingMap({ cells, more }, mapping) {
  const what = `${size(mapping.bytes / 1024)}, ${mapping.backing}, ${mapping.shared ? "shared" : "private"}, pages of ${size(mapping.page_kb)}`;
  return make("article", { class: "mapping" },
    make("h3", {}, make("code", {}, mapping.range), " ", what),
    make("p", { class: "soft" }, `${mapping.call} on line ${mapping.line} by process ${mapping.pid}; held by ${plural(mapping.processes, "process", "processes")} at most`),
    make("ol", { class: "cells" }, cells.map((cell) => cellBox(cell, mapping))),
    more > 0 && make("p", { class: "soft" }, `and ${plural(more, "more gigabyte")}`),
    mapping.unsharable.length > 0 && make("ul", { class: "reasons" }, mapping.unsharable.map((part) =>
      make("li", {}, make("b", {}, size(part.bytes / 1024)), " ", part.range !== mapping.range && [make("code", {}, part.range), " "], part.why))));
}

function cellBox(cell, mapping) {
  const kind = cell.users > 1 ? "shared" : cell.own > 0 ? "own" : "empty";
  const words = {
    shared: `shared by ${number(cell.users)}${cell.own > 0 ? `, ${number(cell.own)} alone` : ""}`,
    own: cell.own === 1 ? "1 table" : `${number(cell.own)} tables`,
    empty: "no table",
  }[kind];
  const pages = cell.pages > 0 ? `${number(cell.pages)} of ${number(((cell.to - cell.from) * 1024) / mapping.page_kb)} pages` : "";
  return make("li", { class: `cell-box cell-${kind}`, "data-kind": kind, "data-users": cell.users, "data-own": cell.own, title: cell.range },
    make("span", { class: "gigabyte", "aria-hidden": "true" }, make("span", { class: "filled", style: { left: `${(cell.from / 1024) * 100}%`, width: `${((cell.to - cell.from) / 1024) * 100}%` } })),
    make("code", {}, `${cell.range.split("-")[0]}`),
    make("span", {}, cell.times > 1 && make("b", {}, `${number(cell.times)} × 1 GiB, in each: `), words),
    make("span", { class: "pages" }, pages));
}
