//! A seat at the bridge between a launcher and an MPI that speak different languages.
//!
//! Owns: starting `pmi-bridge` by its descriptor, finding the one of this node, and the
//! launcher's side of [`pmi_shim::seat`]. Never: knows what is said over the bridge.
//!
//! The helper is opened before the image is entered, as the image does not have it, and
//! only where this process is a rank. It runs inside, so that it sees the rank's
//! processes as the rank does, without privileges, and as nobody's child: the program
//! never finds a child that it did not make.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{fcntl, open, FcntlArg, FdFlag, OFlag};
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow};
use nix::sys::socket::{
    bind, connect, getsockopt, listen, setsockopt, socket, socketpair, sockopt, AddressFamily,
    Backlog, SockFlag, SockType, UnixAddr,
};
use nix::sys::stat::Mode;
use nix::sys::time::{TimeVal, TimeValLike as _};
use pmi_shim::seat::{self, AppInterface, Hello, HostInterface, Message, Seat};
use pmi_shim::{Bridge, Change, Host as Launcher, Interface, Wire1};

use crate::error::{shown, Error, Step};
use crate::host::Host;
use crate::privilege;
use crate::sys::process::{self, Side};
use crate::sys::{lifeline, pass};

/// How often `-v` was said: to the command by the user, and to the helper.
const VERBOSE: &str = "SINGULARITY_VERBOSE";

/// How long a rank that finds the name taken waits for whoever has it to listen.
const LISTENING: Duration = Duration::from_secs(10);

/// The helper, opened where it can be seen.
#[derive(Debug)]
pub struct Helper {
    path: PathBuf,
    program: OwnedFd,
    /// munge's directory on the host, by which the helpers of several nodes know each
    /// other where the launcher offers nothing.
    munge: Option<OwnedFd>,
}

impl Helper {
    /// Opens the helper in the directory where it is installed; `None` if it is not
    /// there. Before the image is entered. `munge`: nodes may have to authenticate.
    pub fn open(libexec: Option<&Path>, munge: bool) -> Option<Self> {
        let path = libexec?.join("pmi-bridge");
        let held = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let program = open(&path, held, Mode::empty()).ok()?;
        let munge = munge
            .then(|| open("/run/munge", held | OFlag::O_DIRECTORY, Mode::empty()).ok())
            .flatten();
        Some(Self {
            path,
            program,
            munge,
        })
    }
}

/// A place that was found at the bridge.
#[derive(Debug)]
pub struct Place {
    /// What to change in the environment.
    pub seat: Seat,
    /// The descriptor that the program inherits.
    descriptor: Option<OwnedFd>,
}

impl Place {
    /// Lets the program inherit the descriptor, and sets its variable.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn hand_on(mut self) -> Result<Seat, Error> {
        if let (Some(descriptor), Some(name)) = (self.descriptor.take(), &self.seat.descriptor) {
            fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))
                .step(|| "hand on the bridge's socket".into())?;
            let number = descriptor.into_raw_fd();
            self.seat.set.push((name.clone(), number.to_string()));
        }
        Ok(self.seat)
    }
}

/// Who wants a seat.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What the launcher left.
    pub launcher: &'a Launcher,
    /// The job's whole name.
    pub job: &'a str,
    /// The MPI of the program, for messages.
    pub mpi: &'a str,
    /// The user, and the environment from outside.
    pub host: &'a Host,
    /// What of that is made right.
    pub hygiene: &'a [Change],
}

/// Takes a seat. Inside the image, before privileges are given up.
///
/// # Errors
/// Why there is none; nothing is left behind.
pub fn take(helper: &Helper, bridge: Bridge, asking: &Asking<'_>) -> Result<Place, Error> {
    let launcher = asking.launcher;
    let known = [launcher.rank, launcher.size, launcher.local_size];
    match bridge {
        // One helper for the node, which has to know for how many ranks it is.
        Bridge::Rank(app) | Bridge::Both(app) if known.iter().all(Option::is_some) => {
            let hello = asking.hello(app, HostInterface::Pmix);
            node(helper, asking, hello, None)
        }
        Bridge::Rank(app) => rank(helper, app, asking),
        Bridge::Node(app) => {
            let (interface, socket) = host_side(asking)?;
            let place = node(
                helper,
                asking,
                asking.hello(app, interface),
                socket.as_ref().map(AsFd::as_fd),
            )?;
            if let Some(socket) = socket {
                leave_to_the_helper(socket, asking.launcher)?;
            }
            Ok(place)
        }
        Bridge::Both(app) => {
            let first = rank(helper, AppInterface::Pmi1, asking)?;
            let socket = first.descriptor.ok_or_else(|| {
                Error::new("a seat at the PMI bridge", "it came without a socket")
            })?;
            let number = |name: &str| {
                let found = first.seat.set.iter().find(|(other, _)| other == name);
                found.and_then(|(_, value)| value.parse().ok())
            };
            let mut hello = asking.hello(app, HostInterface::Pmi1 { greeting: None });
            hello.rank = number("PMI_RANK").unwrap_or(hello.rank);
            hello.size = number("PMI_SIZE").unwrap_or(hello.size);
            let mut place = node(helper, asking, hello, Some(socket.as_fd()))?;
            // What the first takes away must go too; the second's word is the last.
            let mut unset = first.seat.unset;
            unset.append(&mut place.seat.unset);
            place.seat.unset = unset;
            Ok(place)
        }
    }
}

impl Asking<'_> {
    fn hello(&self, app: AppInterface, host: HostInterface) -> Hello {
        let rank = self.launcher.rank.unwrap_or(0);
        Hello {
            job: self.job.to_owned(),
            rank,
            // The server of PMIx knows better, and is asked.
            size: self.launcher.size.unwrap_or(0).max(rank.saturating_add(1)),
            local_rank: self.launcher.local_rank,
            local_size: self.launcher.local_size,
            pid: std::process::id(),
            app,
            host,
            names: (
                self.launcher.launcher.name().to_owned(),
                self.mpi.to_owned(),
            ),
        }
    }

    /// The host's environment as the helper may have it: made right, without what names
    /// this process as a rank where the helper must not look for a server itself.
    fn environment(&self, is_client: bool) -> Vec<CString> {
        const OF_A_RANK: [&str; 6] = ["PMIX", "PMI_", "OMPI_", "PRTE_", "OPAL_", "HYD"];
        let begins = |name: &OsStr, prefix: &str| name.as_bytes().starts_with(prefix.as_bytes());
        let kept = |name: &OsStr| {
            let ours = begins(name, "SINGULARITYENV_") || name == crate::join::VARIABLE;
            let of_a_rank = OF_A_RANK.iter().any(|prefix| begins(name, prefix));
            let dropped = |change: &Change| change.value().is_none() && change.name() == name;
            !ours && (is_client || !of_a_rank) && !self.hygiene.iter().any(dropped)
        };
        let set = self.hygiene.iter().filter_map(|change| {
            let value = change.value()?;
            is_client.then(|| (change.name().to_owned(), value.to_owned()))
        });
        // The helper says as much as this process does; by the option, where that was
        // not said by the variable.
        let own = crate::log::verbosity()
            .checked_sub(1)
            .filter(|often| *often > 0);
        let said = own.map(|often| (VERBOSE.into(), often.to_string().into()));
        self.host
            .environment
            .iter()
            .filter(|(name, _)| kept(name) && (own.is_none() || name != VERBOSE))
            .cloned()
            .chain(set)
            .chain(said)
            .filter_map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                CString::new(name.into_vec()).ok()
            })
            .collect()
    }
}

/// The form `rank`: a helper of this rank's own, with one end of a pair.
fn rank(helper: &Helper, app: AppInterface, asking: &Asking<'_>) -> Result<Place, Error> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .step(step)?;
    helper.start(
        "rank",
        &theirs,
        &[],
        &asking.environment(true),
        asking.host.is_root(),
    )?;
    drop(theirs);
    ask(&ours, &asking.hello(app, HostInterface::Pmix), None)
}

/// The form `node`: the helper of all ranks of the job on this node, started by whoever
/// comes first.
fn node(
    helper: &Helper,
    asking: &Asking<'_>,
    hello: Hello,
    socket: Option<BorrowedFd<'_>>,
) -> Result<Place, Error> {
    let node = match &hello.host {
        HostInterface::Slurm(step) => Some(step.node),
        _ => asking.host.variable("SLURM_NODEID").and_then(number),
    };
    for attempt in 0..seat::ATTEMPTS {
        let name = seat::name(asking.host.uid, asking.job, node, attempt);
        let address = UnixAddr::new_abstract(name.as_bytes()).step(step)?;
        if let Some(connection) = connect_or_serve(helper, asking, &hello, &address)? {
            return ask(&connection, &hello, socket);
        }
    }
    Err(
        Error::new(step(), "other users hold all names of its sockets")
            .hint("ask the administrator who listens on singularity-pmi- sockets: ss -lx"),
    )
}

/// A connection to this user's helper behind a name; `None` if it is another user's.
fn connect_or_serve(
    helper: &Helper,
    asking: &Asking<'_>,
    hello: &Hello,
    address: &UnixAddr,
) -> Result<Option<OwnedFd>, Error> {
    let begun = Instant::now();
    loop {
        let connection = stream()?;
        match connect(connection.as_raw_fd(), address) {
            Ok(()) => {
                let peer = getsockopt(&connection, sockopt::PeerCredentials).step(step)?;
                return Ok((peer.uid() == asking.host.uid).then_some(connection));
            }
            Err(Errno::EINTR) => continue,
            // Its queue is full: it is being asked by all at once.
            Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::ENOENT) => {}
            Err(errno) => return Err(Error::call(step(), errno)),
        }
        let listener = stream()?;
        match bind(listener.as_raw_fd(), address) {
            Ok(()) => {
                listen(&listener, Backlog::MAXALLOWABLE).step(step)?;
                let munge: Vec<_> = helper.munge.iter().map(AsFd::as_fd).collect();
                let is_client = matches!(hello.host, HostInterface::Pmix);
                helper.start(
                    "node",
                    &listener,
                    &munge,
                    &asking.environment(is_client),
                    asking.host.is_root(),
                )?;
            }
            Err(Errno::EADDRINUSE) if begun.elapsed() < LISTENING => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EADDRINUSE) => return Ok(None),
            Err(errno) => return Err(Error::call(step(), errno)),
        }
    }
}

fn stream() -> Result<OwnedFd, Error> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .step(step)
}

fn step() -> String {
    "take a seat at the PMI bridge".to_owned()
}

fn number(text: &OsStr) -> Option<u32> {
    text.to_str()?.parse().ok()
}

/// What the helper gets of the host's interface, and the socket that goes with it.
fn host_side(asking: &Asking<'_>) -> Result<(HostInterface, Option<OwnedFd>), Error> {
    let inherited = |descriptor: i32| -> Result<OwnedFd, Error> {
        // A number that the launcher passed is borrowed for as long as this process is.
        let descriptor = borrowed(descriptor)
            .ok_or_else(|| Error::new(step(), "the launcher's socket is not open"))?;
        descriptor
            .try_clone_to_owned()
            .map_err(|error| Error::io(step(), &error))
    };
    for interface in &asking.launcher.interfaces {
        return Ok(match interface {
            Interface::Pmi1(Wire1::Inherited(descriptor)) => (
                HostInterface::Pmi1 { greeting: None },
                Some(inherited(*descriptor)?),
            ),
            Interface::Pmi2 { descriptor } => (HostInterface::Pmi2, Some(inherited(*descriptor)?)),
            Interface::Pmi1(Wire1::Tcp(address)) => {
                let connection = std::net::TcpStream::connect(address.as_str())
                    .map_err(|error| Error::io(format!("reach hydra at {address}"), &error))?;
                let id = asking.host.variable("PMI_ID").and_then(OsStr::to_str);
                let greeting = Some(id.unwrap_or_default().to_owned());
                (HostInterface::Pmi1 { greeting }, Some(connection.into()))
            }
            Interface::SlurmPmi1 => (HostInterface::Slurm(slurm_step(asking.host)?), None),
            Interface::Pmix { .. } | Interface::CrayPmi => continue,
        });
    }
    Err(Error::new(
        step(),
        "the launcher offers nothing to build it on",
    ))
}

/// What Slurm says of the step.
fn slurm_step(host: &Host) -> Result<seat::Step, Error> {
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|name| host.variable(name));
        let value = found.and_then(OsStr::to_str).map(str::to_owned);
        value.ok_or_else(|| {
            let name = names.first().copied().unwrap_or_default();
            Error::new(step(), format!("Slurm has not set {name}"))
                .hint("do not remove Slurm's variables (srun --export=NONE keeps them)")
        })
    };
    let job = text(&["SLURM_JOB_ID", "SLURM_JOBID"])?;
    let number_of_step = text(&["SLURM_STEP_ID", "SLURM_STEPID"])?;
    Ok(seat::Step {
        id: format!("{job}.{number_of_step}"),
        nodes: text(&["SLURM_STEP_NODELIST", "SLURM_NODELIST"])?,
        tasks: text(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"])?,
        node: text(&["SLURM_NODEID"])?.parse().unwrap_or(0),
        ranks: text(&["SLURM_GTIDS"])?,
    })
}

/// The launcher's socket is the helper's from now on: were it open in the program too,
/// nobody would see the other's end.
fn leave_to_the_helper(copy: OwnedFd, launcher: &Launcher) -> Result<(), Error> {
    drop(copy);
    for number in launcher.descriptors() {
        if let Some(descriptor) = borrowed(number) {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).step(step)?;
        }
    }
    Ok(())
}

/// An inherited descriptor, if it is open.
fn borrowed(number: i32) -> Option<BorrowedFd<'static>> {
    lifeline::inherited(number)
}

/// Says who this is, and waits for the answer.
fn ask(
    connection: &OwnedFd,
    hello: &Hello,
    socket: Option<BorrowedFd<'_>>,
) -> Result<Place, Error> {
    let own = process::pidfd_open(nix::unistd::getpid()).step(step)?;
    let (one, other) = lifeline::to_this_process().step(step)?;
    let mut descriptors = vec![own.as_fd(), one.as_fd(), other.as_fd()];
    descriptors.extend(socket);
    let bytes = Message::Hello(hello.clone()).encode();
    if let Err(errno) = pass::send(connection.as_fd(), &bytes, &descriptors) {
        // Nobody has taken them: closed with their sting they would end this process.
        lifeline::disarm(one.as_fd());
        lifeline::disarm(other.as_fd());
        return Err(match errno {
            Errno::EPIPE | Errno::ECONNRESET => ended(),
            errno => Error::call(step(), errno),
        });
    }
    drop((one, other));
    let patience = TimeVal::seconds(i64::try_from(seat::PATIENCE.as_secs()).unwrap_or(i64::MAX));
    setsockopt(connection, sockopt::ReceiveTimeout, &patience).step(step)?;
    let mut received = Vec::new();
    let mut descriptor = None;
    let mut piece = vec![0; 16 << 10];
    loop {
        let (length, came) = match pass::receive(connection.as_fd(), &mut piece) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => {
                return Err(Error::new(step(), "the helper does not answer")
                    .hint("SINGULARITY_MPI=pass starts the program without it"))
            }
            Err(Errno::ECONNRESET) | Ok((0, _)) => return Err(ended()),
            other => other.step(step)?,
        };
        received.extend_from_slice(piece.get(..length).unwrap_or_default());
        descriptor = descriptor.or(came.into_iter().next());
        match Message::decode(&received) {
            Ok(None) => {}
            Ok(Some((Message::Seat(seat), _))) => return Ok(Place { seat, descriptor }),
            Ok(Some((Message::Refused(refused), _))) => {
                let (step, cause) = refused
                    .line
                    .split_once(": ")
                    .unwrap_or(("take a seat at the PMI bridge", &refused.line));
                let error = Error::new(step, cause);
                return Err(match refused.hint.is_empty() {
                    true => error,
                    false => error.hint(refused.hint),
                });
            }
            Ok(Some((Message::Hello(_), _))) => {
                return Err(Error::new(step(), "the helper answers with a question"))
            }
            Err(malformed) => {
                return Err(Error::new(step(), malformed.to_string())
                    .hint("install singularity and its helpers from one build"))
            }
        }
    }
}

fn ended() -> Error {
    Error::new(step(), "the helper ended without an answer")
        .hint("it may have been killed for want of memory")
}

impl Helper {
    /// Starts the helper as nobody's child, without privileges, with the descriptor and
    /// those of `more`, and nothing else of this process's.
    fn start(
        &self,
        form: &str,
        descriptor: &OwnedFd,
        more: &[BorrowedFd<'_>],
        environment: &[CString],
        is_root: bool,
    ) -> Result<(), Error> {
        let step = || format!("start {}", shown(&self.path));
        let mut words = vec![
            OsString::from("pmi-bridge"),
            form.into(),
            descriptor.as_raw_fd().to_string().into(),
        ];
        words.extend(
            more.iter()
                .map(|fd| format!("--munge={}", fd.as_raw_fd()).into()),
        );
        let words: Vec<CString> = words
            .into_iter()
            .filter_map(|word| CString::new(word.into_vec()).ok())
            .collect();
        let (told, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step(step)?;
        match process::clone(None).step(step)? {
            Side::Parent(child) => {
                drop(tell);
                // ECHILD: the caller's SIGCHLD was ignored, so the child is reaped already.
                if !matches!(process::wait_for(child), Ok(0) | Err(Errno::ECHILD)) {
                    return Err(Error::call(step(), Errno::EAGAIN));
                }
                let mut errno = [0; 4];
                // End of file: it is the helper now.
                match std::fs::File::from(told).read_exact(&mut errno) {
                    Err(_) => Ok(()),
                    Ok(()) => Err(
                        Error::call(step(), Errno::from_raw(i32::from_ne_bytes(errno)))
                            .hint("install it anew: make install"),
                    ),
                }
            }
            Side::Child => match process::clone(None) {
                Ok(Side::Parent(_)) => process::exit_now(0),
                Ok(Side::Child) => {
                    let kept = [&[descriptor.as_fd()][..], more].concat();
                    let errno = self.become_helper(&words, &kept, environment, is_root);
                    let _ = nix::unistd::write(&tell, &(errno as i32).to_ne_bytes());
                    process::exit_now(1)
                }
                Err(_) => process::exit_now(1),
            },
        }
    }

    fn become_helper(
        &self,
        words: &[CString],
        kept: &[BorrowedFd<'_>],
        environment: &[CString],
        is_root: bool,
    ) -> Errno {
        let prepare = || -> Result<(), Errno> {
            // A session of its own: Ctrl-C and hang-ups are for the program.
            nix::unistd::setsid()?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            for signal in 1..=64 {
                process::reset_signal(signal);
            }
            // The image may have no /dev.
            let null = open("/dev/null", OFlag::O_RDWR, Mode::empty()).or_else(|_| {
                nix::sys::memfd::memfd_create(c"null", nix::sys::memfd::MFdFlags::empty())
            })?;
            nix::unistd::dup2_stdin(&null)?;
            nix::unistd::dup2_stdout(&null)?;
            process::close_on_exec_from(3)?;
            for descriptor in kept {
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            nix::unistd::chdir("/")?;
            privilege::drop_for_good(is_root)
                .map(drop)
                .map_err(|_| Errno::EPERM)
        };
        match prepare() {
            Ok(()) => process::execute_open(self.program.as_fd(), words, environment),
            Err(errno) => errno,
        }
    }
}
