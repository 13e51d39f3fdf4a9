//! What the site says in plugstack.conf.

use test_support::Form;

use crate::ground::{debian, image_option, small, small_file, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    ("a_default_image_is_used_and_can_be_left_out", default_image),
    ("images_elsewhere_or_of_others_are_refused", allowed),
    ("binds_of_the_site_are_in_every_image", binds),
    (
        "a_wrong_argument_is_told_to_those_who_ask_for_an_image",
        wrong_argument,
    ),
    ("no_panic_leaves_the_plugin", panics),
    (
        "an_optional_plugin_does_not_run_programs_on_the_host",
        optional,
    ),
];

fn default_image(ground: &Ground) {
    let name = ["sh", "-c", "echo $SINGULARITY_NAME"];
    ground.configure(&format!("image={}", small().display()));
    ground.srun(&name).succeeded().quietly().wrote("busybox\n");
    ground
        .srun(&["--no-singularity", "sh", "-c", "echo $SINGULARITY_NAME"])
        .wrote("\n");
    ground.srun_in(&debian(), &name).wrote("openmpi-bookworm\n");
    let words = [
        "--singularity-env=A=1",
        "sh",
        "-c",
        "echo $SINGULARITY_NAME$A",
    ];
    ground.srun(&words).quietly().wrote("busybox1\n");
    ground.configure(&format!(
        "image=/none partition-image=other:/none partition-image=all:{}",
        small().display()
    ));
    ground.srun(&name).succeeded().quietly().wrote("busybox\n");
}

fn allowed(ground: &Ground) {
    let store = test_support::store();
    ground.configure(&format!(
        "allow-directory={} allow-owner=root",
        store.display()
    ));
    ground.srun_in(&small(), &["true"]).succeeded().quietly();
    let own = ground.user.work().join("image");
    std::fs::copy(small_file(Form::SquashfsLz4), &own).expect("home can be written to");
    let link = ground.user.work().join("link");
    let _ = std::os::unix::fs::symlink(small(), &link);
    ground.srun_in(&link, &["true"]).succeeded();
    let rule = format!(
        "this site does not allow images there (hint: images must be in {})",
        store.display()
    );
    let output = ground.srun_in(&own, &["true"]);
    assert!(output.exited_with(1).stderr().contains(&rule), "{output}");
    ground.user.give(&own);
    let check = |arguments: &str, words: &str| {
        // The nodes say the same, whatever the client says.
        ground.configure(&format!("{arguments} check-image=node"));
        let output = ground.srun_in(&own, &["true"]);
        assert!(output.exited_with(255).stderr().contains(words), "{output}");
        ground.configure(arguments);
        let output = ground.srun_in(&own, &["true"]);
        assert!(output.exited_with(1).stderr().contains(words), "{output}");
    };
    check(
        &format!("allow-directory={}", store.display()),
        "does not allow images there",
    );
    check(
        "allow-owner=root",
        &format!("does not allow images owned by user {}", ground.user.uid()),
    );
    ground.configure("allow-owner=self");
    ground.srun_in(&own, &["true"]).succeeded();
}

fn binds(ground: &Ground) {
    ground.configure("bind=/etc/slurm:/site/a:ro,/usr/share:/site/b");
    ground
        .srun_in(&small(), &["ls", "/site"])
        .succeeded()
        .quietly()
        .wrote("a\nb\n");
}

fn wrong_argument(ground: &Ground) {
    ground.configure("colour=red");
    ground.srun(&["true"]).succeeded().quietly();
    let (_, output) = ground.batch(&[], "srun true\n");
    output.succeeded().quietly();
    let file = ground
        .cluster
        .configuration_file()
        .with_file_name("plugstack.conf");
    let expected = format!(
        "srun: error: singularity: {}, line 1: argument colour=red of singularity.so: unknown key (hint: one of image, ",
        file.display()
    );
    let output = ground.srun_in(&small(), &["true"]);
    output.exited_with(1);
    assert!(output.stderr().starts_with(&expected), "{output}");
    assert_eq!(output.stderr().lines().count(), 1, "{output}");
}

fn panics(ground: &Ground) {
    let image = image_option(&small());
    for hook in ["init", "option", "init_post_opt"] {
        ground.configure(&format!("test-panic={hook}"));
        let output = ground.srun(&[&image, "true"]);
        output.exited_with(1);
        let expected = format!(
            "srun: error: singularity: internal error in {hook}: as test-panic={hook} asks"
        );
        assert!(output.stderr().starts_with(&expected), "{output}");
        assert_eq!(output.stderr().lines().count(), 1, "{output}");
    }
    for hook in ["user_init", "task_init_privileged", "task_init"] {
        ground.configure(&format!("test-panic={hook}"));
        let output = ground.srun(&["-N2", "-n2", &image, "true"]);
        output.exited_with(255);
        let expected =
            format!("error: singularity: internal error in {hook}: as test-panic={hook} asks");
        assert_eq!(output.stderr().matches(&expected).count(), 2, "{output}");
        let (text, _) = ground.batch(&[&image], "srun true; echo $?\n");
        assert!(text.ends_with("255\n"), "{text}");
        ground.srun(&["-N2", "true"]).succeeded().quietly();
        for node in ground.cluster.nodes() {
            let state = ground.cluster.state_of(node);
            assert!(!state.contains("drain"), "{hook}: {state}");
        }
    }
}

fn optional(ground: &Ground) {
    ground
        .cluster
        .set_plugstack(&format!("optional {}\n", ground.plugin.display()));
    let output = ground.srun_in(&small(), &["--singularity-bind=/none", "id"]);
    output.exited_with(255).wrote("");
    let output = ground.srun(&["--singularity-image=/none", "id"]);
    output.exited_with(1).wrote("");
}
