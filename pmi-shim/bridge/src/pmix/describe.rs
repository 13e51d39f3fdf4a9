//! The description of a job that a PMIx server gives its clients.
//!
//! Modelled on what the servers of Slurm and of PRRTE register: what Open MPI 4.0
//! to 5.0 ask for, and nothing that would have to be guessed.

use crate::sys::pmix::info::{List, Value};
use crate::sys::pmix::server::{Server, Shortened};
use crate::sys::pmix::{Rank, Status};
use pmi_shim::core::Job;
use std::ffi::{CStr, CString};

/// A job, and what its programs are told beside it.
pub struct Description<'a> {
    /// The job.
    pub job: &'a Job,
    /// A directory for files of its programs on this node.
    pub directory: &'a str,
}

impl Description<'_> {
    /// Tells the server all about the job, and lets its local ranks connect from
    /// processes with these ids.
    ///
    /// # Errors
    /// The library's.
    pub fn register(&self, server: &Server, uid: u32, gid: u32) -> Result<(), Status> {
        let local = &self.job.local;
        server.describe(local.len(), self.list(server)?)?;
        for &rank in local {
            server.expect(rank, uid, gid)?;
        }
        Ok(())
    }

    fn list(&self, server: &Server) -> Result<List, Status> {
        let Job {
            name,
            layout,
            local,
            ..
        } = self.job;
        let first = local.first().copied().unwrap_or(0);
        let size = layout.size();
        let nodes: Vec<Node> = (0..layout.nodes())
            .map(|number| self.node(number))
            .collect();
        let mut list = List::default();
        let mut all = Adder(&mut list);
        all.u32(libpmix::PMIX_UNIV_SIZE, size)?;
        all.u32(libpmix::PMIX_MAX_PROCS, size)?;
        all.u32(libpmix::PMIX_JOB_SIZE, size)?;
        all.u32(libpmix::PMIX_JOB_NUM_APPS, 1)?;
        all.u32(libpmix::PMIX_LOCAL_SIZE, count(local.len()))?;
        all.u32(libpmix::PMIX_NODE_SIZE, count(local.len()))?;
        all.u32(libpmix::PMIX_NUM_NODES, layout.nodes())?;
        all.u32(libpmix::PMIX_NPROC_OFFSET, 0)?;
        all.0.add(libpmix::PMIX_LOCALLDR, Value::Rank(first))?;
        all.text(libpmix::PMIX_JOBID, name)?;
        all.text(libpmix::PMIX_LOCAL_PEERS, &listed(local))?;
        for key in [libpmix::PMIX_TMPDIR, libpmix::PMIX_NSDIR] {
            all.text(key, self.directory)?;
        }
        // Without a topology there is nothing to say about processors: each rank is
        // bound as its launcher bound it, and looks for itself.
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let ranks: Vec<String> = nodes.iter().map(|node| listed(node.ranks)).collect();
        let names = server.shortened(&c_string(&names.join(",")), Shortened::Nodes)?;
        let ranks = server.shortened(&c_string(&ranks.join(";")), Shortened::Ranks)?;
        list.add(libpmix::PMIX_NODE_MAP, names)?;
        list.add(libpmix::PMIX_PROC_MAP, ranks)?;
        for node in &nodes {
            for (place, &rank) in node.ranks.iter().enumerate() {
                let process = self.process(rank, place, node)?;
                list.add(libpmix::PMIX_PROC_DATA, Value::List(process))?;
            }
        }
        Ok(list)
    }

    /// What is known of one rank.
    fn process(&self, rank: Rank, place: usize, node: &Node) -> Result<List, Status> {
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        let mut list = List::default();
        // First, so that the library knows whose data follows.
        list.add(libpmix::PMIX_RANK, Value::Rank(rank))?;
        let mut all = Adder(&mut list);
        all.u32(libpmix::PMIX_APPNUM, 0)?;
        all.u32(libpmix::PMIX_NODEID, node.number)?;
        all.text(libpmix::PMIX_HOSTNAME, &node.name)?;
        list.add(libpmix::PMIX_GLOBAL_RANK, Value::Rank(rank))?;
        list.add(libpmix::PMIX_APP_RANK, Value::Rank(rank))?;
        list.add(libpmix::PMIX_LOCAL_RANK, Value::U16(place))?;
        list.add(libpmix::PMIX_NODE_RANK, Value::U16(place))?;
        if self.job.local.contains(&rank) {
            list.add(
                libpmix::PMIX_PROCDIR,
                Value::text(format!("{}/{rank}", self.directory)),
            )?;
        }
        Ok(list)
    }
}

/// One of the job's nodes.
struct Node<'a> {
    number: u32,
    name: String,
    ranks: &'a [Rank],
}

impl Description<'_> {
    fn node(&self, number: u32) -> Node<'_> {
        let ranks = self.job.layout.ranks_on(number);
        // Where the host tells no names, any that differ do; only this node's own is
        // compared with anything, and that is known.
        let told = self.job.hosts.get(number as usize).cloned();
        let here = ranks.first() == self.job.local.first();
        let own = || nix::unistd::gethostname().ok()?.into_string().ok();
        let name = told
            .or_else(|| own().filter(|_| here))
            .unwrap_or_else(|| format!("node{number}"));
        Node {
            number,
            name,
            ranks,
        }
    }
}

struct Adder<'a>(&'a mut List);

impl Adder<'_> {
    fn u32(&mut self, key: &CStr, number: u32) -> Result<(), Status> {
        self.0.add(key, Value::U32(number))
    }

    fn text(&mut self, key: &CStr, text: &str) -> Result<(), Status> {
        self.0.add(key, Value::text(text))
    }
}

fn listed(ranks: &[Rank]) -> String {
    let words: Vec<String> = ranks.iter().map(Rank::to_string).collect();
    words.join(",")
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
