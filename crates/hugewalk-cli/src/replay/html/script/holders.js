// Processes by their tables, those with most of their own first.

const SHOWN = 12;

function holders() {
  const all = picture.processes;
  const most = Math.max(1, ...all.map((holder) => holder.own + holder.shared));
  const row = (holder, at) => make("tr", { hidden: at >= SHOWN },
    make("th", { scope: "row" }, holder.pid || "?"),
    make("td", { class: "bars", "aria-hidden": "true" },
      make("span", { class: "bar own", style: { width: `${(holder.own / most) * 100}%` } }),
      make("span", { class: "bar shared", style: { width: `${(holder.shared / most) * 100}%` } })),
    make("td", {}, number(holder.own)), make("td", {}, number(holder.shared)),
    make("td", {}, number(holder.own_pages)), make("td", {}, number(holder.shared_pages)));
  const rows = all.map(row);
  const button = make("button", { type: "button", onclick: () => {
    for (const hidden of rows) hidden.hidden = false;
    button.remove();
  } }, `Show all ${number(all.length)}`);
  return section("processes", "Processes by tables",
    make("p", { class: "soft" }, `At the peak, ${moment(picture.fullest)}.${report.recording.clones > 1 ? " The first copy of each." : ""}`),
    make("div", { class: "wide" }, make("table", { class: "grid holders" },
      make("caption", { class: "unseen" }, "Processes by tables"),
      make("thead", {}, make("tr", {}, ["process", "", "own tables", "shared", "pages in own", "in shared"].map((heading) => make("th", { scope: "col" }, heading)))),
      make("tbody", {}, rows))),
    all.length > SHOWN && button);
}
