//! What a person sees of a run: where steps, lanes and columns lie. Asked of the browser that laid them out.

use serde_json::Value;

use crate::browser::opened::Opened;

/// Everything about the place of things that a reader would stumble over, in words: nothing if all is well.
const FAULTS: &str = r"(() => {
    const faults = [];
    const box = (element) => element.getBoundingClientRect();
    const seen = (element) => { const { width, height } = box(element); return width > 0 && height > 0; };
    const middle = (element) => { const { left, right } = box(element); return (left + right) / 2; };
    const all = (selector, inside = document) => [...inside.querySelectorAll(selector)].filter(seen);
    const lines = all('.lane-line');
    const rows = all('.turns .step, .turns .again, .turns .waiting, .turns .folded > button');
    const name = (row) => row.id || row.textContent.slice(0, 30);

    // A sign lies on the line of its processor, and so does the coloured bar behind it.
    let signs = 0;
    for (const row of rows) {
        const sign = row.querySelector('.sign');
        const turn = row.closest('.turn');
        if (!turn) continue;
        const line = lines[Number(getComputedStyle(turn).getPropertyValue('--lane'))];
        if (sign) {
            signs += 1;
            const off = middle(sign) - middle(line);
            if (Math.abs(off) > 2) faults.push(`${name(row)}: its sign is ${off} px beside its lane`);
        } else if (Math.min(...all('span', row).map((part) => box(part).left)) < middle(line) + 2) {
            faults.push(`${name(row)}: its text lies on its lane`);
        }
    }
    if (signs === 0) faults.push('no step has a sign');

    // Where the source is, is a column with a straight right edge.
    const edges = all('.turns .source').map((source) => box(source).right);
    if (edges.length > 0 && Math.max(...edges) - Math.min(...edges) > 1) {
        faults.push(`the sources end between ${Math.min(...edges)} and ${Math.max(...edges)}`);
    }
    if (innerWidth > 1000 && edges.length === 0) faults.push('no source is shown');

    // Nothing overlaps: neither the parts of a row, nor the rows.
    rows.forEach((row, at) => {
        const parts = [...row.children].filter(seen).map(box).sort((a, b) => a.left - b.left);
        parts.forEach((part, at) => {
            const before = parts[at - 1];
            if (before && part.left < before.right - 0.5 && part.top < before.bottom - 0.5 && before.top < part.bottom - 0.5) {
                faults.push(`${name(row)}: a part begins at ${part.left} before the last one ends at ${before.right}`);
            }
        });
        const above = rows[at - 1];
        if (above && box(row).top < box(above).bottom - 0.5) faults.push(`${name(row)} overlaps ${name(above)}`);
    });

    // Nothing is cut: neither at the edge of what it lies in, nor with dots at its end.
    const panes = all('.pane, .turns, .about, .report, .tables figure, .story > header');
    for (const pane of panes) {
        if (pane.scrollWidth > pane.clientWidth) faults.push(`.${pane.className}: ${pane.scrollWidth - pane.clientWidth} px wider than it may be`);
    }
    for (const part of all('.turns span, .lanes-head *, .about *, .report *, .story > header h1, .story > header p')) {
        const own = getComputedStyle(part);
        if (own.overflowX !== 'visible' && part.scrollWidth > part.clientWidth) faults.push(`${part.textContent}: cut`);
        const pane = part.closest('.pane, .story > header');
        const { left, right } = box(part);
        if (right > box(pane).right + 0.5 || left < box(pane).left - 0.5) faults.push(`${part.textContent}: beyond its pane`);
    }
    if (document.documentElement.scrollWidth > innerWidth) faults.push('the page is wider than the window');
    return faults;
})()";

#[test]
fn every_step_stands_on_its_lane_and_nothing_overlaps_or_is_cut() {
    let Some(mut page) = Opened::at("") else { return };
    let races = [
        "#S1/legacy",
        "#S9/vma-lock",
        "#S8/legacy",
        "#S30/page-walk/legacy",
        "#S11:no-flush/hugewalk",
        "#S19:look-first/hugewalk",
        "#S24:shared-lock-only/hugewalk",
        "#S25:no-trylock/hugewalk",
    ];
    let mut wrong = Vec::new();
    for (width, height) in [(1400, 900), (420, 860)] {
        for scheme in ["light", "dark"] {
            page.browser.look(width, height, scheme);
            for hash in races {
                page.open(hash);
                for folded in [true, false] {
                    if !folded {
                        page.browser.press("f");
                    }
                    let name = hash.replace(['#', '/', ':'], "-");
                    page.browser.picture(&format!("lanes{name}-{width}-{scheme}-{folded}"));
                    let faults = page.browser.value(FAULTS);
                    let faults = faults.as_array().expect("a list").iter().filter_map(Value::as_str);
                    wrong.extend(faults.map(|fault| format!("{hash} at {width}, {scheme}: {fault}")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    page.assert_quiet();
}
