//! Programs in the making.

/// A program in the making: its threads, and what is done when they have ended.
pub struct Setup {
    pub(super) threads: Vec<(String, Box<dyn FnOnce()>)>,
    pub(super) finally: Vec<Box<dyn FnOnce(bool)>>,
}

impl Setup {
    /// Adds a thread.
    pub fn thread(&mut self, name: impl Into<String>, body: impl FnOnce() + 'static) {
        self.threads.push((name.into(), Box::new(body)));
    }

    /// Adds what is done when all threads have ended. It is told whether the run counts: one that was given up half way
    /// may end in any state.
    pub fn finally(&mut self, work: impl FnOnce(bool) + 'static) {
        self.finally.push(Box::new(work));
    }
}
