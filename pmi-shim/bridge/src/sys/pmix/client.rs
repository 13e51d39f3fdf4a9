//! A PMIx client: one rank of the host's job.

use super::info::{Array, List, Value};
use super::{copied, copied_slice, free, guarded, nspace_of, process, Rank, Status};
use std::ffi::{c_char, c_void, CStr, CString};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// A connection to the server that the environment names. There is one a process.
pub struct Client {
    nspace: CString,
    rank: Rank,
}

/// Whom an attribute is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The job as a whole.
    Job,
    /// One of its processes.
    Rank(Rank),
}

/// What to do when the host says that something of the job has ended badly.
static ON_EVENT: OnceLock<Box<dyn Fn(Status) + Send + Sync>> = OnceLock::new();

impl Client {
    /// Connects to the server of the environment, and takes the job's data over.
    ///
    /// It starts a thread. `on_event` is called on it when the host reports that a
    /// process or the whole job was aborted, or when the server is gone.
    ///
    /// # Errors
    /// There is no server, or it cannot be talked to.
    pub fn connect(on_event: impl Fn(Status) + Send + Sync + 'static) -> Result<Client, Status> {
        let client = Client::connect_deaf()?;
        if ON_EVENT.set(Box::new(on_event)).is_ok() {
            let mut codes = EVENTS;
            // SAFETY: the codes are copied; the handler is a function, and without a
            // callback the call returns when it is registered.
            let id = unsafe {
                libpmix::PMIx_Register_event_handler(
                    codes.as_mut_ptr(),
                    codes.len(),
                    null_mut(),
                    0,
                    Some(event),
                    None,
                    null_mut(),
                )
            };
            // A number to deregister it with, or an error below zero: a server that
            // reports nothing is lived with.
            tracing::debug!(id, "handler of events");
        }
        Ok(client)
    }

    /// The same, without hearing of anything that the host reports.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_deaf() -> Result<Client, Status> {
        let mut name = process(c"", 0);
        // SAFETY: `name` is ours, and no attributes are passed.
        let answer = unsafe { libpmix::PMIx_Init(&mut name, null_mut(), 0) };
        Status::check(answer)?;
        Ok(Client {
            nspace: nspace_of(&name),
            rank: name.rank,
        })
    }

    /// The number of this process in the job.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// The name that the host has for the job.
    pub fn nspace(&self) -> &CStr {
        &self.nspace
    }

    /// An attribute that is a number.
    pub fn number(&self, of: Of, key: &CStr) -> Option<u32> {
        self.value(of, key, true, |value| {
            let kind = u32::from(value.type_);
            // Each field is read for the kinds that are stored in it.
            let number = match kind {
                libpmix::PMIX_UINT16 => {
                    // SAFETY: plain numbers, for which any bits are valid.
                    u64::from(unsafe { value.data.uint16 })
                }
                libpmix::PMIX_UINT32 | libpmix::PMIX_PROC_RANK => {
                    // SAFETY: as above.
                    u64::from(unsafe { value.data.uint32 })
                }
                libpmix::PMIX_INT | libpmix::PMIX_INT32 => {
                    // SAFETY: as above.
                    u64::try_from(unsafe { value.data.int32 }).ok()?
                }
                libpmix::PMIX_UINT64 | libpmix::PMIX_SIZE => {
                    // SAFETY: as above.
                    unsafe { value.data.uint64 }
                }
                _ => return None,
            };
            u32::try_from(number).ok()
        })
        .ok()
        .flatten()
    }

    /// An attribute that is text.
    pub fn text(&self, of: Of, key: &CStr) -> Option<String> {
        self.value(of, key, true, |value| {
            if u32::from(value.type_) != libpmix::PMIX_STRING {
                return None;
            }
            // SAFETY: of this kind the field is a string or null.
            let text = copied(unsafe { value.data.string })?;
            text.into_string().ok()
        })
        .ok()
        .flatten()
    }

    /// A block of data that a rank has put.
    ///
    /// # Errors
    /// It has put none.
    pub fn bytes(&self, rank: Rank, key: &CStr) -> Result<Vec<u8>, Status> {
        self.value(Of::Rank(rank), key, false, |value| {
            if u32::from(value.type_) != libpmix::PMIX_BYTE_OBJECT {
                return Err(Status::NOT_FOUND);
            }
            // SAFETY: of this kind the field is a block with its length.
            let block = unsafe { value.data.bo };
            Ok(copied_slice(block.bytes.cast::<u8>(), block.size))
        })?
    }

    /// `optional`: only what the server told at the start, or with a fence.
    fn value<T>(
        &self,
        of: Of,
        key: &CStr,
        optional: bool,
        read: impl FnOnce(&libpmix::pmix_value_t) -> T,
    ) -> Result<T, Status> {
        let rank = match of {
            Of::Job => libpmix::PMIX_RANK_WILDCARD,
            Of::Rank(rank) => rank,
        };
        let name = process(&self.nspace, rank);
        let mut directives = List::default();
        if optional {
            directives.add(libpmix::PMIX_OPTIONAL, Value::Bool(true))?;
        }
        let mut directives = Array::of(directives)?;
        let mut value = null_mut();
        // SAFETY: name, key and directives are live and only read; `value` is ours.
        let answer = unsafe {
            libpmix::PMIx_Get(
                &name,
                key.as_ptr(),
                directives.start(),
                directives.length(),
                &mut value,
            )
        };
        Status::check(answer)?;
        // SAFETY: on success it points to one value, which is ours until it is freed.
        let found = unsafe { value.as_ref() }.ok_or(Status::NOT_FOUND)?;
        let answer = read(found);
        // SAFETY: it was allocated for us by PMIx_Get, and nothing of it is kept.
        unsafe { libpmix::PMIx_Value_free(value, 1) };
        Ok(answer)
    }

    /// Keeps a block of data, for [`Client::commit`] to hand to the server.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn put(&self, key: &CStr, block: &[u8]) -> Result<(), Status> {
        let mut value = libpmix::pmix_value_t {
            type_: libpmix::PMIX_BYTE_OBJECT as libpmix::pmix_data_type_t,
            data: libpmix::pmix_value__bindgen_ty_1 {
                bo: libpmix::pmix_byte_object_t {
                    bytes: block.as_ptr().cast_mut().cast::<c_char>(),
                    size: block.len(),
                },
            },
        };
        // SAFETY: key and block live through the call, which copies both and does not
        // write to them.
        let answer =
            unsafe { libpmix::PMIx_Put(libpmix::PMIX_GLOBAL as u8, key.as_ptr(), &mut value) };
        Status::check(answer)
    }

    /// Hands to the server what was put.
    ///
    /// # Errors
    /// The server is gone.
    pub fn commit(&self) -> Result<(), Status> {
        // SAFETY: it takes no arguments.
        Status::check(unsafe { libpmix::PMIx_Commit() })
    }

    /// Waits until all ranks of the job are here, and with `collect` brings what
    /// they have committed.
    ///
    /// # Errors
    /// The server is gone, or says that a rank is.
    pub fn fence(&self, collect: bool) -> Result<(), Status> {
        let mut directives = List::default();
        directives.add(libpmix::PMIX_COLLECT_DATA, Value::Bool(collect))?;
        let mut directives = Array::of(directives)?;
        let everybody = process(&self.nspace, libpmix::PMIX_RANK_WILDCARD);
        // SAFETY: name and directives live through the call, and are only read.
        let answer =
            unsafe { libpmix::PMIx_Fence(&everybody, 1, directives.start(), directives.length()) };
        Status::check(answer)
    }

    /// The nodes of the job, by the names that the host has for them.
    ///
    /// # Errors
    /// The host does not say.
    pub fn nodes(&self) -> Result<Vec<String>, Status> {
        let mut list: *mut c_char = null_mut();
        // SAFETY: the name is live and only read; `list` is ours.
        let answer = unsafe { libpmix::PMIx_Resolve_nodes(self.nspace.as_ptr(), &mut list) };
        Status::check(answer)?;
        let names = copied(list).unwrap_or_default();
        free(list);
        let names = names.to_string_lossy();
        Ok(names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// The ranks on a node.
    ///
    /// # Errors
    /// The host does not say.
    pub fn ranks_on(&self, node: &str) -> Result<Vec<Rank>, Status> {
        let node = CString::new(node).map_err(|_| Status::NOT_FOUND)?;
        let (mut names, mut count) = (null_mut(), 0);
        // SAFETY: both names are live and only read; the answers are ours.
        let answer = unsafe {
            libpmix::PMIx_Resolve_peers(node.as_ptr(), self.nspace.as_ptr(), &mut names, &mut count)
        };
        Status::check(answer)?;
        let ranks = copied_slice(names, count)
            .iter()
            .map(|name| name.rank)
            .collect();
        // SAFETY: allocated for us by PMIx_Resolve_peers, and copied.
        unsafe { libpmix::PMIx_Proc_free(names, count) };
        Ok(ranks)
    }

    /// Asks the host to end the whole job, with `code` as its exit status.
    pub fn abort(&self, code: i32, reason: &str) {
        let reason = CString::new(reason.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the reason lives through the call; no processes are named, which
        // means all of them.
        let answer = unsafe { libpmix::PMIx_Abort(code, reason.as_ptr(), null_mut(), 0) };
        if let Err(status) = Status::check(answer) {
            tracing::debug!(%status, "abort");
        }
    }

    /// Leaves the job in order.
    ///
    /// # Errors
    /// The server is gone.
    pub fn finalize(&self) -> Result<(), Status> {
        let mut directives = List::default();
        // Otherwise it would be a barrier; the program's finalize was one already.
        directives.add(libpmix::PMIX_EMBED_BARRIER, Value::Bool(false))?;
        let mut directives = Array::of(directives)?;
        // SAFETY: the directives live through the call.
        let answer = unsafe { libpmix::PMIx_Finalize(directives.start(), directives.length()) };
        Status::check(answer)
    }
}

/// What ends a job.
const EVENTS: [i32; 10] = [
    libpmix::PMIX_ERR_JOB_ABORTED,
    libpmix::PMIX_ERR_JOB_ABORTED_BY_SIG,
    libpmix::PMIX_ERR_JOB_ABORTED_BY_SYS_EVENT,
    libpmix::PMIX_ERR_JOB_CANCELED,
    libpmix::PMIX_ERR_JOB_TERMINATED,
    libpmix::PMIX_ERR_PROC_ABORTED,
    libpmix::PMIX_ERR_PROC_ABORTED_BY_SIG,
    libpmix::PMIX_ERR_LOST_CONNECTION,
    libpmix::PMIX_ERR_LOST_CONNECTION_TO_SERVER,
    libpmix::PMIX_ERR_UNREACH,
];

/// The handler of events, on libpmix's thread.
extern "C" fn event(
    _registration: usize,
    status: i32,
    _source: *const libpmix::pmix_proc_t,
    _info: *mut libpmix::pmix_info_t,
    _info_length: usize,
    _results: *mut libpmix::pmix_info_t,
    _results_length: usize,
    done: libpmix::pmix_event_notification_cbfunc_fn_t,
    data: *mut c_void,
) {
    guarded((), || {
        if let Some(act) = ON_EVENT.get() {
            act(Status(status));
        }
    });
    if let Some(done) = done {
        // SAFETY: libpmix asks for this call, with its own data, once a handler is
        // through; nothing else is passed along.
        unsafe {
            done(
                libpmix::PMIX_EVENT_ACTION_COMPLETE,
                null_mut(),
                0,
                None,
                null_mut(),
                data,
            )
        };
    }
}
