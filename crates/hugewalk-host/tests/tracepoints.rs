//! The tracepoints that a program passes, with their fields, in order.

use std::thread;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::MapRequest;
use hugewalk::platform::Event;
use hugewalk::uffd::{CopyMode, Features, Modes, Userfault};
use hugewalk::{AddressSpace, Arc, Hugetlb};
use hugewalk_host::{Host, HostConfig, Tracing};

const SIZE: HugeSize = X86_64::SIZE_2M;
const M2: u64 = SIZE.bytes();
const START: VirtAddr = VirtAddr::new(4 << 30);

fn at(page: u64) -> VirtAddr {
    START.checked_add(page * M2).unwrap()
}

fn system(tracing: Tracing) -> Arc<Hugetlb<Host>> {
    let host = Host::new(&HostConfig::new().huge_bytes(1 << 30).tracing(tracing)).unwrap();
    let hugetlb = Hugetlb::new(host).unwrap();
    hugetlb.resize_pool(SIZE, 8);
    hugetlb
}

/// Events since the last look, without those of tables.
fn told(hugetlb: &Hugetlb<Host>) -> Vec<Event> {
    let mut events = hugetlb.platform().take_events();
    events.retain(|event| !event.is_of_tables());
    events
}

#[test]
fn each_operation_tells_of_itself() {
    let hugetlb = system(Tracing::RecordAll);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, SIZE, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let mm = space.mm().id();
    assert_eq!(told(&hugetlb), []);

    space.mmap(&mut task, &MapRequest::file(&file, 0, 4 * M2).shared().at(START)).unwrap();
    assert_eq!(told(&hugetlb), [Event::Reserved { size: SIZE, pages: 4 }]);

    space.fault(&mut task, at(1), Access::Write).unwrap();
    space.fault(&mut task, at(1), Access::Read).unwrap();
    space.fault(&mut task, at(9), Access::Read).unwrap_err();
    let fault = |page, write, resolved| Event::Faulted { mm, address: at(page), write, resolved };
    assert_eq!(told(&hugetlb), [fault(1, true, true), fault(1, false, true), fault(9, false, false)]);

    let from = space.follow_page(&task, at(1), GupFlags::empty()).unwrap().expect("a page").frame();
    let to = hugetlb.migrate(&mut task, from).unwrap();
    assert_eq!(told(&hugetlb), [Event::Migrated { from, to: Some(to) }]);
    let pin = space.pin_page_fast(&task, at(1), GupFlags::PIN);
    assert!(pin.is_some());
    hugetlb.migrate(&mut task, to).unwrap_err();
    assert_eq!(told(&hugetlb), [Event::Migrated { from: to, to: None }]);
    drop(pin);

    let uffd = Userfault::new(&space, Features::empty()).unwrap();
    uffd.register(&mut task, START, 4 * M2, Modes::MISSING).unwrap();
    thread::scope(|scope| {
        let (hugetlb, space) = (&hugetlb, &space);
        let waits = scope.spawn(move || {
            let mut task = hugewalk_host::task(hugetlb).unwrap();
            space.fault(&mut task, at(2), Access::Read).unwrap();
        });
        uffd.read_event(&mut task).unwrap();
        uffd.copy(&mut task, at(2), &vec![1; M2 as usize], CopyMode::empty()).unwrap();
        waits.join().unwrap();
    });
    let address = at(2);
    let events = told(&hugetlb);
    assert_eq!(
        events,
        [
            Event::HandlerAsked { mm, address },
            Event::HandlerFilled { mm, address, length: M2 },
            Event::HandlerAnswered { mm, address },
            fault(2, false, true),
        ]
    );

    uffd.copy(&mut task, at(2), &vec![1; M2 as usize], CopyMode::empty()).unwrap_err();
    assert_eq!(told(&hugetlb), [], "nothing was filled");

    drop(uffd);
    space.exit(&mut task).unwrap();
    file.truncate(&mut task, 0).unwrap();
    let events = told(&hugetlb);
    assert!(events.contains(&Event::Unreserved { size: SIZE, pages: 2 }), "{events:?}");
}

#[test]
fn a_host_that_records_tables_keeps_nothing_else() {
    let hugetlb = system(Tracing::Record);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, SIZE, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    space.mmap(&mut task, &MapRequest::file(&file, 0, 4 * M2).shared().at(START)).unwrap();
    space.fault(&mut task, START, Access::Write).unwrap();
    space.exit(&mut task).unwrap();
    let events = hugetlb.platform().take_events();
    assert!(!events.is_empty() && events.iter().all(Event::is_of_tables), "{events:?}");
}
