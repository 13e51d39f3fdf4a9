//! Which rank is on which node, and the notations for it.

use std::fmt;

/// The most ranks of a job, and nodes: more than any machine has, and what keeps
/// a hostile number from becoming memory.
const MOST: u32 = 1 << 24;

/// Where the ranks of a job are: block, cyclic, plane or any other order, and as
/// many on each node as there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The node of each rank.
    node_of: Vec<u32>,
    /// The ranks of each node, in ascending order.
    ranks_on: Vec<Vec<u32>>,
}

/// A text that does not tell where the ranks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    text: String,
    why: &'static str,
}

impl Bad {
    fn new(text: &str, why: &'static str) -> Self {
        let text = text.chars().take(120).filter(|c| !c.is_control()).collect();
        Bad { text, why }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.text, self.why)
    }
}

impl std::error::Error for Bad {}

impl Layout {
    /// From the node of each rank. Nodes are renumbered without gaps, in the order
    /// of their numbers.
    ///
    /// # Errors
    /// No rank at all, or too many.
    pub fn of_nodes(nodes: &[u32]) -> Result<Layout, Bad> {
        if nodes.is_empty() || nodes.len() > MOST as usize {
            return Err(Bad::new("", "is no job's size"));
        }
        let mut numbers: Vec<u32> = nodes.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranks_on = vec![Vec::new(); numbers.len()];
        let mut node_of = Vec::with_capacity(nodes.len());
        for (rank, node) in nodes.iter().enumerate() {
            // Every number is in the list that was made of them.
            let place = numbers.binary_search(node).unwrap_or_default();
            node_of.push(place as u32);
            ranks_on[place].push(rank as u32);
        }
        Ok(Layout { node_of, ranks_on })
    }

    /// From the ranks of each node.
    ///
    /// # Errors
    /// Unless each rank from 0 on is on exactly one node.
    pub fn of_ranks(nodes: &[Vec<u32>]) -> Result<Layout, Bad> {
        let size: usize = nodes.iter().map(Vec::len).sum();
        if size == 0 || size > MOST as usize {
            return Err(Bad::new("", "is no job's size"));
        }
        let mut node_of = vec![u32::MAX; size];
        for (node, ranks) in nodes.iter().enumerate() {
            for &rank in ranks {
                match node_of.get_mut(rank as usize) {
                    Some(place) if *place == u32::MAX => *place = node as u32,
                    _ => return Err(Bad::new(&rank.to_string(), "is on two nodes, or too high")),
                }
            }
        }
        Layout::of_nodes(&node_of)
    }

    /// All on one node.
    ///
    /// # Errors
    /// As [`Layout::of_nodes`].
    pub fn on_one_node(size: u32) -> Result<Layout, Bad> {
        if size > MOST {
            return Err(Bad::new(&size.to_string(), "is no job's size"));
        }
        Layout::of_nodes(&vec![0; size as usize])
    }

    /// How many ranks there are.
    pub fn size(&self) -> u32 {
        self.node_of.len() as u32
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> u32 {
        self.ranks_on.len() as u32
    }

    /// The node of a rank.
    pub fn node_of(&self, rank: u32) -> Option<u32> {
        self.node_of.get(rank as usize).copied()
    }

    /// The ranks of a node, in ascending order; none for a node there is not.
    pub fn ranks_on(&self, node: u32) -> &[u32] {
        self.ranks_on.get(node as usize).map_or(&[], Vec::as_slice)
    }

    /// The number of a rank among those of its node.
    pub fn local_rank(&self, rank: u32) -> Option<u32> {
        let ranks = self.ranks_on(self.node_of(rank)?);
        ranks.binary_search(&rank).ok().map(|place| place as u32)
    }

    /// From the value of `PMI_process_mapping`: `(vector,(FIRST,NODES,EACH),…)`.
    /// Each triple places EACH ranks on each of NODES nodes from FIRST on; the
    /// whole is repeated until all ranks have a place.
    ///
    /// # Errors
    /// What is not of this form, or places nobody.
    pub fn from_process_mapping(text: &str, size: u32) -> Result<Layout, Bad> {
        let bad = |why| Bad::new(text, why);
        if size == 0 || size > MOST {
            return Err(bad("is for a job of no size"));
        }
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let blocks = compact
            .strip_prefix("(vector")
            .and_then(|rest| rest.strip_suffix(')'))
            .ok_or_else(|| bad("is no vector"))?;
        let mut triples = Vec::new();
        let mut rest = blocks;
        while !rest.is_empty() {
            let (inner, after) = rest
                .strip_prefix(",(")
                .and_then(|rest| rest.split_once(')'))
                .ok_or_else(|| bad("has something else than blocks"))?;
            let mut numbers = inner.split(',').map(|number| number.parse::<u32>().ok());
            let mut next = || numbers.next().flatten().filter(|&number| number <= MOST);
            let (Some(first), Some(nodes), Some(each), None) = (next(), next(), next(), next())
            else {
                return Err(bad("has a block that is not three numbers"));
            };
            if first + nodes > MOST {
                return Err(bad("has too many nodes"));
            }
            triples.push((first, nodes, each));
            rest = after;
        }
        let mut node_of: Vec<u32> = Vec::new();
        while node_of.len() < size as usize {
            let before = node_of.len();
            for &(first, nodes, each) in &triples {
                if each == 0 {
                    continue;
                }
                for node in first..first + nodes {
                    let room = (size as usize - node_of.len()).min(each as usize);
                    node_of.extend(std::iter::repeat_n(node, room));
                    if node_of.len() == size as usize {
                        return Layout::of_nodes(&node_of);
                    }
                }
            }
            if node_of.len() == before {
                return Err(bad("places no rank"));
            }
        }
        Layout::of_nodes(&node_of)
    }

    /// The value of `PMI_process_mapping`, as short as it goes.
    pub fn to_process_mapping(&self) -> String {
        // Ranks that follow one another on a node.
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for &node in &self.node_of {
            match runs.last_mut() {
                Some((last, each)) if *last == node => *each += 1,
                _ => runs.push((node, 1)),
            }
        }
        // Nodes that follow one another with as many.
        let mut blocks: Vec<(u32, u32, u32)> = Vec::new();
        for (node, each) in runs {
            match blocks.last_mut() {
                Some((first, nodes, same)) if *same == each && *first + *nodes == node => {
                    *nodes += 1;
                }
                _ => blocks.push((node, 1, each)),
            }
        }
        // What repeats need not be said again.
        let period = (1..blocks.len())
            .find(|&period| {
                blocks.len() % period == 0
                    && blocks[period..]
                        .iter()
                        .zip(&blocks)
                        .all(|(later, earlier)| later == earlier)
            })
            .unwrap_or(blocks.len());
        let mut text = String::from("(vector");
        for (first, nodes, each) in &blocks[..period] {
            text.push_str(&format!(",({first},{nodes},{each})"));
        }
        text.push(')');
        text
    }

    /// From Slurm's short form of how many tasks each node has (`2(x3),1`), for
    /// tasks that were placed block by block.
    ///
    /// # Errors
    /// What is not of this form.
    pub fn from_tasks_per_node(text: &str) -> Result<Layout, Bad> {
        let mut node_of: Vec<u32> = Vec::new();
        for (node, tasks) in tasks_per_node(text)?.into_iter().enumerate() {
            if node_of.len() + tasks as usize > MOST as usize {
                return Err(Bad::new(text, "is no job's size"));
            }
            node_of.extend(std::iter::repeat_n(node as u32, tasks as usize));
        }
        Layout::of_nodes(&node_of)
    }
}

/// How many tasks each node has, from `2(x3),1`.
fn tasks_per_node(text: &str) -> Result<Vec<u32>, Bad> {
    let bad = || Bad::new(text, "is no list of tasks per node");
    let mut counts = Vec::new();
    for entry in text.split(',') {
        let (tasks, times) = match entry.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')').ok_or_else(bad)?),
            None => (entry, "1"),
        };
        let tasks: u32 = tasks.parse().map_err(|_| bad())?;
        let times: u32 = times.parse().map_err(|_| bad())?;
        if tasks > MOST || times as usize + counts.len() > MOST as usize {
            return Err(bad());
        }
        counts.extend(std::iter::repeat_n(tasks, times as usize));
    }
    Ok(counts)
}

/// The names in Slurm's short form of hosts: `c[01-03,7],login,r[1-2]n[1-4]`.
///
/// # Errors
/// What is not of this form, or is more than a machine's nodes.
pub fn hosts_in(text: &str) -> Result<Vec<String>, Bad> {
    let bad = |why| Bad::new(text, why);
    let mut hosts = Vec::new();
    let mut depth = 0;
    for part in text.split(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    }) {
        let mut names = vec![String::new()];
        let mut rest = part;
        while let Some((before, after)) = rest.split_once('[') {
            let (ranges, after) = after.split_once(']').ok_or_else(|| bad("has no end"))?;
            let numbers = numbers_in(ranges).ok_or_else(|| bad("has a range that is none"))?;
            if names.len() * numbers.len() + hosts.len() > MOST as usize >> 4 {
                return Err(bad("has too many nodes"));
            }
            names = names
                .iter()
                .flat_map(|name| numbers.iter().map(move |n| format!("{name}{before}{n}")))
                .collect();
            rest = after;
        }
        for name in names {
            let name = name + rest;
            if name.is_empty() || name.contains(']') {
                return Err(bad("has a name that is none"));
            }
            hosts.push(name);
        }
    }
    Ok(hosts)
}

/// `01-03,7` as `01`, `02`, `03`, `7`: the width of the first is kept.
fn numbers_in(ranges: &str) -> Option<Vec<String>> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(first) || !digits(last) || first.len() > 9 || last.len() > 9 {
            return None;
        }
        let (from, to): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if to < from || (to - from) as usize + numbers.len() > MOST as usize >> 4 {
            return None;
        }
        let width = first.len();
        numbers.extend((from..=to).map(|number| format!("{number:0width$}")));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(text: &str, size: u32) -> Vec<u32> {
        Layout::from_process_mapping(text, size).unwrap().node_of
    }

    #[test]
    fn mappings_of_real_launchers_are_read() {
        let cases: &[(&str, u32, &[u32])] = &[
            ("(vector,(0,1,4))", 4, &[0, 0, 0, 0]),
            ("(vector,(0,2,2))", 4, &[0, 0, 1, 1]),
            ("(vector,(0,2,1))", 5, &[0, 1, 0, 1, 0]),
            ("(vector,(0,1,2),(1,1,1))", 3, &[0, 0, 1]),
            ("(vector, (0,2,2), (0,2,1))", 6, &[0, 0, 1, 1, 0, 1]),
            ("(vector,(0,1,8))", 2, &[0, 0]),
            ("(vector,(0,3,2),(3,1,1))", 7, &[0, 0, 1, 1, 2, 2, 3]),
            // Nodes that nobody is on do not count.
            ("(vector,(4,1,2),(9,1,1))", 3, &[0, 0, 1]),
        ];
        for (text, size, nodes) in cases {
            assert_eq!(mapped(text, *size), *nodes, "{text}");
        }
    }

    #[test]
    fn mappings_that_place_nobody_are_refused() {
        for text in [
            "",
            "(vector",
            "(vector)",
            "(vector,)",
            "(matrix,(0,1,1))",
            "(vector,(0,1,0))",
            "(vector,(0,0,4))",
            "(vector,(0,1))",
            "(vector,(0,1,1,1))",
            "(vector,(0,1,-1))",
            "(vector,(4294967295,4294967295,1))",
            "(vector,(0,1,1)),(0,1,1)",
        ] {
            assert!(Layout::from_process_mapping(text, 2).is_err(), "{text}");
        }
        assert!(Layout::from_process_mapping("(vector,(0,1,1))", 0).is_err());
        assert!(Layout::from_process_mapping("(vector,(0,1,1))", u32::MAX).is_err());
    }

    #[test]
    fn every_layout_comes_back_from_its_mapping() {
        // All layouts of up to 7 ranks on up to 3 nodes.
        for size in 1..=7_u32 {
            for code in 0..3_u32.pow(size) {
                let nodes: Vec<u32> = (0..size).map(|rank| code / 3_u32.pow(rank) % 3).collect();
                let layout = Layout::of_nodes(&nodes).unwrap();
                let text = layout.to_process_mapping();
                let back = Layout::from_process_mapping(&text, size).unwrap();
                assert_eq!(back, layout, "{nodes:?} as {text}");
            }
        }
    }

    #[test]
    fn a_mapping_is_short_where_the_layout_is_regular() {
        let block: Vec<u32> = (0..512).map(|rank| rank / 64).collect();
        let cyclic: Vec<u32> = (0..512).map(|rank| rank % 8).collect();
        let plane: Vec<u32> = (0..512).map(|rank| rank / 4 % 8).collect();
        let uneven = [0, 0, 0, 1, 1];
        let text = |nodes: &[u32]| Layout::of_nodes(nodes).unwrap().to_process_mapping();
        assert_eq!(text(&block), "(vector,(0,8,64))");
        assert_eq!(text(&cyclic), "(vector,(0,8,1))");
        assert_eq!(text(&plane), "(vector,(0,8,4))");
        assert_eq!(text(&uneven), "(vector,(0,1,3),(1,1,2))");
    }

    #[test]
    fn local_numbers_follow_the_ranks_of_the_node() {
        let layout = Layout::of_nodes(&[0, 1, 0, 1, 1]).unwrap();
        assert_eq!(layout.ranks_on(1), [1, 3, 4]);
        assert_eq!(layout.local_rank(4), Some(2));
        assert_eq!(layout.local_rank(5), None);
        assert_eq!((layout.size(), layout.nodes()), (5, 2));
        assert_eq!(layout.ranks_on(2), [0_u32; 0]);
    }

    #[test]
    fn ranks_of_nodes_make_a_layout_only_if_each_is_there_once() {
        let good = Layout::of_ranks(&[vec![0, 2], vec![1]]).unwrap();
        assert_eq!(good.node_of, [0, 1, 0]);
        for bad in [vec![vec![0, 0]], vec![vec![0], vec![2]], vec![vec![]]] {
            assert!(Layout::of_ranks(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slurms_lists_are_read() {
        let layout = Layout::from_tasks_per_node("2(x2),1").unwrap();
        assert_eq!(layout.node_of, [0, 0, 1, 1, 2]);
        for bad in [
            "",
            "2(x",
            "2(x2",
            "a",
            "1(x4294967295)",
            "4294967295(x4294967295)",
            "2,,1",
        ] {
            assert!(Layout::from_tasks_per_node(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slurms_names_of_nodes_are_written_out() {
        let cases: &[(&str, &[&str])] = &[
            ("c1", &["c1"]),
            ("c[1-2]", &["c1", "c2"]),
            ("c[08-10,7],login", &["c08", "c09", "c10", "c7", "login"]),
            (
                "r[1-2]n[1-2]-ib",
                &["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"],
            ),
        ];
        for (text, hosts) in cases {
            assert_eq!(hosts_in(text).unwrap(), *hosts, "{text}");
        }
        for bad in [
            "",
            "c[",
            "c[1-",
            "c[2-1]",
            "c[a]",
            "c]",
            "a,,b",
            "c[0-99999999][0-99999999]",
            "c[]",
        ] {
            assert!(hosts_in(bad).is_err(), "{bad}");
        }
    }
}
