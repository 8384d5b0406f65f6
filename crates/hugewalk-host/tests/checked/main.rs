//! The checking wrapper: finds nothing in this crate's own host, and each fault of platforms that have one.

mod broken;
mod faults;
mod misuse;

use hugewalk_host::{Host, HostConfig};

mod host {
    hugewalk_host::platform_tests!(super::host, loads);
}

mod host_without_contents {
    use hugewalk_host::{Contents, Host};
    hugewalk_host::platform_tests!(|| {
        Host::new(&super::config().contents(Contents::Nothing).membarrier(false)).unwrap()
    });
}

fn config() -> HostConfig {
    HostConfig::new().huge_bytes(1200 << 21).max_tables(64)
}

fn host() -> Host {
    Host::new(&config()).unwrap()
}
