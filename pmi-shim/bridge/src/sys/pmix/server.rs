//! A PMIx server: what the programs in the image connect to.
//!
//! libpmix's own thread calls [`Upcalls`]; an implementation must come back at once,
//! and answers later through what it was handed.

use super::info::{Array, List, Value};
use super::{copied, copied_slice, guarded, nspace_of, process, Rank, Status};
use std::ffi::{c_char, c_void, CStr, CString};
use std::ptr::null_mut;
use std::sync::{mpsc, OnceLock};

/// What the library asks of the one who runs it.
pub trait Upcalls: Send + Sync {
    /// A rank has connected (`PMIx_Init`).
    fn connected(&self, rank: Rank);
    /// A rank wants to leave in order (`PMIx_Finalize`), and waits for the answer.
    fn finalized(&self, rank: Rank, farewell: Farewell);
    /// A rank asks for the end of the job (`PMIx_Abort`).
    fn aborted(&self, rank: Rank, code: i32, reason: &str);
    /// All local ranks are at a fence.
    fn fence(&self, fence: Fence, answer: Answer);
    /// A rank has something to say to the user (`PMIx_Log`), as Open MPI 5 does with
    /// all its messages. It waits for the answer, which must not be given before the
    /// upcall returns: libpmix holds a lock until then.
    fn said(&self, text: Vec<u8>, heard: Farewell);
    /// What a rank of another node has put is asked for, or something that is nowhere:
    /// of a job of another name, or of no rank.
    fn wanted(&self, job: &CStr, rank: Rank, answer: Answer);
}

/// A rank that waits for no more than an answer, as to leave. Dropped, it is let go.
pub struct Farewell {
    callback: libpmix::pmix_op_cbfunc_t,
    data: *mut c_void,
}

// SAFETY: as for `Answer`.
unsafe impl Send for Farewell {}

impl Farewell {
    /// Lets it go.
    pub fn answer(self) {}
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            // SAFETY: libpmix's own function with its own data, called once.
            unsafe { callback(Status::SUCCESS.0, self.data) };
        }
    }
}

/// A fence that all local ranks have reached.
pub struct Fence {
    /// It is one of the whole job.
    pub everybody: bool,
    /// It is to bring everybody what was committed.
    pub collects: bool,
    /// What was committed here, if it collects.
    pub data: Vec<u8>,
}

/// The one who is asked. There is one server a process.
static UPCALLS: OnceLock<Box<dyn Upcalls>> = OnceLock::new();

/// Where the answer to an upcall goes. Dropped, it is an error.
pub struct Answer {
    callback: libpmix::pmix_modex_cbfunc_t,
    data: *mut c_void,
}

// SAFETY: libpmix takes the answer from any thread (it shifts it to its own), and
// nobody reads what the pointer points to here.
unsafe impl Send for Answer {}

impl Answer {
    /// Gives the answer: data, or what went wrong.
    pub fn give(mut self, answer: Result<Vec<u8>, Status>) {
        self.send(answer);
    }

    /// To one who asked for what a rank has put: a fence has brought it meanwhile, and
    /// libpmix has it.
    pub fn leave_to_libpmix(mut self) {
        if let Some(callback) = self.callback.take() {
            // No data at all would mean that a job's description has come
            // (pmix_server_get.c), and so this is a block, of no bytes.
            let nothing = c"".as_ptr();
            // SAFETY: libpmix's own function with its own data, called once; the block
            // lives for ever, and nothing has to be told when it has been read.
            unsafe { callback(Status::SUCCESS.0, nothing, 0, self.data, None, null_mut()) };
        }
    }

    fn send(&mut self, answer: Result<Vec<u8>, Status>) {
        let Some(callback) = self.callback.take() else {
            return;
        };
        let (status, block) = match answer {
            Ok(block) => (Status::SUCCESS, block),
            Err(status) => (status, Vec::new()),
        };
        // Kept until libpmix says that it has read it: `release` takes it back.
        let kept = Box::into_raw(Box::new(block));
        // SAFETY: just made from a box, so it points to a live vector.
        let block: &Vec<u8> = unsafe { &*kept };
        let (start, length) = match block.is_empty() {
            true => (null_mut(), 0),
            false => (block.as_ptr().cast_mut().cast::<c_char>(), block.len()),
        };
        // SAFETY: libpmix's own function with its own data, called once; the block
        // lives until `release`, which it is told with what to call.
        unsafe {
            callback(
                status.0,
                start,
                length,
                self.data,
                Some(release),
                kept.cast(),
            )
        };
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Err(Status::ERROR));
    }
}

/// libpmix has read the block of an answer.
extern "C" fn release(kept: *mut c_void) {
    if !kept.is_null() {
        // SAFETY: it is the pointer made in `Answer::send`, given back once.
        drop(unsafe { Box::from_raw(kept.cast::<Vec<u8>>()) });
    }
}

/// What [`Server::shortened`] is given.
#[derive(Clone, Copy)]
pub enum Shortened {
    /// Names, with commas between them.
    Nodes,
    /// For each node its ranks with commas, and semicolons between the nodes.
    Ranks,
}

/// The running server.
pub struct Server {
    nspace: CString,
}

impl Server {
    /// Starts the server: a thread, and a socket on 127.0.0.1. Files go below
    /// `directory`, which is the caller's to remove.
    ///
    /// # Errors
    /// A socket or a file cannot be made.
    pub fn start(
        directory: &CStr,
        nspace: CString,
        upcalls: Box<dyn Upcalls>,
    ) -> Result<Server, Status> {
        if UPCALLS.set(upcalls).is_err() {
            return Err(Status::ERROR);
        }
        let mut directives = List::default();
        for key in [libpmix::PMIX_SERVER_TMPDIR, libpmix::PMIX_SYSTEM_TMPDIR] {
            directives.add(key, Value::Text(directory.to_owned()))?;
        }
        directives.add(
            libpmix::PMIX_SERVER_NSPACE,
            Value::text("singularity-bridge"),
        )?;
        directives.add(libpmix::PMIX_SERVER_RANK, Value::Rank(0))?;
        let mut directives = Array::of(directives)?;
        // The library keeps a copy.
        let mut module = libpmix::pmix_server_module_t {
            client_connected2: Some(client_connected),
            client_finalized: Some(client_finalized),
            abort: Some(abort),
            fence_nb: Some(fence),
            direct_modex: Some(direct_modex),
            log: Some(log),
            ..NOTHING
        };
        // SAFETY: module and directives live through the call, and are copied.
        let answer = unsafe {
            libpmix::PMIx_server_init(&mut module, directives.start(), directives.length())
        };
        Status::check(answer)?;
        Ok(Server { nspace })
    }

    /// Tells what the job is; before any client.
    ///
    /// # Errors
    /// Something in the list is not as it must be.
    pub fn describe(&self, local_ranks: usize, job: List) -> Result<(), Status> {
        let mut job = Array::of(job)?;
        completed(|callback, data| {
            // SAFETY: name and list live until the callback, which `completed` waits
            // for; the data is what the callback wants.
            unsafe {
                libpmix::PMIx_server_register_nspace(
                    self.nspace.as_ptr(),
                    i32::try_from(local_ranks).unwrap_or(i32::MAX),
                    job.start(),
                    job.length(),
                    callback,
                    data,
                )
            }
        })
    }

    /// Lets a rank connect, from processes with these ids.
    ///
    /// # Errors
    /// The rank was not described.
    pub fn expect(&self, rank: Rank, uid: u32, gid: u32) -> Result<(), Status> {
        let name = process(&self.nspace, rank);
        completed(|callback, data| {
            // SAFETY: the name lives until the callback, which `completed` waits for;
            // no object of ours goes with it; the data is what the callback wants.
            unsafe {
                libpmix::PMIx_server_register_client(&name, uid, gid, null_mut(), callback, data)
            }
        })
    }

    /// A list of node names, or of the ranks of each, in the short form that clients
    /// expect (`PMIX_NODE_MAP`, `PMIX_PROC_MAP`).
    ///
    /// # Errors
    /// The list is empty.
    pub fn shortened(&self, list: &CStr, of: Shortened) -> Result<Value, Status> {
        let mut short: *mut c_char = null_mut();
        let answer = match of {
            Shortened::Nodes => {
                // SAFETY: the list is live and only read; `short` is ours.
                unsafe { libpmix::PMIx_generate_regex(list.as_ptr(), &mut short) }
            }
            Shortened::Ranks => {
                // SAFETY: as above.
                unsafe { libpmix::PMIx_generate_ppn(list.as_ptr(), &mut short) }
            }
        };
        Status::check(answer)?;
        let text = copied(short).ok_or(Status::ERROR)?;
        super::free(short);
        Ok(Value::Text(text))
    }

    /// The variables by which a rank finds this server.
    ///
    /// # Errors
    /// The rank was not described.
    pub fn environment(&self, rank: Rank) -> Result<Vec<(String, String)>, Status> {
        let name = process(&self.nspace, rank);
        let mut list: *mut *mut c_char = null_mut();
        // SAFETY: the name is live and only read; the list is ours, and empty.
        let answer = unsafe { libpmix::PMIx_server_setup_fork(&name, &mut list) };
        Status::check(answer)?;
        let mut variables = Vec::new();
        for index in 0.. {
            // The list ends with null, where the loop does.
            let entry = copied_slice(list.wrapping_add(index), 1);
            let Some(entry) = entry.first().and_then(|&text| copied(text)) else {
                break;
            };
            if let Some((name, value)) = entry.to_string_lossy().split_once('=') {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        // SAFETY: allocated for us by PMIx_server_setup_fork, and copied.
        unsafe { libpmix::PMIx_Argv_free(list) };
        Ok(variables)
    }

    /// What a local rank has put and committed; waits until it has.
    ///
    /// # Errors
    /// It is not one of ours, or `patience` is over.
    pub fn committed(&self, rank: Rank, patience: std::time::Duration) -> Result<Vec<u8>, Status> {
        let (sender, receiver) = mpsc::channel();
        self.when_committed(rank, move |data| sender.send(data).unwrap_or_default());
        receiver
            .recv_timeout(patience)
            .unwrap_or(Err(Status(libpmix::PMIX_ERR_TIMEOUT)))
    }

    /// Has `told` called with what a local rank has put and committed, as soon as it
    /// has, by a thread of libpmix's; with an error if it is not one of ours.
    pub fn when_committed(
        &self,
        rank: Rank,
        told: impl FnOnce(Result<Vec<u8>, Status>) + Send + 'static,
    ) {
        let name = process(&self.nspace, rank);
        let told: Told = Box::new(told);
        let data = Box::into_raw(Box::new(told));
        // SAFETY: the name is copied; the data is what `response` takes back, once.
        let answer =
            unsafe { libpmix::PMIx_server_dmodex_request(&name, Some(response), data.cast()) };
        if let Err(status) = Status::check(answer) {
            // SAFETY: just made from a box, and no callback follows.
            let told = unsafe { Box::from_raw(data) };
            told(Err(status));
        }
    }

    /// Stops the server. Ranks that are still connected lose it.
    pub fn stop(&self) {
        // SAFETY: it takes no arguments, and waits for calls on other threads.
        let answer = unsafe { libpmix::PMIx_server_finalize() };
        if let Err(status) = Status::check(answer) {
            tracing::debug!(%status, "stop the server");
        }
    }
}

/// Makes a call that ends with a callback, and waits for that.
fn completed(
    call: impl FnOnce(libpmix::pmix_op_cbfunc_t, *mut c_void) -> i32,
) -> Result<(), Status> {
    let (sender, receiver) = mpsc::channel::<Status>();
    let data = Box::into_raw(Box::new(sender));
    match Status(call(Some(complete), data.cast())) {
        Status::SUCCESS => Status::check(receiver.recv().unwrap_or(Status::ERROR).0),
        // No callback follows, and the few bytes of `data` stay.
        at_once => Status::check(at_once.0),
    }
}

/// The end of a call that [`completed`] waits for.
extern "C" fn complete(status: i32, data: *mut c_void) {
    // SAFETY: it is the box of `completed`, and comes once.
    let sender = unsafe { Box::from_raw(data.cast::<mpsc::Sender<Status>>()) };
    guarded((), || sender.send(Status(status)).unwrap_or_default());
}

/// Whom [`Server::when_committed`] tells.
type Told = Box<dyn FnOnce(Result<Vec<u8>, Status>) + Send>;

/// The answer of [`Server::when_committed`].
extern "C" fn response(status: i32, block: *mut c_char, length: usize, data: *mut c_void) {
    // SAFETY: it is the box of `when_committed`, and comes once.
    let told = unsafe { Box::from_raw(data.cast::<Told>()) };
    let block = copied_slice(block.cast::<u8>(), length);
    guarded((), || told(Status::check(status).map(|()| block)));
}

/// The rank of a name that libpmix hands to an upcall.
fn rank_of(name: *const libpmix::pmix_proc_t) -> Option<Rank> {
    // SAFETY: null or a name that lives until the upcall returns.
    unsafe { name.as_ref() }.map(|name| name.rank)
}

extern "C" fn client_connected(
    name: *const libpmix::pmix_proc_t,
    _object: *mut c_void,
    _info: *mut libpmix::pmix_info_t,
    _length: usize,
    _callback: libpmix::pmix_op_cbfunc_t,
    _data: *mut c_void,
) -> i32 {
    guarded(Status::ERROR.0, || {
        if let (Some(upcalls), Some(rank)) = (UPCALLS.get(), rank_of(name)) {
            upcalls.connected(rank);
        }
        // Done, and no callback follows.
        Status::DONE.0
    })
}

extern "C" fn client_finalized(
    name: *const libpmix::pmix_proc_t,
    _object: *mut c_void,
    callback: libpmix::pmix_op_cbfunc_t,
    data: *mut c_void,
) -> i32 {
    guarded(Status::ERROR.0, || {
        let farewell = Farewell { callback, data };
        if let (Some(upcalls), Some(rank)) = (UPCALLS.get(), rank_of(name)) {
            upcalls.finalized(rank, farewell);
        }
        Status::SUCCESS.0
    })
}

extern "C" fn abort(
    name: *const libpmix::pmix_proc_t,
    _object: *mut c_void,
    code: i32,
    reason: *const c_char,
    _processes: *mut libpmix::pmix_proc_t,
    _count: usize,
    _callback: libpmix::pmix_op_cbfunc_t,
    _data: *mut c_void,
) -> i32 {
    guarded(Status::ERROR.0, || {
        let reason = copied(reason).unwrap_or_default();
        if let (Some(upcalls), Some(rank)) = (UPCALLS.get(), rank_of(name)) {
            upcalls.aborted(rank, code, &reason.to_string_lossy());
        }
        Status::DONE.0
    })
}

extern "C" fn fence(
    names: *const libpmix::pmix_proc_t,
    count: usize,
    info: *const libpmix::pmix_info_t,
    length: usize,
    block: *mut c_char,
    block_length: usize,
    callback: libpmix::pmix_modex_cbfunc_t,
    data: *mut c_void,
) -> i32 {
    guarded(Status::ERROR.0, || {
        let ranks: Vec<Rank> = copied_slice(names, count)
            .iter()
            .map(|name| name.rank)
            .collect();
        let fence = Fence {
            everybody: ranks == [libpmix::PMIX_RANK_WILDCARD],
            collects: copied_slice(info, length).iter().any(collects),
            data: copied_slice(block.cast::<u8>(), block_length),
        };
        // It was left to us (pmix_server.h, pmix_server_fencenb_fn_t).
        super::free(block);
        let answer = Answer { callback, data };
        match UPCALLS.get() {
            Some(upcalls) => upcalls.fence(fence, answer),
            None => drop(answer),
        }
        Status::SUCCESS.0
    })
}

/// Whether an attribute has this name.
fn is_named(info: &libpmix::pmix_info_t, name: &CStr) -> bool {
    let bytes = name.to_bytes_with_nul();
    info.key
        .iter()
        .zip(bytes)
        .all(|(&one, &other)| one as u8 == other)
}

extern "C" fn log(
    _name: *const libpmix::pmix_proc_t,
    data: *const libpmix::pmix_info_t,
    count: usize,
    _directives: *const libpmix::pmix_info_t,
    _length: usize,
    callback: libpmix::pmix_op_cbfunc_t,
    callback_data: *mut c_void,
) {
    let heard = Farewell {
        callback,
        data: callback_data,
    };
    guarded((), || {
        let mut all = Vec::new();
        for info in copied_slice(data, count) {
            let streams = [libpmix::PMIX_LOG_STDERR, libpmix::PMIX_LOG_STDOUT];
            let text = match u32::from(info.value.type_) {
                libpmix::PMIX_STRING => {
                    // SAFETY: of this kind the field is a string or null.
                    copied(unsafe { info.value.data.string }).map(CString::into_bytes)
                }
                libpmix::PMIX_BYTE_OBJECT => {
                    // SAFETY: of this kind the field is a block with its length.
                    let block = unsafe { info.value.data.bo };
                    Some(copied_slice(block.bytes.cast::<u8>(), block.size))
                }
                _ => None,
            };
            let to_user = streams.iter().any(|stream| is_named(&info, stream));
            all.extend(text.filter(|_| to_user).unwrap_or_default());
        }
        if let Some(upcalls) = UPCALLS.get() {
            upcalls.said(all, heard);
        }
    });
}

/// Whether an attribute of a fence says that it collects.
fn collects(info: &libpmix::pmix_info_t) -> bool {
    let named = is_named(info, libpmix::PMIX_COLLECT_DATA);
    let truth = u32::from(info.value.type_) == libpmix::PMIX_BOOL;
    // SAFETY: of this kind the field is a truth, which C stores as 0 or 1.
    named && (!truth || unsafe { info.value.data.flag })
}

extern "C" fn direct_modex(
    name: *const libpmix::pmix_proc_t,
    _info: *const libpmix::pmix_info_t,
    _length: usize,
    callback: libpmix::pmix_modex_cbfunc_t,
    data: *mut c_void,
) -> i32 {
    guarded(Status::ERROR.0, || {
        let answer = Answer { callback, data };
        // SAFETY: null or a name that lives until the upcall returns.
        let name = unsafe { name.as_ref() };
        match (UPCALLS.get(), name) {
            (Some(upcalls), Some(name)) => upcalls.wanted(&nspace_of(name), name.rank, answer),
            _ => drop(answer),
        }
        Status::SUCCESS.0
    })
}

/// A server that does nothing: what is absent, the library refuses by itself, and
/// the MPI reports as its own error (spawning, connecting, groups, publishing).
const NOTHING: libpmix::pmix_server_module_t = libpmix::pmix_server_module_t {
    client_connected: None,
    client_finalized: None,
    abort: None,
    fence_nb: None,
    direct_modex: None,
    publish: None,
    lookup: None,
    unpublish: None,
    spawn: None,
    connect: None,
    disconnect: None,
    register_events: None,
    deregister_events: None,
    listener: None,
    notify_event: None,
    query: None,
    tool_connected: None,
    log: None,
    allocate: None,
    job_control: None,
    monitor: None,
    get_credential: None,
    validate_credential: None,
    iof_pull: None,
    push_stdin: None,
    group: None,
    fabric: None,
    client_connected2: None,
    session_control: None,
};
