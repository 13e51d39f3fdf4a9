//! What `make install` puts beside the plugin, from the same tables the plugin
//! reads: `man` prints its manual page, `conf` an annotated piece of
//! plugstack.conf, `markdown` the tables of docs/SLURM.md.

use std::process::ExitCode;

use spank_plugin::{config, options};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("man") => print!("{}", manual_page()),
        Some("conf") => print!("{}", configuration()),
        Some("markdown") => print!("{}", markdown()),
        _ => {
            eprintln!("usage: spank-plugin-pages man|conf|markdown");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// What tests use is not for sites.
fn arguments() -> impl Iterator<Item = &'static config::Known> {
    config::TABLE
        .iter()
        .filter(|known| known.name != "test-panic")
}

/// Text as roff takes it.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
}

fn manual_page() -> String {
    let mut page = String::from(
        ".TH singularity-slurm 1 \"\" \"Singularity\" \"User Commands\"\n\
         .SH NAME\nsingularity-slurm \\- run the tasks of Slurm steps inside container images\n\
         .SH SYNOPSIS\n.B srun\n\\fB\\-\\-singularity\\-image=\\fIPATH\\fR [\\fIoption\\fR ...] \\fIcommand\\fR [\\fIargument\\fR ...]\n\
         .SH DESCRIPTION\n\
         The options below are added to srun(1), sbatch(1) and salloc(1) by a plugin of Slurm's.\n\
         The image is mounted once for the tasks of a step on a node, and they enter it; all else is as without: \
         streams, signals, limits, time, MPI by \\-\\-mpi=pmix or \\-\\-mpi=pmi2.\n\
         .PP\nOptions of sbatch and salloc hold for the steps that srun starts in the job; the batch script itself \
         runs on the host, unless the site has chosen otherwise. An option of srun wins over the same option of the job; \
         binds and variables add up.\n.SH OPTIONS\n",
    );
    for known in &options::TABLE {
        let argument = known
            .argument
            .map(|argument| format!("=\\fI{}\\fR", roff(&argument.to_string_lossy())))
            .unwrap_or_default();
        page.push_str(&format!(
            ".TP\n\\fB\\-\\-{}\\fR{argument}\n{}.\n",
            roff(&known.name.to_string_lossy()),
            roff(&known.usage.to_string_lossy()),
        ));
        if !known.more.is_empty() {
            page.push_str(&format!("{}\n", roff(known.more)));
        }
    }
    page.push_str(".SH ENVIRONMENT\nEach variable stands for the option; an option that is typed wins. For an option without argument, 0, no, n, false, f and off mean no.\n");
    for known in &options::TABLE {
        page.push_str(&format!(
            ".TP\n.B {}\n\\-\\-{}\n",
            known.variable,
            roff(&known.name.to_string_lossy())
        ));
    }
    page.push_str(
        ".TP\n.B SINGULARITYENV_\\fINAME\\fR\nSets \\fINAME\\fR inside.\n\
         .SH EXIT STATUS\nThat of the command. 255 where a task could not enter the image: one line on standard error says why. \
         srun, sbatch and salloc exit with 1, before anything is allocated, where options contradict each other or the image is not there.\n\
         .SH EXAMPLES\n.nf\nsrun \\-N2 \\-n4 \\-\\-mpi=pmix \\-\\-singularity\\-image=app.sqfs ./app\n\
         sbatch \\-\\-singularity\\-image=app.sqfs \\-\\-singularity\\-bind=/scratch job.sh\n.fi\n\
         .SH SEE ALSO\nsingularity(1), singularity\\-exec(1), srun(1), spank(8)\n",
    );
    page
}

fn configuration() -> String {
    let mut text = String::from(
        "# Singularity's Slurm plugin. Copy this to plugstack.conf.d/ beside slurm.conf, or its\n\
         # last line into plugstack.conf. It takes effect with the next step; slurmd need not be\n\
         # restarted. `required`: nothing else makes sense once users rely on it.\n#\n\
         # Arguments, all optional, behind the plugin's name, separated by blanks:\n",
    );
    for known in arguments() {
        text.push_str(&format!("#\n#   {}={}\n", known.name, known.form));
        for line in wrapped(
            &format!("{} Default: {}.", known.meaning, known.default),
            80,
        ) {
            text.push_str(&format!("#       {line}\n"));
        }
    }
    text.push_str("\nrequired @LIBDIR@/slurm/singularity.so\n");
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines
            .last()
            .is_some_and(|line| line.len() + word.len() >= width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn markdown() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut text = String::from("| option | variable | |\n|---|---|---|\n");
    for known in &options::TABLE {
        let argument = known
            .argument
            .map(|argument| format!("={}", argument.to_string_lossy()))
            .unwrap_or_default();
        text.push_str(&format!(
            "| `--{}{argument}` | `{}` | {} |\n",
            known.name.to_string_lossy(),
            known.variable,
            cell(&format!(
                "{}. {}",
                known.usage.to_string_lossy(),
                known.more
            ))
            .trim()
        ));
    }
    text.push_str("\n| argument | default | |\n|---|---|---|\n");
    for known in arguments() {
        text.push_str(&format!(
            "| `{}={}` | {} | {} |\n",
            known.name,
            cell(known.form),
            cell(known.default),
            cell(known.meaning)
        ));
    }
    text
}
