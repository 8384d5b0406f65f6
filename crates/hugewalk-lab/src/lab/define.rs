//! A protocol in a line of text: one of those there are, and what is different in it.

use super::settings::{Broadcast, Settings, Walkers};

/// What is wrong with such a line, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAProtocol {
    /// It has no name, or one that nobody could type.
    #[error("`{0}` is no name; give letters, digits and dashes, as in mine=rfc-ptl,+revalidate")]
    Name(String),
    /// The name belongs to a protocol that there is.
    #[error("{0} is a protocol already; give yours another name")]
    Taken(String),
    /// It is made from a protocol that there is not.
    #[error("it begins with `{0}`, which is no protocol; begin with one of {1}")]
    Base(String, String),
    /// Something else than what can be changed.
    #[error(
        "`{0}` is nothing that can be changed; there are walkers=, broadcast=, ptl=, tables=, +STEP and -STEP"
    )]
    Change(String),
    /// It cannot be changed to that.
    #[error("{key}={value}: there are {all}")]
    Value {
        /// What is changed.
        key: &'static str,
        /// To what.
        value: String,
        /// What it can be changed to.
        all: String,
    },
    /// There is no such step.
    #[error("no step is called `{0}`; there are {1}")]
    Step(String, String),
    /// The step is there already, or is not there.
    #[error("{0}{1} changes nothing: the protocol {2} that step")]
    Idle(char, String, &'static str),
}

const WALKERS: [(&str, Walkers); 3] = [("mmap", Walkers::Mmap), ("rcu", Walkers::Rcu), ("vma", Walkers::Vma)];
const BROADCASTS: [(&str, Broadcast); 6] = [
    ("none", Broadcast::None),
    ("each", Broadcast::Each),
    ("last", Broadcast::Last),
    ("implied", Broadcast::Implied),
    ("targeted", Broadcast::Targeted),
    ("rcu", Broadcast::GracePeriod),
];
/// When the lock of a table is freed: at once?
const LOCKS: [(&str, bool); 2] = [("at-once", true), ("with-table", false)];
/// When tables are freed: always after a grace period?
const TABLES: [(&str, bool); 2] = [("machine", false), ("rcu", true)];

impl Settings {
    /// A protocol of one's own: `mine=rfc-ptl,walkers=rcu,broadcast=last,+revalidate`. It has a name, a protocol that it is made
    /// from, and changes: what walkers hold (`walkers=mmap|rcu|vma`), whom unsharing waits for
    /// (`broadcast=none|each|last|implied|targeted|rcu`), when the lock of a table is freed (`ptl=at-once|with-table`), whether
    /// tables wait for a grace period on every machine (`tables=machine|rcu`), and [steps](Self::steps) more (`+revalidate`) or less
    /// (`-flush`).
    ///
    /// The name is kept for as long as the process lives.
    ///
    /// # Errors
    ///
    /// [`NotAProtocol`] says what is wrong with the line.
    pub fn define(line: &str) -> Result<Self, NotAProtocol> {
        let (name, rest) = line.split_once('=').unwrap_or((line, ""));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(NotAProtocol::Name(name.to_owned()));
        }
        if Self::ALL.iter().any(|known| known.name.eq_ignore_ascii_case(name)) {
            return Err(NotAProtocol::Taken(name.to_owned()));
        }
        let mut parts = rest.split(',').map(str::trim);
        let base = parts.next().unwrap_or("");
        let mut settings = Self::named(&base.to_lowercase()).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|known| known.name).collect();
            NotAProtocol::Base(base.to_owned(), all.join(", "))
        })?;
        for change in parts {
            settings.change(change)?;
        }
        settings.name = Box::leak(name.to_owned().into_boxed_str());
        Ok(settings)
    }

    fn change(&mut self, change: &str) -> Result<(), NotAProtocol> {
        if let Some(sign) = change.chars().next().filter(|sign| "+-".contains(*sign)) {
            return self.step(sign, &change[1..]);
        }
        match change.split_once('=') {
            Some(("walkers", value)) => self.walkers = pick("walkers", value, &WALKERS)?,
            Some(("broadcast", value)) => self.broadcast = pick("broadcast", value, &BROADCASTS)?,
            Some(("ptl", value)) => self.lock_dies_at_once = pick("ptl", value, &LOCKS)?,
            Some(("tables", value)) => self.always_waits = pick("tables", value, &TABLES)?,
            _ => return Err(NotAProtocol::Change(change.to_owned())),
        }
        Ok(())
    }

    fn step(&mut self, sign: char, step: &str) -> Result<(), NotAProtocol> {
        let all = || Self::steps().collect::<Vec<_>>().join(", ");
        let lacks = self.lacks(step);
        let changed = if sign == '+' { self.with(step) } else { self.without(step) };
        let changed = changed.ok_or_else(|| NotAProtocol::Step(step.to_owned(), all()))?;
        if lacks != (sign == '+') {
            let has = if lacks { "lacks" } else { "has" };
            return Err(NotAProtocol::Idle(sign, step.to_owned(), has));
        }
        *self = changed;
        Ok(())
    }
}

fn pick<T: Copy>(key: &'static str, value: &str, from: &[(&str, T)]) -> Result<T, NotAProtocol> {
    let all = || from.iter().map(|&(name, _)| name).collect::<Vec<_>>().join(", ");
    let found = from.iter().find(|&&(name, _)| name == value);
    found.map(|&(_, of)| of).ok_or_else(|| NotAProtocol::Value { key, value: value.to_owned(), all: all() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_changes_what_it_names_and_nothing_else() {
        let mine = Settings::define("mine=rfc-ptl,walkers=vma,broadcast=last,+revalidate,-flush")
            .expect("a protocol");
        assert_eq!((mine.name, mine.walkers, mine.broadcast), ("mine", Walkers::Vma, Broadcast::Last));
        assert!(mine.has("revalidate") && !mine.has("flush") && !mine.lock_dies_at_once);
        let back = Settings { name: "rfc-ptl", walkers: Walkers::Rcu, broadcast: Broadcast::None, ..mine };
        assert_eq!(back.without("revalidate").and_then(|of| of.with("flush")), Some(Settings::RFC_PTL));
        let same = Settings::define("same=hugewalk").expect("a protocol");
        assert_eq!(Settings { name: "hugewalk", ..same }, Settings::HUGEWALK);
        let all = "x=sync-rcu,ptl=with-table,tables=machine,broadcast=implied,walkers=mmap";
        let all = Settings::define(all).expect("a protocol");
        assert_eq!((all.lock_dies_at_once, all.always_waits), (false, false));
    }

    #[test]
    fn what_is_wrong_is_named_and_what_would_be_right() {
        for (line, said) in [
            ("=rfc", "`` is no name"),
            ("my protocol=rfc", "`my protocol` is no name"),
            ("rfc=rfc-ptl", "rfc is a protocol already"),
            ("mine", "it begins with ``, which is no protocol; begin with one of legacy, rfc, "),
            ("mine=rcf", "it begins with `rcf`"),
            ("mine=rfc,lock=vma", "`lock=vma` is nothing that can be changed"),
            ("mine=rfc,", "`` is nothing that can be changed"),
            ("mine=rfc,walkers=none", "walkers=none: there are mmap, rcu, vma"),
            ("mine=rfc,broadcast=all", "broadcast=all: there are none, each, last"),
            ("mine=rfc,+revalidat", "no step is called `revalidat`; there are rcu-free, "),
            ("mine=rfc,+flush", "+flush changes nothing: the protocol has that step"),
            ("mine=rfc,-revalidate", "-revalidate changes nothing: the protocol lacks that step"),
        ] {
            let error = Settings::define(line).expect_err(line).to_string();
            assert!(error.starts_with(said), "{line}: {error}");
        }
    }
}
