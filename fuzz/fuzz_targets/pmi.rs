//! What programs, launchers and helpers of other nodes send the bridge.
//!
//! The first byte says what the rest is for, the second where it is cut in two.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmi_shim::client::{Client, Wire};
use pmi_shim::core::{hosts_in, AppEvent, Job, Layout, Store};
use pmi_shim::server::Server;
use pmi_shim::{munge, names, net, seat};

fn server() -> Server {
    let layout = Layout::of_nodes(&[0, 0, 1]).expect("three ranks are a layout");
    Server::new(Job {
        name: "job".into(),
        local: layout.ranks_on(0).to_vec(),
        layout,
        hosts: Vec::new(),
    })
}

/// A program sends it: whatever it is, the server lives, and what it answers is
/// bounded by what it was sent.
fn as_program(one: &[u8], other: &[u8]) {
    let mut server = server();
    let pmi2 = b"cmd=init pmi_version=2 pmi_subversion=0\n";
    for (rank, begin) in [(0, &b""[..]), (1, &pmi2[..])] {
        for bytes in [begin, one, other] {
            for event in server.received(rank, bytes) {
                if let AppEvent::Gather(blob) = event {
                    server.gathered(&[blob]).expect("our own blob is good");
                }
            }
        }
        let _ = server.output(rank);
    }
}

/// A launcher sends it.
fn as_launcher(one: &[u8], other: &[u8]) {
    for wire in [Wire::One, Wire::Two] {
        let mut client = Client::new(wire, 3);
        let link = client.join(0, None);
        for bytes in [one, other] {
            let _ = client.received(link, bytes);
        }
        let _ = client.gather(other.to_vec());
        let _ = client.received(link, one);
        let _ = client.closed(link);
    }
}

/// Another node sends it, or munged, or a name server.
fn as_network(bytes: &[u8]) {
    if let Ok(message) = net::Message::decode(bytes) {
        assert_eq!(net::Message::decode(&message.encode()), Ok(message));
    }
    let _ = net::body(bytes, net::LONGEST_UNKNOWN);
    let _ = munge::encoded(bytes);
    let _ = munge::decoded(bytes);
    let _ = names::answer(0, bytes);
    let _ = names::in_hosts(bytes, "c1");
    let _ = names::Resolvers::of(bytes);
    let _ = Store::default().learn(bytes);
}

/// A rank's launcher sends it, or it stands in the environment.
fn as_neighbour(bytes: &[u8]) {
    if let Ok(Some((message, length))) = seat::Message::decode(bytes) {
        let again = seat::Message::decode(&message.encode());
        assert_eq!(again, Ok(Some((message, length))));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = hosts_in(text);
        for layout in [
            Layout::from_process_mapping(text, 64),
            Layout::from_tasks_per_node(text),
        ]
        .into_iter()
        .flatten()
        {
            let mapping = layout.to_process_mapping();
            let again = Layout::from_process_mapping(&mapping, layout.size());
            assert_eq!(again, Ok(layout));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, cut, rest @ ..] = data else { return };
    let (one, other) = rest.split_at(usize::from(*cut).min(rest.len()));
    match kind % 4 {
        0 => as_program(one, other),
        1 => as_launcher(one, other),
        2 => as_network(rest),
        _ => as_neighbour(rest),
    }
});
