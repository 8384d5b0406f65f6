//! The engine knows no processor: outside `arch/` no source names the size of a page, a bit of an entry or the number of a level.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

/// Sizes and widths of pages, tables and addresses, of all formats: logarithms, numbers of entries, bytes.
const OF_PROCESSORS: [u128; 25] = [
    9,
    11,
    12,
    13,
    14,
    21,
    25,
    29,
    30,
    34,
    39,
    42,
    47,
    48,
    52,
    511,
    512,
    2047,
    2048,
    4095,
    4096,
    8192,
    16384,
    65536,
    1 << 21,
];

/// Where such a number is something else: the file, the number, and what it is.
const OTHERWISE: &[(&str, u128, &str)] = &[
    ("addr.rs", 4096, "the unit of frame numbers"),
    ("addr.rs", 52, "how many frames there are"),
    ("addr.rs", 30, "a gibibyte, in words"),
    ("avl/iter.rs", 48, "a tree of mappings that is so high does not fit into memory"),
    ("file/cache.rs", 512, "pages of a chunk of the page cache"),
    ("gather.rs", 512, "pages of a batch"),
    ("page.rs", 9, "a flag of a page"),
    ("uffd/message.rs", 9, "a flag of Linux's"),
    ("uffd/message.rs", 11, "a flag of Linux's"),
    ("uffd/message.rs", 12, "a flag of Linux's"),
    ("uffd/message.rs", 13, "a flag of Linux's"),
    ("uffd/message.rs", 14, "a flag of Linux's"),
    ("vma/flags.rs", 9, "a flag of a mapping"),
];

#[test]
fn no_source_outside_arch_names_a_size_of_a_processor() {
    let mut found = Vec::new();
    each_source(|file, tokens| {
        numbers(tokens, &mut |number| found.push((file.to_owned(), number)));
    });
    assert!(found.len() > 100, "only {} numbers were found", found.len());
    found.retain(|(_, number)| OF_PROCESSORS.contains(number));
    let known = |(file, number): &(String, u128)| {
        OTHERWISE.iter().any(|&(at, other, _)| (at, other) == (file, *number))
    };
    let unknown: Vec<_> = found.iter().filter(|found| !known(found)).collect();
    assert!(unknown.is_empty(), "say what they are, or leave them to `arch`: {unknown:?}");
    for &(file, number, what) in OTHERWISE {
        let is_there = found.contains(&(file.to_owned(), number));
        assert!(is_there, "{file} does not name {number}, {what}, any more: take it off the list");
    }
}

/// Names that only processors of one kind have.
const NAMES: [&str; 12] = [
    "X86_64",
    "Aarch64",
    "Riscv64",
    "AnyPaging",
    "Granule",
    "Sv",
    "PAGE_SIZE",
    "PMD_SIZE",
    "PUD_SIZE",
    "PMD_SHIFT",
    "PAGE_SHIFT",
    "PTRS_PER_PTE",
];

#[test]
fn no_source_outside_arch_names_a_processor() {
    each_source(|file, tokens| {
        words(tokens, &mut |word| assert!(!NAMES.contains(&word), "{file} names {word}"));
    });
}

#[test]
fn no_source_outside_arch_knows_a_level_by_its_number() {
    each_source(|file, tokens| {
        let number = level_number(tokens);
        assert_eq!(number, None, "{file} compares a level with a number");
    });
}

/// `level`, or what ends in it, beside a comparison and a number, whichever comes first; or a constant `LEVEL` that is one.
fn level_number(tokens: TokenStream) -> Option<String> {
    let words: Vec<TokenTree> = tokens.into_iter().collect();
    let is_level = |word: &TokenTree| matches!(word, TokenTree::Ident(word) if word.to_string().to_lowercase().ends_with("level"));
    for (place, word) in words.iter().enumerate() {
        if let TokenTree::Group(group) = word
            && let Some(found) = level_number(group.stream())
        {
            return Some(found);
        }
        let near = &words[place..words.len().min(place + 6)];
        // What stands between the two: an operator, the empty parentheses of a call, the type of a constant.
        let between = |word: &TokenTree| match word {
            TokenTree::Punct(sign) => "=!<>:.".contains(sign.as_char()),
            TokenTree::Group(group) => group.stream().is_empty(),
            TokenTree::Ident(word) => {
                ["u8", "self", "place", "size", "slot"].iter().any(|known| word == known)
            }
            TokenTree::Literal(_) => false,
        };
        let compares = |words: &[TokenTree]| {
            words.iter().all(between)
                && words
                    .iter()
                    .any(|word| matches!(word, TokenTree::Punct(sign) if "=<>".contains(sign.as_char())))
        };
        let is_number = |word: &TokenTree| matches!(word, TokenTree::Literal(_));
        for (length, last) in near.iter().enumerate().skip(1) {
            let ends = is_level(word) && is_number(last) || is_number(word) && is_level(last);
            if ends && compares(&near[1..length]) {
                return Some(near[..=length].iter().map(|word| format!("{word} ")).collect());
            }
        }
    }
    None
}

#[test]
fn a_level_with_a_number_is_found() {
    let found = |source: &str| level_number(source.parse().unwrap()).is_some();
    for source in [
        "if level == 0 {}",
        "f(|size| size.level() != 1)",
        "x && 2 <= place.level",
        "const LEVEL: u8 = 1;",
        "[at_level < 3]",
    ] {
        assert!(found(source), "{source}");
    }
    for source in
        ["if level == other {}", "size.level() + 1", "let level = level - 1;", "f(level, 1)", "level: u8, 7"]
    {
        assert!(!found(source), "{source}");
    }
}

fn each_source(mut test: impl FnMut(&str, TokenStream)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    collect(&root, &mut all);
    assert!(all.len() > 100, "only {} sources were found", all.len());
    for path in all {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let is_test = name.ends_with("/tests.rs");
        if !name.starts_with("arch/") && !is_test {
            test(&name, without_tests(fs::read_to_string(&path).unwrap().parse().unwrap()));
        }
    }
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Documentation is an attribute to the parser, and goes with the other attributes; what is marked `cfg(test)` goes too.
fn without_tests(tokens: TokenStream) -> TokenStream {
    let mut left = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let mut skips = false;
    while let Some(token) = tokens.next() {
        let is_hash = matches!(&token, TokenTree::Punct(sign) if sign.as_char() == '#');
        if is_hash {
            tokens.next_if(|next| matches!(next, TokenTree::Punct(sign) if sign.as_char() == '!'));
            if let Some(TokenTree::Group(attribute)) = tokens.next() {
                skips |= attribute.stream().to_string().replace(' ', "") == "cfg(test)";
            }
            continue;
        }
        let ends = match &token {
            TokenTree::Group(group) => group.delimiter() == proc_macro2::Delimiter::Brace,
            TokenTree::Punct(sign) => sign.as_char() == ';',
            _ => false,
        };
        if !skips {
            left.push(match token {
                TokenTree::Group(group) => TokenTree::Group(proc_macro2::Group::new(
                    group.delimiter(),
                    without_tests(group.stream()),
                )),
                other => other,
            });
        }
        skips &= !ends;
    }
    left.into_iter().collect()
}

fn numbers(tokens: TokenStream, found: &mut impl FnMut(u128)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => numbers(group.stream(), found),
            TokenTree::Literal(literal) => {
                if let Some(number) = number(&literal.to_string()) {
                    found(number);
                }
            }
            _ => {}
        }
    }
}

fn words(tokens: TokenStream, found: &mut impl FnMut(&str)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => words(group.stream(), found),
            TokenTree::Ident(word) => found(&word.to_string()),
            _ => {}
        }
    }
}

/// The value of an integer, with or without the type behind it.
fn number(literal: &str) -> Option<u128> {
    let plain = literal.replace('_', "");
    let plain = plain.split(['u', 'i']).next()?;
    match plain.split_at_checked(2) {
        Some(("0x", digits)) => u128::from_str_radix(digits, 16).ok(),
        Some(("0b", digits)) => u128::from_str_radix(digits, 2).ok(),
        Some(("0o", digits)) => u128::from_str_radix(digits, 8).ok(),
        _ => plain.parse().ok(),
    }
}
