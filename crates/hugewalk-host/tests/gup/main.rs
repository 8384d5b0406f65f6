//! get_user_pages on the whole engine: what a pin keeps, what it refuses, and that no page is ever somebody else's.

mod copying;
mod failing;
mod fast;
mod keeps;
mod memory;
mod ranges;
mod setup;
mod threads;
mod transfer;
