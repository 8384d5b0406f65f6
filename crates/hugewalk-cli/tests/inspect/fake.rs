//! A `/proc` and a `/sys` in a directory, with files as the kernel writes them.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

pub(crate) struct Fake(TempDir);

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self(TempDir::new().expect("a directory"));
        fs::create_dir(fake.0.path().join("proc")).expect("made");
        let meminfo = "MemTotal: 1000 kB\nPageTables: 4321 kB\nHugepagesize: 2048 kB\n";
        fs::write(fake.0.path().join("proc/meminfo"), meminfo).expect("written");
        fake
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("text")
    }

    /// A file of a process.
    pub(crate) fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.0.path().join("proc").join(pid.to_string()).join(name)
    }

    /// A pool: total, free, reserved, surplus and overcommit.
    pub(crate) fn pool(&mut self, page_kb: u64, pages: [u64; 5]) {
        let directory = self.0.path().join(format!("sys/kernel/mm/hugepages/hugepages-{page_kb}kB"));
        fs::create_dir_all(&directory).expect("made");
        let names = [
            "nr_hugepages",
            "free_hugepages",
            "resv_hugepages",
            "surplus_hugepages",
            "nr_overcommit_hugepages",
        ];
        for (name, pages) in names.into_iter().zip(pages) {
            fs::write(directory.join(name), format!("{pages}\n")).expect("written");
        }
    }

    pub(crate) fn process(&mut self, pid: u32, command: &str) -> Process<'_> {
        let mut process = Process {
            fake: self,
            pid,
            command: command.to_owned(),
            name: "/anon_hugepage (deleted)".to_owned(),
            maps: String::new(),
            smaps: String::new(),
            present: Vec::new(),
            flags: String::new(),
            faulted_kb: 12288,
        };
        process.lines(
            "55b308333000-55b308334000 r-xp 00000000 fe:00 18504    /usr/bin/x",
            4,
            0,
            "rd ex mr mw me",
        );
        process
    }
}

/// A process that is being written down.
pub(crate) struct Process<'a> {
    fake: &'a mut Fake,
    pid: u32,
    command: String,
    name: String,
    maps: String,
    smaps: String,
    present: Vec<u64>,
    flags: String,
    faulted_kb: u64,
}

impl Process<'_> {
    /// The name of the files that are mapped from here on.
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Flags that the mappings from here on have besides the usual ones.
    pub(crate) fn flags(mut self, more: &str) -> Self {
        more.clone_into(&mut self.flags);
        self
    }

    /// What it has faulted in for itself.
    pub(crate) fn faulted(mut self, kb: u64) -> Self {
        self.faulted_kb = kb;
        self
    }

    /// A shared mapping of file 77.
    pub(crate) fn shared(mut self, start: u64, bytes: u64, resident_kb: u64) -> Self {
        let header = format!("{start:x}-{:x} rw-s 00000000 00:11 77    {}", start + bytes, self.name);
        let flags = format!("rd wr sh mr mw me ms de ht {}", self.flags);
        self.lines(&header, 2048, resident_kb, &flags);
        self
    }

    /// Whatever `pagemap` is not told of is not there.
    pub(crate) fn present(mut self, address: u64) -> Self {
        self.present.push(address);
        self
    }

    fn lines(&mut self, header: &str, page_kb: u64, resident_kb: u64, flags: &str) {
        writeln!(self.maps, "{header}").expect("written");
        writeln!(
            self.smaps,
            "{header}\nSize: 4 kB\nKernelPageSize: {page_kb} kB\nShared_Hugetlb: 0 kB\n\
             Private_Hugetlb: {resident_kb} kB\nTHPeligible:           0\nVmFlags: {flags} "
        )
        .expect("written");
    }

    pub(crate) fn done(self) {
        let Self { fake, pid, command, maps, smaps, present, faulted_kb, .. } = self;
        fs::create_dir_all(fake.file(pid, "")).expect("made");
        let status = format!(
            "Name:\t{command}\nTgid:\t{pid}\nVmPTE:\t     68 kB\nHugetlbPages:\t   {faulted_kb} kB\n"
        );
        for (name, text) in [("status", status), ("maps", maps), ("smaps", smaps)] {
            fs::write(fake.file(pid, name), text).expect("written");
        }
        if !present.is_empty() {
            let pagemap = fs::File::create(fake.file(pid, "pagemap")).expect("made");
            // With holes: nothing is there.
            pagemap.set_len((1 << 40) >> 12 << 3).expect("long enough");
            for address in present {
                pagemap.write_all_at(&(1u64 << 63).to_ne_bytes(), address >> 12 << 3).expect("written");
            }
        }
    }
}
