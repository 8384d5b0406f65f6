//! Messages between processes that carry descriptors (`SCM_RIGHTS`).

use super::arguments::Arguments;
use super::call::{Call, Descriptor, Outcome};
use super::error::Problem;
use super::strace::{Action, Event};
use super::syntax::{self, RawCall};
use super::time::Time;

/// Reads a call that sends or receives messages; none if no descriptor comes along.
pub(super) fn decode(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let sends = raw.name.starts_with("send");
    let call = if sends { "sendmsg" } else { "recvmsg" };
    let arguments = Arguments { call, list: &raw.arguments };
    let text = arguments.text(1, "message")?;
    let headers: Vec<&str> = if text.starts_with('[') {
        let elements = syntax::elements(text).unwrap_or_default();
        elements.into_iter().filter_map(|element| syntax::field(element, "msg_hdr")).collect()
    } else {
        vec![text]
    };
    let mut messages = Vec::new();
    for header in headers {
        let rights = rights(&arguments, header)?;
        if !rights.is_empty() {
            messages.push(rights);
        }
    }
    if messages.is_empty() {
        return Ok(None);
    }
    let socket = arguments.fd(0)?;
    Ok(Some(if sends {
        Call::Send { socket, sent: messages }
    } else {
        let flags = raw.arguments.last().copied().unwrap_or_default();
        const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
        let named = |name: &str| Some(if name == "MSG_CMSG_CLOEXEC" { MSG_CMSG_CLOEXEC } else { 0 });
        let cloexec = [text, flags].iter().any(|text| text.contains("MSG_CMSG_CLOEXEC"))
            || syntax::number(flags, named).is_some_and(|flags| flags & MSG_CMSG_CLOEXEC != 0);
        Call::Receive { socket, received: messages, cloexec }
    }))
}

/// A call that receives is printed when it is entered, which may be before the message was sent: the files of `-ff` show
/// no interruption. Such a call is put behind the one that sent what it received.
pub(super) fn put_behind_sends(events: &mut [Event]) {
    let mut flying: Vec<usize> = Vec::new();
    let mut early: Vec<(usize, usize)> = Vec::new();
    let mut moves: Vec<(usize, Time)> = Vec::new();
    for (place, event) in events.iter().enumerate() {
        match &event.action {
            Action::Call(Call::Send { sent, .. }, Outcome::Returned(_)) => {
                for count in sent.iter().map(Vec::len) {
                    // Somebody waits for it already, and has done nothing else since.
                    let waits = |(at, wanted): &(usize, usize)| {
                        let tid = events[*at].tid;
                        *wanted == count && !events[*at + 1..place].iter().any(|event| event.tid == tid)
                    };
                    match early.iter().position(waits) {
                        Some(found) => moves.push((early.remove(found).0, event.time + Time(1))),
                        None => flying.push(count),
                    }
                }
            }
            Action::Call(Call::Receive { received, .. }, Outcome::Returned(_)) => {
                for count in received.iter().map(Vec::len) {
                    match flying.iter().position(|sent| *sent == count) {
                        Some(found) => {
                            flying.remove(found);
                        }
                        None => early.push((place, count)),
                    }
                }
            }
            _ => {}
        }
    }
    if !moves.is_empty() {
        for (place, time) in moves {
            events[place].time = time;
        }
        events.sort_by_key(|event| (event.time, event.line));
    }
}

/// The descriptors that a message carries.
fn rights(arguments: &Arguments<'_>, header: &str) -> Result<Vec<Descriptor>, Problem> {
    let control = syntax::field(header, "msg_control").unwrap_or_default();
    let mut descriptors = Vec::new();
    for element in syntax::elements(control).unwrap_or_default() {
        const SCM_RIGHTS: u64 = 1;
        const SOL_SOCKET: u64 = 1;
        let value = |name: &str| {
            let named = |name: &str| matches!(name, "SOL_SOCKET" | "SCM_RIGHTS").then_some(1);
            syntax::number(syntax::field(element, name)?, named)
        };
        if value("cmsg_level") != Some(SOL_SOCKET) || value("cmsg_type") != Some(SCM_RIGHTS) {
            continue;
        }
        let data = syntax::field(element, "cmsg_data").unwrap_or_default();
        for descriptor in syntax::elements(data).unwrap_or_default() {
            if !descriptor.starts_with("...") {
                descriptors.push(arguments.fd_in(1, descriptor)?);
            }
        }
    }
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Option<Call> {
        decode(&RawCall::parse(text).expect("a call")).expect("readable")
    }

    #[test]
    fn descriptors_are_found_in_messages() {
        let header = |data: &str| {
            format!(
                "{{msg_name=NULL, msg_namelen=0, msg_iov=[{{iov_base=\"h\", iov_len=1}}], msg_iovlen=1, \
                 msg_control=[{{cmsg_len=20, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[{data}]}}], \
                 msg_controllen=24, msg_flags=0}}"
            )
        };
        let numbers = |messages: Vec<Vec<Descriptor>>| -> Vec<Vec<i32>> {
            messages.iter().map(|message| message.iter().map(|fd| fd.number).collect()).collect()
        };
        let one = header("5</memfd:guest-ram>(deleted), 6");
        match call(&format!("sendmsg(3<socket:[1]>, {one}, 0) = 1")) {
            Some(Call::Send { sent, .. }) => {
                assert_eq!(sent[0][0].path.as_deref(), Some("/memfd:guest-ram"));
                assert_eq!(numbers(sent), [[5, 6]]);
            }
            other => panic!("{other:?}"),
        }
        let two = format!("[{{msg_hdr={one}, msg_len=1}}, {{msg_hdr={}, msg_len=1}}]", header("7"));
        match call(&format!("recvmmsg(3, {two}, 2, MSG_CMSG_CLOEXEC, NULL) = 2")) {
            Some(Call::Receive { received, .. }) => assert_eq!(numbers(received), [vec![5, 6], vec![7]]),
            other => panic!("{other:?}"),
        }
        assert_eq!(call("sendmsg(3, {msg_name=NULL, msg_controllen=0, msg_flags=0}, 0) = 1"), None);
    }
}
