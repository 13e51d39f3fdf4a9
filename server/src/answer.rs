//! What is answered to each request.
//!
//! Owns: which file of the image a request means, and what is kept between requests.
//! Never: talks to the kernel, or waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use volume::locked;
use volume::tree::{Kind, Name, Node, Served};

use crate::protocol::{self, able, code, number32, number64, Request, TOP};

/// How many names of directories are kept.
const KEPT_NAMES: usize = 1 << 18;
/// More is never asked for at once.
const LONGEST_READ: usize = 1 << 20;

const WANTED: u32 = able::ASYNC_READ
    | able::READDIRPLUS
    | able::READDIRPLUS_AUTO
    | able::NO_OPEN
    | able::PARALLEL_DIROPS
    | able::MAX_PAGES
    | able::CACHE_SYMLINKS
    | able::NO_OPENDIR;

/// An image's file system, and what was read of its directories.
pub struct Server<'a> {
    tree: &'a dyn Served,
    directories: Mutex<Directories>,
}

#[derive(Default)]
struct Directories {
    known: HashMap<u64, Arc<Vec<Name>>>,
    names: usize,
}

type Answer = Result<Vec<u8>, Errno>;

impl<'a> Server<'a> {
    pub fn new(tree: &'a dyn Served) -> Self {
        Self {
            tree,
            directories: Mutex::default(),
        }
    }

    /// `None`: the kernel expects no answer.
    /// What is told goes to `body`.
    pub fn answer(&self, request: &Request<'_>, body: &mut Vec<u8>) -> Option<Result<(), Errno>> {
        body.clear();
        let answer = match request.code {
            code::FORGET | code::BATCH_FORGET | code::INTERRUPT => return None,
            code::READ => return Some(self.read(request, body)),
            _ => self.tell(request),
        };
        Some(answer.map(|told| body.extend(told)))
    }

    fn tell(&self, request: &Request<'_>) -> Answer {
        match request.code {
            code::INIT => protocol::init(request.body, WANTED),
            code::DESTROY => Ok(Vec::new()),
            code::LOOKUP => self.look_up(request),
            code::GETATTR => self
                .node(request.node)
                .map(|node| protocol::attributes_answer(&node)),
            code::READLINK => self.link(request),
            code::READDIR => self.list(request, false),
            code::READDIRPLUS => self.list(request, true),
            code::STATFS => Ok(protocol::full(self.tree.measure())),
            code::GETXATTR | code::LISTXATTR => self.extended(request),
            // OPEN and OPENDIR too: files and directories need no opening then.
            _ => Err(Errno::ENOSYS),
        }
    }

    /// The image's number of a file that the kernel names.
    fn number(&self, node: u64) -> Result<u64, Errno> {
        if node == TOP {
            return Ok(self.tree.top());
        }
        node.checked_sub(TOP + 1).ok_or(Errno::ESTALE)
    }

    /// The other way round.
    fn name_of(&self, number: u64) -> u64 {
        if number == self.tree.top() {
            TOP
        } else {
            number.saturating_add(TOP + 1)
        }
    }

    fn node(&self, node: u64) -> Result<Node, Errno> {
        self.tree.node(self.number(node)?).map_err(|_| Errno::EIO)
    }

    fn names(&self, node: u64) -> Result<Arc<Vec<Name>>, Errno> {
        if let Some(names) = locked(&self.directories).known.get(&node) {
            return Ok(Arc::clone(names));
        }
        let names = self
            .tree
            .names(self.number(node)?)
            .map_err(|_| Errno::EIO)?;
        let names = Arc::new(names);
        let mut directories = locked(&self.directories);
        if directories.names + names.len() > KEPT_NAMES {
            *directories = Directories::default();
        }
        directories.names += names.len();
        directories.known.insert(node, Arc::clone(&names));
        Ok(names)
    }

    fn look_up(&self, request: &Request<'_>) -> Answer {
        let wanted = request.name(0);
        let names = self.names(request.node)?;
        let mut bytes = Vec::with_capacity(128);
        let Ok(index) = names.binary_search_by(|name| name.name.as_slice().cmp(wanted)) else {
            protocol::entry(None, &mut bytes);
            return Ok(bytes);
        };
        let name = names.get(index).ok_or(Errno::EIO)?;
        let node = self.tree.node(name.number).map_err(|_| Errno::EIO)?;
        let named = self.name_of(name.number);
        // The top directory below itself, or a name that would say there is none.
        if named == TOP || named == u64::MAX {
            return Err(Errno::EIO);
        }
        protocol::entry(Some((named, &node)), &mut bytes);
        Ok(bytes)
    }

    fn link(&self, request: &Request<'_>) -> Answer {
        let node = self.node(request.node)?;
        let text = self.tree.target(&node).map_err(|_| Errno::EIO)?;
        // The kernel takes a page.
        if text.is_empty() || text.len() >= 4096 || text.contains(&0) {
            return Err(Errno::EIO);
        }
        Ok(text)
    }

    fn read(&self, request: &Request<'_>, body: &mut Vec<u8>) -> Result<(), Errno> {
        let from = number64(request.body, 8);
        let length = usize::try_from(number32(request.body, 16)).map_err(|_| Errno::EINVAL)?;
        body.resize(length.min(LONGEST_READ), 0);
        let file = self.number(request.node)?;
        let count = self
            .tree
            .read_at(file, from, body)
            .map_err(|_| Errno::EIO)?;
        body.truncate(count);
        Ok(())
    }

    fn list(&self, request: &Request<'_>, with_nodes: bool) -> Answer {
        let from = usize::try_from(number64(request.body, 8)).map_err(|_| Errno::EINVAL)?;
        let room = usize::try_from(number32(request.body, 16)).map_err(|_| Errno::EINVAL)?;
        let room = room.min(LONGEST_READ);
        let names = self.names(request.node)?;
        let mut bytes = Vec::with_capacity(room);
        // `.` and `..` come first, and mean nothing to the kernel but their names.
        let dots: [&[u8]; 2] = [b".", b".."];
        for place in from..names.len().saturating_add(2) {
            let next = place as u64 + 1;
            let (name, kind, number) = match dots.get(place) {
                Some(name) => (*name, Kind::Directory, None),
                None => {
                    let name = names.get(place - 2).ok_or(Errno::EIO)?;
                    (name.name.as_slice(), name.kind, Some(name.number))
                }
            };
            let length = protocol::directory_entry_length(name) + if with_nodes { 128 } else { 0 };
            if bytes.len() + length > room {
                break;
            }
            let node = match number {
                Some(number) if with_nodes => self.tree.node(number).ok(),
                _ => None,
            };
            if with_nodes {
                let named = number.map(|number| self.name_of(number));
                let file = named.zip(node.as_ref());
                // Without one, the kernel takes the name alone.
                protocol::entry(file.filter(|(named, _)| *named != TOP), &mut bytes);
            }
            let shown = node.map_or(number.unwrap_or(TOP), |node| node.identity.1);
            protocol::directory_entry(shown.max(1), next, name, kind, &mut bytes);
        }
        Ok(bytes)
    }

    fn extended(&self, request: &Request<'_>) -> Answer {
        if !self.tree.has_attributes() {
            return Err(Errno::ENOSYS);
        }
        let node = self.node(request.node)?;
        let all = self.tree.attributes(&node).map_err(|_| Errno::EIO)?;
        let value = if request.code == code::GETXATTR {
            let wanted = request.name(8);
            let found = all.into_iter().find(|(name, _)| name == wanted);
            found.ok_or(Errno::ENODATA)?.1
        } else {
            let names = all
                .into_iter()
                .flat_map(|(name, _)| [name, vec![0]].concat());
            names.collect()
        };
        let room = usize::try_from(number32(request.body, 0)).map_err(|_| Errno::EINVAL)?;
        if room == 0 {
            let mut bytes = u32::try_from(value.len())
                .unwrap_or(u32::MAX)
                .to_ne_bytes()
                .to_vec();
            bytes.extend([0; 4]);
            return Ok(bytes);
        }
        if value.len() > room {
            return Err(Errno::ERANGE);
        }
        Ok(value)
    }
}
