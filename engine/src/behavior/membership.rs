//! Membership: who is in the swarm, as one observer sees it. Pure; the caller lists and reads.
//!
//! A node is judged by whether its heartbeat changes between this observer's own looks, on this
//! observer's own clock, in multiples of the pause that the beat promises. No clock of another machine
//! takes part.
//!
//! Invariants: a node that was never seen to change is unknown and counts in no total; a node that
//! nobody looked at does not grow staler; whoever changes is alive again at once.

use apiary_protocol::heartbeat::Heartbeat;
use apiary_protocol::ids::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What is believed of a beat that was not read yet: the longest pause of a node at rest.
pub const PROMISE_DEFAULT: Duration = Duration::from_secs(60);
/// Silent for more than so many promises: suspect, then dead.
const SUSPECT_PROMISES: u32 = 2;
pub const DEAD_PROMISES: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Alive,
    Suspect,
    Dead,
    /// Never seen to change.
    Unknown,
}

/// Tells one version of a heartbeat from another without reading it: the store's tag.
pub type Mark = String;

/// What one observer saw so far.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    nodes: BTreeMap<NodeId, Seen>,
    request: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Seen {
    mark: Mark,
    /// When the mark was first seen, and when last.
    since: Duration,
    looked_at: Duration,
    has_changed: bool,
    written_ms: Option<i64>,
    /// The beat, with the mark under which it was read.
    beat: Option<(Mark, Arc<Heartbeat>)>,
    read_at: Option<Duration>,
}

/// One node of the swarm.
#[derive(Clone, Debug)]
pub struct Member {
    pub node: NodeId,
    pub state: NodeState,
    /// For how long its beat was seen not to change.
    pub silence: Duration,
    /// When its beat was written, by the store's clock and the last list: for [`by_age`] alone.
    pub written_ms: Option<i64>,
    /// The newest beat that was read; it may be older than the newest there is.
    pub beat: Option<Arc<Heartbeat>>,
    /// When it was read.
    pub read_at: Option<Duration>,
}

/// The swarm as it was seen, in the order of ids.
#[derive(Clone, Debug, Default)]
pub struct SwarmView {
    pub members: Vec<Member>,
    /// What a request to the meadow took lately.
    pub request: Option<Duration>,
}

impl Seen {
    fn silence(&self) -> Duration {
        self.looked_at.saturating_sub(self.since)
    }

    /// Of the newest beat: an older one, of a node that has come to rest since, promised more.
    fn promise(&self) -> Duration {
        let newest = self.beat.as_ref().filter(|(mark, _)| *mark == self.mark);
        newest.map_or(PROMISE_DEFAULT, |(_, beat)| {
            Duration::from_millis(beat.next_beat_ms)
        })
    }

    fn state(&self) -> NodeState {
        match by_silence(self.silence(), self.promise()) {
            NodeState::Dead => NodeState::Dead,
            _ if !self.has_changed => NodeState::Unknown,
            state => state,
        }
    }
}

fn by_silence(silence: Duration, promise: Duration) -> NodeState {
    if silence > promise * DEAD_PROMISES {
        NodeState::Dead
    } else if silence > promise * SUSPECT_PROMISES {
        NodeState::Suspect
    } else {
        NodeState::Alive
    }
}

/// What whoever looks only once can say of a node, to people, and for no decision but whether a query is
/// worth sharing: by how long ago its beat was written, on the store's clock. A beat that cannot be read promises nothing: its node is
/// dead or unknown.
pub fn by_age(age: Duration, beat: Option<&Heartbeat>) -> NodeState {
    let promise = beat.map_or(PROMISE_DEFAULT, |beat| {
        Duration::from_millis(beat.next_beat_ms)
    });
    match by_silence(age, promise) {
        state if beat.is_some() || state == NodeState::Dead => state,
        _ => NodeState::Unknown,
    }
}

impl Observer {
    /// What a look found: all heartbeats that are there. One that is gone has left the swarm.
    pub fn looked(&mut self, now: Duration, found: &[(NodeId, Mark)]) {
        let there: BTreeMap<NodeId, &Mark> =
            found.iter().map(|(node, mark)| (*node, mark)).collect();
        self.nodes.retain(|node, _| there.contains_key(node));
        for (node, mark) in there {
            self.saw(now, node, mark);
        }
    }

    /// When the beats that a list found were written, in milliseconds of the store's clock.
    pub fn written(&mut self, times: impl IntoIterator<Item = (NodeId, i64)>) {
        for (node, written_ms) in times {
            if let Some(seen) = self.nodes.get_mut(&node) {
                seen.written_ms = Some(written_ms);
            }
        }
    }

    /// How long a request took: a sliding mean.
    pub fn took(&mut self, request: Duration) {
        self.request = Some(match self.request {
            None => request,
            Some(mean) => mean - mean / 4 + request / 4,
        });
    }

    /// A beat that was read, alone or after a look.
    pub fn read(&mut self, now: Duration, mark: Mark, beat: Heartbeat) {
        let node = beat.node;
        self.saw(now, node, &mark);
        if let Some(seen) = self.nodes.get_mut(&node) {
            seen.beat = Some((mark, Arc::new(beat)));
            seen.read_at = Some(now);
        }
    }

    /// The marks of the beats that were read: whose mark is the same has nothing new to say.
    pub fn marks(&self) -> BTreeMap<NodeId, Mark> {
        let read = self.nodes.iter().filter_map(|(node, seen)| {
            let (mark, _) = seen.beat.as_ref()?;
            Some((*node, mark.clone()))
        });
        read.collect()
    }

    /// The heartbeat of a node is not there any more.
    pub fn gone(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn saw(&mut self, now: Duration, node: NodeId, mark: &Mark) {
        let seen = self.nodes.entry(node).or_insert_with(|| Seen {
            mark: mark.clone(),
            since: now,
            looked_at: now,
            has_changed: false,
            written_ms: None,
            beat: None,
            read_at: None,
        });
        seen.looked_at = now;
        if seen.mark != *mark {
            seen.mark = mark.clone();
            seen.since = now;
            seen.has_changed = true;
        }
    }

    pub fn view(&self) -> SwarmView {
        let member = |(node, seen): (&NodeId, &Seen)| Member {
            node: *node,
            state: seen.state(),
            silence: seen.silence(),
            written_ms: seen.written_ms,
            beat: seen.beat.as_ref().map(|(_, beat)| Arc::clone(beat)),
            read_at: seen.read_at,
        };
        SwarmView {
            members: self.nodes.iter().map(member).collect(),
            request: self.request,
        }
    }
}

impl SwarmView {
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Alive nodes of this build that take work, with their beats.
    pub fn workers<'a>(
        &'a self,
        build: &'a str,
    ) -> impl Iterator<Item = (&'a Member, &'a Heartbeat)> + 'a {
        let alive = self
            .members
            .iter()
            .filter(|member| member.state == NodeState::Alive);
        alive.filter_map(move |member| {
            let beat = member.beat.as_deref()?;
            (beat.build == build && !beat.draining).then_some((member, beat))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary_protocol::heartbeat::{CacheSummary, Load};

    fn node(byte: u8) -> NodeId {
        NodeId::from_random([byte; 16])
    }

    fn mark(version: u64) -> Mark {
        version.to_string()
    }

    fn beat(node: NodeId, next_beat_ms: u64) -> Heartbeat {
        Heartbeat {
            node,
            name: "n".into(),
            build: "b".into(),
            sequence: 1,
            next_beat_ms,
            cores: 1,
            memory_bytes: 1,
            bee_budget_bytes: 1,
            load: Load::default(),
            temperature: 0.0,
            draining: false,
            claims: vec![],
            cache: CacheSummary::default(),
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn state(observer: &Observer, of: NodeId) -> Option<NodeState> {
        observer.view().member(of).map(|member| member.state)
    }

    #[test]
    fn a_node_is_unknown_until_its_beat_changes_and_dead_when_it_stops() {
        let (mut observer, a) = (Observer::default(), node(1));
        observer.read(seconds(0), mark(1), beat(a, 5_000));
        assert_eq!(state(&observer, a), Some(NodeState::Unknown));
        observer.read(seconds(5), mark(2), beat(a, 5_000));
        assert_eq!(state(&observer, a), Some(NodeState::Alive));
        for (at, expected) in [
            (15, NodeState::Alive),
            (16, NodeState::Suspect),
            (25, NodeState::Suspect),
            (26, NodeState::Dead),
        ] {
            observer.looked(seconds(at), &[(a, mark(2))]);
            assert_eq!(state(&observer, a), Some(expected), "at {at}");
        }
        observer.looked(seconds(900), &[(a, mark(3))]);
        assert_eq!(state(&observer, a), Some(NodeState::Alive), "it woke up");
        observer.looked(seconds(901), &[]);
        assert_eq!(state(&observer, a), None, "it left");
    }

    #[test]
    fn a_node_that_came_to_rest_is_not_held_to_what_it_promised_at_work() {
        let (mut observer, a) = (Observer::default(), node(1));
        observer.read(seconds(0), mark(1), beat(a, 2_000));
        observer.looked(seconds(5), &[(a, mark(2))]);
        observer.looked(seconds(65), &[(a, mark(2))]);
        assert_eq!(
            state(&observer, a),
            Some(NodeState::Alive),
            "its beat was not read"
        );
        observer.read(seconds(66), mark(2), beat(a, 2_000));
        assert_eq!(state(&observer, a), Some(NodeState::Dead), "it was at work");
    }

    #[test]
    fn whoever_looks_once_judges_by_the_age_of_a_beat_in_multiples_of_its_promise() {
        let (busy, idle) = (beat(node(1), 2_000), beat(node(2), 60_000));
        for (age, busy_state, idle_state, unread) in [
            (0, NodeState::Alive, NodeState::Alive, NodeState::Unknown),
            (4, NodeState::Alive, NodeState::Alive, NodeState::Unknown),
            (5, NodeState::Suspect, NodeState::Alive, NodeState::Unknown),
            (9, NodeState::Dead, NodeState::Alive, NodeState::Unknown),
            (121, NodeState::Dead, NodeState::Suspect, NodeState::Unknown),
            (241, NodeState::Dead, NodeState::Dead, NodeState::Dead),
        ] {
            let at = seconds(age);
            assert_eq!(by_age(at, Some(&busy)), busy_state, "busy, {age} s");
            assert_eq!(by_age(at, Some(&idle)), idle_state, "idle, {age} s");
            assert_eq!(by_age(at, None), unread, "unread, {age} s");
        }
    }

    #[test]
    fn a_node_that_never_changes_is_unknown_and_then_dead_and_never_alive() {
        let (mut observer, a) = (Observer::default(), node(1));
        observer.looked(seconds(0), &[(a, mark(1))]);
        observer.looked(seconds(240), &[(a, mark(1))]);
        assert_eq!(state(&observer, a), Some(NodeState::Unknown));
        observer.looked(seconds(241), &[(a, mark(1))]);
        assert_eq!(state(&observer, a), Some(NodeState::Dead));
    }

    #[test]
    fn nobody_grows_stale_while_the_observer_sleeps() {
        let (mut observer, a) = (Observer::default(), node(1));
        observer.read(seconds(0), mark(1), beat(a, 2_000));
        observer.read(seconds(2), mark(2), beat(a, 2_000));
        // A long sleep of the observer: its next look finds a newer beat.
        assert_eq!(state(&observer, a), Some(NodeState::Alive));
        observer.looked(seconds(9_000), &[(a, mark(3))]);
        assert_eq!(state(&observer, a), Some(NodeState::Alive));
    }

    #[test]
    fn only_alive_nodes_of_the_same_build_that_take_work_are_workers() {
        let mut observer = Observer::default();
        for (byte, change) in [
            (1, (|_| {}) as fn(&mut Heartbeat)),
            (2, |beat| beat.build = "other".into()),
            (3, |beat| beat.draining = true),
        ] {
            for version in 0..2 {
                let mut beat = beat(node(byte), 5_000);
                change(&mut beat);
                observer.read(seconds(version), mark(version), beat);
            }
        }
        observer.read(seconds(1), mark(1), beat(node(4), 5_000));
        let view = observer.view();
        let workers: Vec<NodeId> = view.workers("b").map(|(member, _)| member.node).collect();
        assert_eq!(workers, [node(1)]);
    }
}
