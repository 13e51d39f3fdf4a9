//! Form `rank`: one process for one rank, whose launcher speaks PMIx.

use crate::member::{wait, Member, Outcome};
use crate::pmix::host::PmixHost;
use crate::seating::{Asking, Came};
use pmi_shim::core::Interest;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Instant;

/// Serves the rank at the other end of the connection until it has ended.
pub fn serve(connection: OwnedFd) -> ExitCode {
    match follow(connection) {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Badly) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("singularity: the PMI bridge of a rank: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn follow(connection: OwnedFd) -> Result<Outcome, String> {
    // Reaching the host takes longest: it goes on while the rank says who it is.
    let host = PmixHost::connect().map_err(|error| format!("a thread: {error}"))?;
    let mut asking = Asking::new(connection, Instant::now())?;
    let (hello, belongings) = loop {
        match asking.read() {
            Came::Wait => {}
            Came::Hello(hello, belongings) => break (hello, belongings),
            Came::Nobody(reason) => return Err(reason),
        }
        if Instant::now() >= asking.until {
            return Err("the rank did not say who it is".into());
        }
        let heard = Interest {
            descriptor: asking.descriptor(),
            write: false,
        };
        wait(&[heard], Some(asking.until)).map_err(|errno| errno.desc().to_owned())?;
    };
    let make_app = crate::app_for(hello.app);
    let mut member = Member::new(Box::new(host), make_app, Instant::now()).silent();
    member.welcome(asking, *hello, belongings);
    loop {
        if let Some(outcome) = member.proceed(Instant::now()) {
            return Ok(outcome);
        }
        wait(&member.interests(), member.deadline()).map_err(|errno| errno.desc().to_owned())?;
    }
}
