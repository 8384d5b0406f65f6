// What the page is told: the verdicts, arranged in rows. Each run lies packed in an element of its own and is unpacked
// when it is opened.

const said = JSON.parse(document.getElementById("data").textContent);

const SIGNS = { race: "✗", safe: "✓", not_met: "○", incomplete: "◐", does_not_apply: "–", not_asked: "·" };

const rowsById = new Map();
const verdictsByAddress = new Map();

for (const row of said.rows) {
  rowsById.set(row.id, row);
  row.cells = new Map(row.verdicts.map((verdict) => [verdict.protocol, verdict]));
  row.stepless = [];
  for (const verdict of row.verdicts) adopt(row, verdict);
}
for (const step of said.steps) {
  for (const verdict of [...step.races, ...step.not_met]) {
    const row = rowsById.get(verdict.scenario);
    row.stepless.push(verdict);
    adopt(row, verdict);
  }
}

function adopt(row, verdict) {
  verdict.row = row;
  // A mistake is one in the steps of some protocols: of the others nobody has asked.
  verdict.sort = verdict.verdict === "does_not_apply" && row.id.includes(":") ? "not_asked" : verdict.verdict;
  verdict.under = verdict.left_out ? `${verdict.protocol} without ${verdict.left_out}` : verdict.protocol;
  verdictsByAddress.set(addressOf(verdict), verdict);
}

/** `#S1/legacy`, `#S14:unshare-early/rfc`, `#S8/hugewalk~revalidate`. */
function addressOf(verdict) {
  const parts = [...verdict.scenario.split("/"), verdict.left_out ? `${verdict.protocol}~${verdict.left_out}` : verdict.protocol];
  return `#${parts.map((part) => encodeURIComponent(part).replaceAll("%3A", ":")).join("/")}`;
}

/** The run behind a verdict, unpacked. */
async function storyOf(verdict) {
  const packed = Uint8Array.from(atob(document.getElementById(`story-${verdict.story}`).textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
