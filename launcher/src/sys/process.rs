//! Processes and their privileges: clone(2), capset(2),
//! prctl(2), setns(2) by pidfd.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Which side of a clone the caller finds itself on.
#[derive(Debug)]
pub enum Side {
    /// The caller itself; the new process is named.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Like fork(2), but the end of the child sends `end_signal` to the caller, or
/// none: a program exec'ed later must not find a SIGCHLD pending that is not its
/// own. Wait for the child with `__WALL`.
///
/// # Errors
/// As clone(2): EAGAIN at the limit of processes, ENOMEM. EINVAL if the caller
/// has threads: in the child, the locks they hold would stay locked for ever.
pub fn clone(end_signal: Option<Signal>) -> Result<Side, Errno> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|_| Errno::EINVAL)?;
    if tasks.take(2).count() != 1 {
        return Err(Errno::EINVAL);
    }
    let flags = end_signal.map_or(0, |signal| signal as libc::c_int);
    // SAFETY: without CLONE_VM the child gets its own copy of the address space, and a null
    // stack makes it go on on its copy of this one; there is no other thread to miss.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(match pid {
        0 => Side::Child,
        pid => Side::Parent(Pid::from_raw(pid as libc::pid_t)),
    })
}

/// fork(2) by the C library, for a caller that has threads: unlike [`clone`], it
/// leaves the child a heap that can be used. Locks of other threads stay locked
/// in the child all the same, so it calls nothing of the host program's.
///
/// # Errors
/// As fork(2).
pub fn fork() -> Result<Side, Errno> {
    // SAFETY: the child runs this library's code and the C library's only; of their locks, glibc
    // releases its heap's in the child, and no other thread runs this library's code.
    Ok(match Errno::result(unsafe { libc::fork() })? {
        0 => Side::Child,
        pid => Side::Parent(Pid::from_raw(pid)),
    })
}

/// Sets the ids that file access is judged by, and returns those from before. With
/// any user but root, the capabilities that override file permissions go, and come
/// back with root. See setfsuid(2), credentials(7).
///
/// # Errors
/// EPERM where the ids did not change: setfsuid(2) itself tells no error.
pub fn set_file_ids(uid: u32, gid: u32) -> Result<(u32, u32), Errno> {
    // SAFETY: setfsgid(2) takes no pointer.
    let old_gid = unsafe { libc::setfsgid(gid) } as u32;
    // SAFETY: setfsuid(2) takes no pointer.
    let old_uid = unsafe { libc::setfsuid(uid) } as u32;
    // An id that is none changes nothing and tells the current one.
    // SAFETY: setfsgid(2) takes no pointer.
    let new_gid = unsafe { libc::setfsgid(u32::MAX) } as u32;
    // SAFETY: setfsuid(2) takes no pointer.
    let new_uid = unsafe { libc::setfsuid(u32::MAX) } as u32;
    if (new_uid, new_gid) != (uid, gid) {
        return Err(Errno::EPERM);
    }
    Ok((old_uid, old_gid))
}

/// The ids that file access is judged by: user and group.
pub fn file_ids() -> (u32, u32) {
    // SAFETY: setfsuid(2) takes no pointer, and an id that is none changes nothing.
    let uid = unsafe { libc::setfsuid(u32::MAX) } as u32;
    // SAFETY: as above, for setfsgid(2).
    let gid = unsafe { libc::setfsgid(u32::MAX) } as u32;
    (uid, gid)
}

/// Waits for the end of a child made by [`clone`] and returns its wait
/// status. See waitpid(2).
pub fn wait_for(pid: Pid) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live, writable int.
        let result = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::__WALL) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(status),
        }
    }
}

/// Ends the process at once, running nothing that was registered for its end.
/// See _exit(2).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes no pointer and does not return.
    unsafe { libc::_exit(status) }
}

/// A descriptor for the process `pid`. See pidfd_open(2).
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointer is passed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(result)? as libc::c_int;
    // SAFETY: the kernel has just returned `fd` as a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Enters several namespaces of the process behind `pidfd` at once, all or none.
/// `kinds` are `CLONE_NEW*` bits. See setns(2); Linux 5.8.
pub fn enter_namespaces(pidfd: BorrowedFd<'_>, kinds: libc::c_int) -> Result<(), Errno> {
    // SAFETY: no pointer is passed.
    Errno::result(unsafe { libc::setns(pidfd.as_raw_fd(), kinds) }).map(drop)
}

/// The user namespace that a namespace belongs to. See NS_GET_USERNS(2const).
///
/// # Errors
/// EPERM if it is none that this process may look at.
pub fn owner_of_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: this ioctl takes no argument, and `namespace` is open.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    let owner = Errno::result(result)?;
    // SAFETY: the kernel has just returned `owner` as a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

/// Takes every variable out of this process's environment. See clearenv(3).
///
/// # Errors
/// ENOMEM.
pub fn clear_environment() -> Result<(), Errno> {
    // SAFETY: the caller is a process with one thread that has kept no pointer to a variable.
    match unsafe { libc::clearenv() } {
        0 => Ok(()),
        _ => Err(Errno::ENOMEM),
    }
}

/// Takes a descriptor that was inherited under this number; `None` if there is none.
pub fn inherited(number: libc::c_int) -> Option<OwnedFd> {
    // SAFETY: no pointer is passed; F_GETFD only tells whether the descriptor is open.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller is the only one in this process that knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Forbids the process and its descendants to gain privileges by execve(2).
/// See PR_SET_NO_NEW_PRIVS(2const).
pub fn set_no_new_privileges() -> Result<(), Errno> {
    // SAFETY: this operation takes integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Whether no_new_privs is set.
pub fn has_no_new_privileges() -> bool {
    // SAFETY: this operation takes integers only.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// Makes this process one that leaves no core and that its user cannot trace.
/// See PR_SET_DUMPABLE(2const).
///
/// # Errors
/// None that the man page knows of.
pub fn forbid_cores_and_tracing() -> Result<(), Errno> {
    // SAFETY: this operation takes integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Has the kernel send `signal` to this process when its parent ends.
pub fn die_with_parent(signal: libc::c_int) -> Result<(), Errno> {
    // SAFETY: this operation takes integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) }).map(drop)
}

/// The three capability sets of a process, one bit per capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What checks look at.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What a program with file capabilities may inherit.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: 64 bits in two words.
const VERSION_3: u32 = 0x2008_0522;

/// Reads the calling thread's capabilities. See capget(2).
pub fn capabilities() -> Result<Capabilities, Errno> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 makes the kernel write exactly two `Data`, which `data` holds.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let join = |f: fn(&Data) -> u32| u64::from(f(&data[0])) | u64::from(f(&data[1])) << 32;
    Ok(Capabilities {
        effective: join(|d| d.effective),
        permitted: join(|d| d.permitted),
        inheritable: join(|d| d.inheritable),
    })
}

/// Sets the calling thread's capabilities. See capset(2).
pub fn set_capabilities(wanted: Capabilities) -> Result<(), Errno> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (wanted.effective >> shift) as u32,
        permitted: (wanted.permitted >> shift) as u32,
        inheritable: (wanted.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 makes the kernel read exactly two `Data`, which `data` holds.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Empties the ambient capability set. See PR_CAP_AMBIENT(2const).
pub fn clear_ambient_capabilities() -> Result<(), Errno> {
    // SAFETY: this operation takes integers only.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Takes one capability out of the bounding set; EINVAL ends the list of those
/// the kernel knows. See PR_CAPBSET_DROP(2const).
pub fn drop_bounding_capability(number: u32) -> Result<(), Errno> {
    // SAFETY: this operation takes integers only.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
    Errno::result(result).map(drop)
}

/// Sets the close-on-exec flag on every descriptor from `first` on.
/// See close_range(2); Linux 5.11.
pub fn close_on_exec_from(first: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: no pointer is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(result).map(drop)
}

/// Sets a signal's disposition to the default, and tells whether it was ignored;
/// errors cannot happen for signals that exist, and the caller has no use for them.
pub fn reset_signal(signal: libc::c_int) -> bool {
    // SAFETY: SIG_DFL is no function of ours, so nothing can run in a bad context.
    unsafe { libc::signal(signal, libc::SIG_DFL) == libc::SIG_IGN }
}

/// Has the kernel ignore a signal.
pub fn ignore_signal(signal: libc::c_int) {
    // SAFETY: SIG_IGN is no function of ours, so nothing can run in a bad context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Replaces the process by the program at `path`, relative to `directory` unless
/// absolute. Returns only on failure. See execve(2).
///
/// # Errors
/// As execve(2).
pub fn execve(
    path: &std::ffi::CStr,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> Errno {
    let pointers = |strings: &[std::ffi::CString]| {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect::<Vec<_>>()
    };
    let argv = pointers(arguments);
    let envp = pointers(environment);
    // SAFETY: `path` and every string of the two null-ended arrays are live and NUL-terminated.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// Replaces the process by the program that is open as `program`. Returns only on
/// failure. See execveat(2).
///
/// # Errors
/// As execveat(2).
pub fn execute_open(
    program: BorrowedFd<'_>,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> Errno {
    let pointers = |strings: &[std::ffi::CString]| {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let (number, empty) = (program.as_raw_fd(), c"".as_ptr());
    let (argv, envp) = (arguments.as_ptr(), environment.as_ptr());
    // SAFETY: the empty path and every string of the two null-ended arrays are live and
    // NUL-terminated; the arrays outlive the call, which only returns if it has failed.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            number,
            empty,
            argv,
            envp,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// What making namespaces, mounting in them and giving up privileges take:
/// `CAP_SETGID`, `CAP_SETUID`, `CAP_SETPCAP`, `CAP_NET_ADMIN` (a loopback device),
/// `CAP_SYS_CHROOT` (setns(2)) and `CAP_SYS_ADMIN` of linux/capability.h.
pub const MOUNTING: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 18 | 1 << CAP_SYS_ADMIN;

/// `CAP_SYS_PTRACE` of linux/capability.h: which links of /proc/PID are followed.
pub const LOOKING_AT_PROCESSES: u64 = 1 << 19;

/// `CAP_SYS_ADMIN` of linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;

/// Lets the program exec'ed next keep CAP_SYS_ADMIN over this user namespace,
/// so that it can mount in it. See capabilities(7), ambient set.
///
/// # Errors
/// EPERM if the capability is not permitted.
pub fn keep_mounting_across_exec() -> Result<(), Errno> {
    let mut held = capabilities()?;
    held.inheritable |= 1 << CAP_SYS_ADMIN;
    set_capabilities(held)?;
    let (raise, capability) = (libc::PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN as libc::c_ulong);
    // SAFETY: this operation takes integers only.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) };
    Errno::result(result).map(drop)
}

/// Locks an open file without waiting, alone or with others; the lock belongs to
/// the open file description and ends with it. See flock(2).
///
/// # Errors
/// EWOULDBLOCK: another description holds a lock that excludes this one.
pub fn lock_file(file: BorrowedFd<'_>, alone: bool) -> Result<(), Errno> {
    let operation = if alone { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
    // SAFETY: no pointer is passed.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}

/// A signal taken by [`next_signal`].
#[derive(Debug, Clone, Copy)]
pub struct Caught {
    /// Its number; real-time signals have no name.
    pub signal: libc::c_int,
    /// Whether a process sent it, by kill(2) or its like; not the kernel.
    pub was_sent: bool,
}

/// Waits for a signal, all of which the caller has blocked.
pub fn next_signal() -> Option<Caught> {
    let all = nix::sys::signal::SigSet::all();
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the set lives across the call; `info` has room for one siginfo_t.
    let number = unsafe { libc::sigwaitinfo(all.as_ref(), info.as_mut_ptr()) };
    if number <= 0 {
        return None;
    }
    // SAFETY: all-zero bytes are a valid siginfo_t, and the kernel has filled it in.
    let info = unsafe { info.assume_init() };
    Some(Caught {
        signal: number,
        was_sent: info.si_code <= 0,
    })
}

/// Sends a signal, also one without a name. See kill(2).
///
/// # Errors
/// As kill(2).
pub fn send(to: Pid, signal: libc::c_int) -> Result<(), Errno> {
    // SAFETY: no pointer is passed.
    Errno::result(unsafe { libc::kill(to.as_raw(), signal) }).map(drop)
}

/// Reaps any child that has ended: its pid and wait status. EAGAIN: none has yet.
pub fn wait_any() -> Result<(Pid, i32), Errno> {
    let mut status = 0;
    // SAFETY: `status` is a live, writable int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match Errno::result(pid)? {
        0 => Err(Errno::EAGAIN),
        pid => Ok((Pid::from_raw(pid), status)),
    }
}

/// The wait status of the child `pid` if it has ended.
pub fn try_wait(pid: Pid) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a live, writable int.
    let ended =
        unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::__WALL | libc::WNOHANG) };
    Ok((Errno::result(ended)? != 0).then_some(status))
}

/// Closes every descriptor but one. See close_range(2).
pub fn close_all_but(kept: libc::c_int) -> Result<(), Errno> {
    let close = |first: libc::c_int, last: libc::c_uint| {
        if first as libc::c_uint > last {
            return Ok(());
        }
        // SAFETY: no pointer is passed, and the callers use no other descriptor again.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(result).map(drop)
    };
    if kept > 0 {
        close(0, kept as libc::c_uint - 1)?;
    }
    close(kept + 1, libc::c_uint::MAX)
}

/// Brings up the loopback device of this network namespace; the kernel gives it
/// its address. See netdevice(7).
pub fn bring_up_loopback() -> Result<(), Errno> {
    use nix::sys::socket::{socket, AddressFamily, SockFlag, SockType};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short,
        },
    };
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`, which `request` is, and keeps no pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}
