//! Who may connect to the server.
//!
//! libpmix listens on 127.0.0.1, where every user of the node can connect, and its
//! clients say themselves whose they are. The kernel knows better: connections that
//! other users made are closed before a byte of them is read.

use super::guarded;
use nix::errno::Errno;
use std::ffi::c_int;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{FromRawFd, IntoRawFd};

/// Stands in libpmix for accept(2).
#[no_mangle]
extern "C" fn libpmix_accept(
    listener: c_int,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
) -> c_int {
    // SAFETY: libpmix passes room for an address and its length, as accept(2) wants.
    let number = unsafe { libc::accept4(listener, address, length, libc::SOCK_CLOEXEC) };
    if number < 0 {
        return number;
    }
    // SAFETY: the kernel has just put it here, and nobody else knows of it yet.
    let connection = unsafe { TcpStream::from_raw_fd(number) };
    if guarded(false, || is_own(&connection)) {
        return connection.into_raw_fd();
    }
    drop(connection);
    // Libpmix goes on listening after this one.
    Errno::set_raw(libc::EAGAIN);
    -1
}

/// Whether the other end of a connection on this machine is this user's.
fn is_own(connection: &TcpStream) -> bool {
    let (Ok(SocketAddr::V4(theirs)), Ok(SocketAddr::V4(ours))) =
        (connection.peer_addr(), connection.local_addr())
    else {
        return false;
    };
    let table = match std::fs::read_to_string("/proc/net/tcp") {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!(%error, "/proc/net/tcp: nobody can connect");
            return false;
        }
    };
    let told = |address: std::net::SocketAddrV4| {
        let number = u32::from_ne_bytes(address.ip().octets());
        format!("{number:08X}:{:04X}", address.port())
    };
    owner(&table, &told(theirs), &told(ours)) == Some(nix::unistd::geteuid().as_raw())
}

/// The user of the socket with these addresses, from the text of /proc/net/tcp
/// (proc_pid_net(5)): number, local and remote address, …, and user in the eighth
/// column.
fn owner(table: &str, local: &str, remote: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let found = columns.nth(1) == Some(local) && columns.next() == Some(remote);
        found.then(|| columns.nth(4)?.parse().ok()).flatten()
    })
}

// Without this the linker might not look for the function above, which only the C
// library calls.
#[used]
static ACCEPT: extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int =
    libpmix_accept;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_kernel_knows_whose_a_connection_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        assert!(is_own(&connection));
        drop(client);
    }

    #[test]
    fn another_users_connection_and_one_that_is_not_there_are_told_apart() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
             0: 0100007F:B7A4 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 4711\n";
        assert_eq!(owner(table, "0100007F:B7A4", "0100007F:1F90"), Some(1001));
        assert_eq!(owner(table, "0100007F:1F90", "0100007F:B7A4"), None);
    }
}
