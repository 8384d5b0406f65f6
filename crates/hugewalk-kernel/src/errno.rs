//! Error numbers, as programs get them.

use linux_raw_sys::errno;

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

/// What a system call, or a part of it, comes to.
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! numbers {
    ($($name:ident)*) => {
        #[allow(missing_docs, dead_code, reason = "the names and the numbers are Linux's, whether or not they are used yet")]
        impl Errno {
            $(pub const $name: Self = Self(errno::$name);)*
        }

        const NAMES: &[(Errno, &str)] = &[$((Errno::$name, stringify!($name))),*];
    };
}
numbers!(EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV
    ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG
    ENOSYS ENOTEMPTY ELOOP EIDRM EOVERFLOW EOPNOTSUPP ETIMEDOUT ECANCELED EHWPOISON);

impl Errno {
    /// Its name.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|known| known.0 == self).map(|known| known.1)
    }

    /// What a system call returns for it.
    pub const fn as_result(self) -> u64 {
        (self.0 as u64).wrapping_neg()
    }
}

impl From<hugewalk::error::Errno> for Errno {
    fn from(error: hugewalk::error::Errno) -> Self {
        use hugewalk::error::Errno as Engine;
        match error {
            Engine::EPERM => Self::EPERM,
            Engine::ENOENT => Self::ENOENT,
            Engine::ESRCH => Self::ESRCH,
            Engine::ENXIO => Self::ENXIO,
            Engine::EAGAIN => Self::EAGAIN,
            Engine::ENOMEM => Self::ENOMEM,
            Engine::EFAULT => Self::EFAULT,
            Engine::EBUSY => Self::EBUSY,
            Engine::EEXIST => Self::EEXIST,
            Engine::ENOSPC => Self::ENOSPC,
            Engine::EFBIG => Self::EFBIG,
            Engine::EACCES => Self::EACCES,
            Engine::EOVERFLOW => Self::EOVERFLOW,
            Engine::EOPNOTSUPP => Self::EOPNOTSUPP,
            Engine::EIO => Self::EIO,
            Engine::EHWPOISON => Self::EHWPOISON,
            _ => Self::EINVAL,
        }
    }
}

impl From<hugewalk::mm::MapError> for Errno {
    fn from(error: hugewalk::mm::MapError) -> Self {
        error.errno().into()
    }
}

impl From<hugewalk::file::FileError> for Errno {
    fn from(error: hugewalk::file::FileError) -> Self {
        error.errno().into()
    }
}

impl From<hugewalk::error::OutOfMemory> for Errno {
    fn from(_: hugewalk::error::OutOfMemory) -> Self {
        Self::ENOMEM
    }
}
