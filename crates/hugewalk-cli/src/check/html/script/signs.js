// A sign for each sort of step: what is filled changes something, what is hollow does not; what is square is a lock.

const SHAPES = {
  read: ["reads", () => draw("circle", { cx: 8.5, cy: 8.5, r: 4, fill: "none", stroke: "currentColor", "stroke-width": 1.6 })],
  write: ["writes", () => draw("circle", { cx: 8.5, cy: 8.5, r: 4.8, fill: "currentColor" })],
  lock: ["takes a lock", () => draw("rect", { x: 4.2, y: 4.2, width: 8.6, height: 8.6, fill: "currentColor" })],
  try_lock: ["tries a lock in vain", () => [
    draw("rect", { x: 5, y: 5, width: 7, height: 7, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    draw("path", { d: "M4 13 13 4", stroke: "currentColor", "stroke-width": 1.6 }),
  ]],
  unlock: ["lets a lock go", () => draw("rect", { x: 5, y: 5, width: 7, height: 7, fill: "none", stroke: "currentColor", "stroke-width": 1.6 })],
  rcu_lock: ["begins a read section", () => draw("path", { d: "M8.5 3 14 8.5 8.5 14 3 8.5Z", fill: "currentColor" })],
  rcu_unlock: ["ends a read section", () => draw("path", { d: "M8.5 4 13 8.5 8.5 13 4 8.5Z", fill: "none", stroke: "currentColor", "stroke-width": 1.6 })],
  call_rcu: ["hands something to RCU", () => draw("path", { d: "M4 5h9L8.5 13Z", fill: "none", stroke: "currentColor", "stroke-width": 1.6 })],
  flush: ["flushes a TLB", () => draw("path", { d: "M9.8 2.5 4.5 9.5h3.4L7 14.5l5.5-7H9Z", fill: "currentColor" })],
  broadcast: ["waits for all processors", () => draw("path", { d: "M8.5 3v11M4 5.5v6M13 5.5v6", stroke: "currentColor", "stroke-width": 1.8 })],
  free: ["frees a table, or its lock", () => draw("path", { d: "M4.2 4.2l8.6 8.6M12.8 4.2l-8.6 8.6", stroke: "currentColor", "stroke-width": 2 })],
  access: ["a processor goes to memory", () => draw("path", { d: "M3.5 8.5h8M8.5 5l3.5 3.5L8.5 12", fill: "none", stroke: "currentColor", "stroke-width": 1.6 })],
  wait: ["sleeps, or wakes somebody", () => draw("path", { d: "M5 4h7L5 13h7", fill: "none", stroke: "currentColor", "stroke-width": 1.6 })],
};
SHAPES.free_lock = SHAPES.free;

/** The sign of a sort of step, as an image that needs no words: the text beside it says the same. */
function sign(kind) {
  const [, shape] = SHAPES[kind] ?? SHAPES.read;
  return draw("svg", { class: "sign", viewBox: "0 0 17 17", "aria-hidden": "true" }, shape());
}
