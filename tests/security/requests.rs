//! Requests that no command of ours wrote.

use std::time::Duration;

use test_support::{capture, capture_within};

use crate::ground::{busybox, text_of};
use crate::starter::{ground, handed_over, path, request};

const WITHIN: Duration = Duration::from_secs(20);
const HINT: &str = "hint: the starter is for the singularity command of the same installation\n";

#[test]
fn a_recorded_request_is_what_the_starter_takes() {
    let ground = ground();
    let words = ["exec", text_of(busybox()), "sh", "-c", "echo in; id -u"];
    let bytes = request(ground.user(), &words);
    let expected = format!("in\n{}\n", ground.user().uid());
    for how in ["sealed", "pipe"] {
        // Twice: a request is not used up, and gives nobody but its user anything.
        for _ in 0..2 {
            let mut starter = handed_over(ground.user(), how);
            let output = capture_within(WITHIN, &mut starter, &bytes);
            output.succeeded().quietly().wrote(&expected);
        }
    }
}

#[test]
fn a_request_of_another_user_makes_nobody_that_user() {
    let ground = ground();
    let other = test_support::User::ordinary();
    let words = ["exec", text_of(busybox()), "id", "-u"];
    let bytes = request(&other, &words);
    let mut starter = handed_over(ground.user(), "sealed");
    let output = capture_within(WITHIN, &mut starter, &bytes);
    // The other's home and working directory are not this user's to see or miss.
    output
        .succeeded()
        .wrote(&format!("{}\n", ground.user().uid()));
}

#[test]
fn a_request_that_could_still_be_changed_is_refused() {
    let ground = ground();
    let bytes = request(ground.user(), &["exec", text_of(busybox()), "true"]);
    for (how, cause) in [
        ("unsealed", "it is not in a sealed memory file"),
        ("half-sealed", "it is not in a sealed memory file"),
        ("file", "it is not in a sealed memory file"),
        ("directory", "it is not in a sealed memory file"),
        ("open-pipe", "it is not all there"),
    ] {
        let mut starter = handed_over(ground.user(), how);
        let output = capture_within(WITHIN, &mut starter, &bytes);
        output
            .exited_with(255)
            .wrote("")
            .complained(&format!("singularity: read the request: {cause}\n{HINT}"));
    }
}

#[test]
fn a_request_cut_short_anywhere_is_refused() {
    let ground = ground();
    let bytes = request(ground.user(), &["exec", text_of(busybox()), "true"]);
    let step = bytes.len() / 40 + 1;
    for length in (0..bytes.len()).step_by(step) {
        let mut starter = handed_over(ground.user(), "sealed");
        let output = capture_within(WITHIN, &mut starter, &bytes[..length]);
        output.exited_with(255).wrote("");
        assert!(
            output
                .stderr()
                .starts_with("singularity: read the request: "),
            "{length}: {output}"
        );
    }
}

#[test]
fn a_request_with_any_byte_changed_gives_nothing_away() {
    let ground = ground();
    let text = "id -u; id -g; cat /etc/shadow";
    let bytes = request(
        ground.user(),
        &["exec", text_of(busybox()), "sh", "-c", text],
    );
    let mut numbers = 0x1234_5678_9abc_def1_u64;
    for _ in 0..60 {
        let mut changed = bytes.clone();
        for _ in 0..3 {
            numbers ^= numbers << 13;
            numbers ^= numbers >> 7;
            numbers ^= numbers << 17;
            let index = numbers as usize % changed.len();
            changed[index] = (numbers >> 32) as u8;
        }
        let mut starter = handed_over(ground.user(), "sealed");
        let output = capture_within(WITHIN, &mut starter, &changed);
        assert!(!output.stdout().contains("root:"), "{output}");
        assert!(!output.stdout().lines().any(|line| line == "0"), "{output}");
    }
}

#[test]
fn a_request_with_an_unknown_field_or_one_twice_is_refused() {
    let ground = ground();
    let bytes = request(ground.user(), &["exec", text_of(busybox()), "true"]);
    for (extra, cause) in [
        (&[200_u8, 0, 0, 0, 0][..], "it has an unknown field"),
        (&[14, 1, 0, 0, 0, 4], "it has a field twice"),
        (&[201, 255, 255, 255, 255], "it has an unknown field"),
        (&[14], "it is cut short"),
    ] {
        let longer = [&bytes[..], extra].concat();
        let mut starter = handed_over(ground.user(), "sealed");
        let output = capture_within(WITHIN, &mut starter, &longer);
        output
            .exited_with(255)
            .wrote("")
            .complained(&format!("singularity: read the request: {cause}\n{HINT}"));
    }
}

#[test]
fn a_request_that_is_huge_is_refused_before_it_is_read() {
    let ground = ground();
    let bytes = vec![0; 17 << 20];
    let mut starter = handed_over(ground.user(), "sealed");
    let output = capture_within(WITHIN, &mut starter, &bytes);
    output.exited_with(255).complained(&format!(
        "singularity: read the request: it is too large\n{HINT}"
    ));
}

#[test]
fn arguments_that_are_no_descriptor_of_a_request_are_refused() {
    let ground = ground();
    let starter = path();
    for words in [
        &[][..],
        &["0"],
        &["1"],
        &["2"],
        &["-1"],
        &["7"],
        &["99999999999999999999"],
        &["3", "4"],
        &[""],
        &["--help"],
        &["/etc/shadow"],
    ] {
        let mut command = ground.user().command(&starter);
        command.args(words);
        capture(&mut command).exited_with(255).wrote("").complained(
            "singularity: start: there is no request\n\
             hint: the singularity command calls the starter; people do not\n",
        );
    }
}
