#!/usr/bin/env python3
"""Plants all mutants into a copy of the engine's sources, each behind a switch.

    plant.py LISTS SOURCES [--list]

LISTS is a folder of TOML files, one for each room; SOURCES the `src` folder of a *copy* of the crate `hugewalk`, which is
changed. Each mutant names a file, a piece of text in it, and what a mistake would make of that piece. In the copy the piece
becomes

    if crate::mutants::is("NAME") { MISTAKE } else { PIECE }

so the piece has to be an expression, or whole statements that bind nothing. Several mutants may share a piece. The switch is
the environment variable HUGEWALK_MUTANT, read once.

Whatever does not fit (a piece that is not there, or is there twice) is an error: the list is to follow the sources.
"""

import pathlib
import sys
import tomllib

FIELDS = {"name", "what", "file", "piece", "mistake", "needs", "nth", "equivalent"}
NEEDS = {"one thread", "two threads", "TLB", "heap"}

SWITCH = '''//! Which mutant is switched on. This file is in no real source tree.

extern crate std;

/// Is it this one?
pub(crate) fn is(name: &str) -> bool {
    static ON: std::sync::OnceLock<Option<std::string::String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("HUGEWALK_MUTANT").ok()).as_deref() == Some(name)
}
'''


def fail(text):
    sys.exit(f"plant.py: {text}")


def mutants(lists):
    found, names = [], set()
    for path in sorted(lists.glob("*.toml")):
        with path.open("rb") as file:
            for mutant in tomllib.load(file)["mutant"]:
                mutant["room"] = path.stem
                name = mutant.get("name", "?")
                if unknown := set(mutant) - FIELDS - {"room"}:
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


def plant(text, path, of_file):
    """Replaces each piece by a choice. Pieces of one file must not overlap, unless they are the same."""
    places = {}
    for mutant in of_file:
        piece, nth = mutant["piece"].strip("\n"), mutant.get("nth")
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
        places.setdefault((at, at + len(piece)), []).append(mutant)
    last = len(text)
    for (start, end), here in sorted(places.items(), reverse=True):
        if end > last:
            fail(f"{here[0]['name']}: its piece overlaps another mutant's in {path}")
        piece, choice = text[start:end], ""
        for mutant in here:
            name, mistake = mutant["name"], mutant["mistake"].strip()
            choice += f'if crate::mutants::is("{name}") {{ {mistake} }} else '
        choice += f"{{ {piece} }}"
        # An expression may have operators beside it; statements may not be in parentheses.
        if not piece.rstrip().endswith((";", "}")):
            choice = f"({choice})"
        text = text[:start] + choice + text[end:]
        last = start
    return text


def main():
    lists, sources = map(pathlib.Path, sys.argv[1:3])
    all_of_them = mutants(lists)
    if "--list" in sys.argv:
        for mutant in all_of_them:
            kind = "equivalent" if "equivalent" in mutant else mutant["needs"]
            print(mutant["name"], mutant["room"], kind, mutant["what"], sep="\t")
        return
    for name in sorted({mutant["file"] for mutant in all_of_them}):
        path = sources / name
        if not path.exists():
            fail(f"there is no {name}")
        of_file = [mutant for mutant in all_of_them if mutant["file"] == name]
        path.write_text(plant(path.read_text(), name, of_file))
    (sources / "mutants.rs").write_text(SWITCH)
    top = sources / "lib.rs"
    text = top.read_text()
    top.write_text(text.replace("pub mod platform;", "pub mod platform;\nmod mutants;", 1))
    print(f"{len(all_of_them)} mutants planted")


main()
