#!/usr/bin/env python3
"""Plants all mutants into a copy of the engine's sources, each behind a switch.

    plant.py LISTS SOURCES [--list]

LISTS is a folder of TOML files, one for each room; SOURCES the `src` folder of a *copy* of the crate `hugewalk`, which is
changed, as is `hugewalk-rcu` beside it. Each mutant names a file, a piece of text in it, and what a mistake would make of that piece. In the copy the piece
becomes

    if crate::mutants::is(NUMBER) { MISTAKE } else { PIECE }

so the piece has to be an expression, or whole statements that bind nothing that is used later. Several mutants may share a
piece. Where that does not do, `function = true` makes the choice one between two bodies of the function around the piece; then
`piece` and `mistake` may be lists, for several places in that function.

The switch is the environment variable HUGEWALK_MUTANT, read once: the name of a mutant. Without it, HUGEWALK_REACHED may be the
number of an open file: the number of each mutant whose switch is reached is written there, in two bytes.

What a mutant `needs` says who must find it:

- "one thread": the tests, or `hugewalk check`;
- "two threads", "TLB": `hugewalk check`;
- "heap": the tests that let memory run out;
- "orderings": loom. `check` explores sequentially consistent interleavings and brings a read-copy-update of its own, so it
  cannot see such a mistake.

Whatever does not fit (a piece that is not there, or is there twice) is an error: the list is to follow the sources.
"""

import hashlib
import json
import pathlib
import re
import sys
import tomllib

FIELDS = {"name", "what", "file", "piece", "mistake", "needs", "nth", "function", "equivalent"}
NEEDS = {"one thread", "two threads", "TLB", "heap", "orderings"}

SWITCH = '''//! Which mutant is switched on. This file is in no real source tree.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

const NAMES: [&str; %d] = %s;
const UNKNOWN: usize = usize::MAX;
/// None is, and whoever asks wants to know which could have been: which switches are reached.
const LISTENING: usize = usize::MAX - 1;
static ON: AtomicUsize = AtomicUsize::new(UNKNOWN);
static REACHED: [AtomicBool; NAMES.len()] = [const { AtomicBool::new(false) }; NAMES.len()];

/// Is it the one of this number?
#[inline]
pub(crate) fn is(number: usize) -> bool {
    match ON.load(Relaxed) {
        UNKNOWN | LISTENING => asked(number),
        on => on == number,
    }
}

unsafe extern "C" {
    fn getenv(name: *const core::ffi::c_char) -> *const core::ffi::c_char;
    fn atoi(text: *const core::ffi::c_char) -> core::ffi::c_int;
    fn write(to: core::ffi::c_int, from: *const core::ffi::c_void, length: usize) -> isize;
}

/// Allocates nothing: some tests count what is allocated, or refuse it.
#[cold]
fn asked(number: usize) -> bool {
    let mut on = ON.load(Relaxed);
    if on == UNKNOWN {
        on = read();
        ON.store(on, Relaxed);
    }
    if on == LISTENING && !REACHED[number].swap(true, Relaxed) {
        let bytes = (number as u16).to_le_bytes();
        // SAFETY: a number is a string of the environment, and whoever set it has the file open.
        unsafe { write(atoi(getenv(c"HUGEWALK_REACHED".as_ptr())), bytes.as_ptr().cast(), 2) };
    }
    on == number
}

fn read() -> usize {
    // SAFETY: nothing in the process changes its environment.
    let (name, file) = unsafe { (getenv(c"HUGEWALK_MUTANT".as_ptr()), getenv(c"HUGEWALK_REACHED".as_ptr())) };
    if !name.is_null() {
        // SAFETY: it is a string of the environment, which stays.
        let name = unsafe { core::ffi::CStr::from_ptr(name) };
        NAMES.iter().position(|known| known.as_bytes() == name.to_bytes()).expect("HUGEWALK_MUTANT names a mutant")
    } else if file.is_null() {
        NAMES.len()
    } else {
        LISTENING
    }
}
'''


def fail(text):
    sys.exit(f"plant.py: {text}")


def mutants(lists):
    found, names = [], set()
    for path in sorted(lists.glob("*.toml")):
        with path.open("rb") as file:
            for mutant in tomllib.load(file)["mutant"]:
                mutant["room"], mutant["number"] = path.stem, len(found)
                name = mutant.get("name", "?")
                if unknown := set(mutant) - FIELDS - {"room", "number"}:
                    fail(f"{path.name}: {name}: unknown field {sorted(unknown)[0]}")
                if missing := {"name", "what", "file", "piece", "mistake", "needs"} - set(mutant):
                    fail(f"{path.name}: {name} lacks {sorted(missing)[0]}")
                if mutant["needs"] not in NEEDS:
                    fail(f"{path.name}: {name} needs one of {sorted(NEEDS)}, not {mutant['needs']!r}")
                if name in names:
                    fail(f"{path.name}: {name} is there twice")
                names.add(name)
                found.append(mutant)
    return found


def tokens(text):
    """Positions of what is neither comment nor literal: braces, brackets, semicolons, words."""
    plain = re.compile(
        r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\[^']+|[^'\\])'|(?P<word>[A-Za-z_]\w*)|(?P<sign>[{}()\[\];])""", re.S
    )
    for match in plain.finditer(text):
        if match.lastgroup:
            yield match.start(), match.group()


def bodies(text):
    """The bodies of all functions, with their braces."""
    found, stack, named, header, depth = [], [], False, False, 0
    for at, token in tokens(text):
        if token == "fn":
            named = True
            continue
        # `fn(...)` is a type, not a function.
        header, named = header or (named and token[0] not in "{}()[];"), False
        if token in "([":
            depth += 1
        elif token in ")]":
            depth -= 1
        elif token == ";" and depth == 0:
            header = False
        elif token == "{":
            stack.append(at if header and depth == 0 else None)
            header = header and depth > 0
            stack[-1] = (stack[-1], depth)
            depth = 0
        elif token == "}":
            start, depth = stack.pop()
            if start is not None:
                found.append((start, at + 1))
    return found


def position(text, path, mutant, piece, nth):
    count = text.count(piece)
    if count == 0:
        fail(f"{mutant['name']}: its piece is not in {path}")
    if nth is not None and nth > count:
        fail(f"{mutant['name']}: its piece is only {count} times in {path}")
    if count > 1 and nth is None:
        fail(f"{mutant['name']}: its piece is {count} times in {path}; name which by nth = 1 ... {count}")
    at = -1
    for _ in range(nth or 1):
        at = text.index(piece, at + 1)
    return at


def as_list(value):
    return value if isinstance(value, list) else [value]


def other_body(text, path, mutant):
    """The body of the function around a mutant's pieces, as the mistake makes it: where it begins, and its text."""
    edits = []
    for piece, mistake in zip(as_list(mutant["piece"]), as_list(mutant["mistake"]), strict=True):
        piece = piece.strip("\n")
        at = position(text, path, mutant, piece, mutant.get("nth"))
        edits.append((at, at + len(piece), mistake.strip()))
    first, last = min(edits)[0], max(edits)[1]
    around = [(start, end) for start, end in bodies(text) if start < first and last < end]
    if not around:
        fail(f"{mutant['name']}: its pieces are not in one function of {path}")
    start, end = max(around)
    body = text[start:end]
    for at, to, mistake in sorted(edits, reverse=True):
        body = body[: at - start] + mistake + body[to - start :]
    return start, end, body


def plant(text, path, of_file):
    """Replaces each piece by a choice. Pieces of one file must not overlap, unless they are the same."""
    changes, places = [], {}
    for mutant in of_file:
        if mutant.get("function"):
            start, end, body = other_body(text, path, mutant)
            # Around all that is planted inside.
            changes.append((start, 1, f"{{ if crate::mutants::is({mutant['number']}) {body} else {{"))
            changes.append((end - 1, 1, "} }"))
            continue
        piece = mutant["piece"].strip("\n")
        at = position(text, path, mutant, piece, mutant.get("nth"))
        places.setdefault((at, at + len(piece)), []).append(mutant)
    last = len(text)
    for (start, end), here in sorted(places.items(), reverse=True):
        if end > last:
            fail(f"{here[0]['name']}: its piece overlaps another mutant's in {path}")
        piece, choice = text[start:end], ""
        for mutant in here:
            number, mistake = mutant["number"], mutant["mistake"].strip()
            choice += f"if crate::mutants::is({number}) {{ {mistake} }} else "
        choice += f"{{ {piece} }}"
        # An expression may have operators beside it; statements may not be in parentheses.
        if not piece.rstrip().endswith((";", "}")):
            choice = f"({choice})"
        changes.append((start, end - start, choice))
        last = start
    # The braces of one body may be changed more than once: each is a body around the one before.
    merged = {}
    for start, length, new in changes:
        if (start, length) in merged:
            new = merged[start, length][:-1] + new if new.startswith("{") else merged[start, length] + new[1:]
        merged[start, length] = new
    for (start, length), new in sorted(merged.items(), reverse=True):
        text = text[:start] + new + text[start + length :]
    return text


def main():
    lists, sources = map(pathlib.Path, sys.argv[1:3])
    all_of_them = mutants(lists)
    if "--list" in sys.argv:
        for mutant in all_of_them:
            kind = "equivalent" if "equivalent" in mutant else mutant["needs"]
            parts = repr([mutant[field] for field in ("piece", "mistake")])
            digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
            print(mutant["name"], mutant["room"], kind, mutant["what"], digest, mutant.get("equivalent", ""), sep="\t")
        return
    for name in sorted({mutant["file"] for mutant in all_of_them}):
        path = sources / name
        if not path.exists():
            fail(f"there is no {name}")
        of_file = [mutant for mutant in all_of_them if mutant["file"] == name]
        path.write_text(plant(path.read_text(), name, of_file))
    names = [mutant["name"] for mutant in all_of_them]
    # The read-copy-update is a crate of its own.
    for folder, beside in [(sources, "pub mod platform;"), (sources / "../../hugewalk-rcu/src", "mod epoch;")]:
        (folder / "mutants.rs").write_text(SWITCH % (len(names), json.dumps(names)))
        top = folder / "lib.rs"
        text = top.read_text()
        top.write_text(text.replace(beside, beside + "\nmod mutants;", 1))
    print(f"{len(all_of_them)} mutants planted")


main()
