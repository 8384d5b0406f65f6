//! The arguments of a call as numbers, flag words, paths and descriptors; one that cannot be read is an error that names
//! the call and the place.

use super::call::Descriptor;
use super::error::Problem;
use super::flags::FlagWord;
use super::syntax;

/// The arguments of one call, read by place.
pub(crate) struct Arguments<'a> {
    pub(crate) call: &'static str,
    pub(crate) list: &'a [&'a str],
}

impl<'a> Arguments<'a> {
    pub(crate) fn text(&self, index: usize, what: &'static str) -> Result<&'a str, Problem> {
        self.list.get(index).copied().ok_or(Problem::MissingArgument {
            call: self.call,
            number: index + 1,
            what,
        })
    }

    pub(crate) fn bad(&self, index: usize, what: &'static str, text: &str) -> Problem {
        Problem::Argument { call: self.call, number: index + 1, what, text: text.to_owned() }
    }

    pub(crate) fn number(&self, index: usize, what: &'static str) -> Result<u64, Problem> {
        let text = self.text(index, what)?;
        syntax::number(text, |_| None).ok_or_else(|| self.bad(index, what, text))
    }

    /// A number of which some values have names (`IPC_PRIVATE`), all of them meaning zero here.
    pub(crate) fn number_or_name(&self, index: usize, what: &'static str) -> Result<u64, Problem> {
        let text = self.text(index, what)?;
        syntax::number(text, |_| Some(0)).ok_or_else(|| self.bad(index, what, text))
    }

    /// A command, of which `names` gives the number; none if it is another, or missing.
    pub(crate) fn command(&self, index: usize, names: impl Fn(&str) -> Option<u64> + Copy) -> Option<u64> {
        syntax::number(self.list.get(index)?, names)
    }

    pub(crate) fn small(&self, index: usize, what: &'static str) -> Result<u32, Problem> {
        u32::try_from(self.number(index, what)?).map_err(|_| self.bad(index, what, self.list[index]))
    }

    pub(crate) fn flags<F: FlagWord>(&self, index: usize, what: &'static str) -> Result<F, Problem> {
        let text = self.text(index, what)?;
        self.flags_in(index, what, text)
    }

    pub(crate) fn flags_in<F: FlagWord>(
        &self,
        index: usize,
        what: &'static str,
        text: &str,
    ) -> Result<F, Problem> {
        syntax::number(text, |name| Some(F::by_name(name)))
            .map(F::from_word)
            .ok_or_else(|| self.bad(index, what, text))
    }

    /// Flags in a field of a structure, as `clone3` and `openat2` have them.
    pub(crate) fn field_flags<F: FlagWord>(&self, index: usize, name: &'static str) -> Result<F, Problem> {
        let structure = self.text(index, name)?;
        let text = syntax::field(structure, name).ok_or_else(|| self.bad(index, name, structure))?;
        self.flags_in(index, name, text)
    }

    /// Flags printed as `flags=...`, as `clone` has them, whose arguments differ in order between architectures.
    pub(crate) fn named_flags<F: FlagWord>(&self, name: &'static str) -> Result<F, Problem> {
        let found =
            self.list.iter().enumerate().find_map(|(index, text)| Some((index, syntax::named(text, name)?)));
        let (index, text) =
            found.ok_or(Problem::MissingArgument { call: self.call, number: 2, what: name })?;
        self.flags_in(index, name, text)
    }

    pub(crate) fn path(&self, index: usize) -> Result<Box<str>, Problem> {
        let text = self.text(index, "path")?;
        // A bad address is printed as a number; the call fails, so that the path does not matter.
        let unreadable = || syntax::number(text, |_| None).map(|_| String::new());
        syntax::string(text)
            .or_else(unreadable)
            .map(String::into_boxed_str)
            .ok_or_else(|| self.bad(index, "path", text))
    }

    pub(crate) fn fd(&self, index: usize) -> Result<Descriptor, Problem> {
        self.fd_in(index, self.text(index, "descriptor")?)
    }

    /// A descriptor, in this text of an argument.
    pub(crate) fn fd_in(&self, index: usize, text: &str) -> Result<Descriptor, Problem> {
        const AT_FDCWD: i64 = -100;
        let named = |name: &str| (name == "AT_FDCWD").then_some(AT_FDCWD.cast_unsigned());
        let value = syntax::number(text, named).ok_or_else(|| self.bad(index, "descriptor", text))?;
        // Descriptors are 32 bits wide: -1 may be printed as 4294967295.
        let number = i32::try_from(value.cast_signed())
            .or_else(|_| u32::try_from(value).map(u32::cast_signed))
            .map_err(|_| self.bad(index, "descriptor", text))?;
        let (path, deleted) = syntax::descriptor_path(text).unzip();
        Ok(Descriptor { number, path: path.map(Box::from), deleted: deleted == Some(true) })
    }
}
