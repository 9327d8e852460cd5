//! Damage to coordination objects: what a bad disk, a bad link or a person with a broom does to them.
//!
//! Commits, cells and the registry are left alone, but where a scenario replaces them itself: what is lost
//! of those is lost.

use super::SimStore;
use crate::rng::Rng;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, Result};

const QUERIES: &str = "_swarm/queries/";
const NODES: &str = "_swarm/nodes/";
const BELL: &str = "_swarm/bell";

/// Whether an object is one that is damaged here.
pub fn is_coordination(key: &str) -> bool {
    key.starts_with(QUERIES) || key.starts_with(NODES) || key == BELL
}

/// Whether an object is what others go on from: an output, or rows apart from it.
pub fn is_result(key: &str) -> bool {
    key.starts_with(QUERIES) && (key.contains("/outputs/") || key.contains("/data/"))
}

/// What an object is: objects of one kind can be taken for each other.
fn kind(key: &str) -> &str {
    match key.strip_prefix(QUERIES) {
        Some(rest) => rest.split('/').nth(1).unwrap_or_default(),
        None if key.starts_with(NODES) => NODES,
        None => BELL,
    }
}

impl SimStore {
    /// Puts something else in an object's place, unseen by the watch.
    pub async fn replace(&self, key: &str, body: Bytes, how: &str) -> Result<()> {
        let key = Path::from(key);
        self.0.content.put(&key, body.into()).await?;
        self.note_damage(&key, how);
        Ok(())
    }

    /// Damages an object in one of five ways; the rows of an output, which whoever reads its index alone
    /// does not see, in one.
    pub async fn damage(&self, key: &Path, rows: bool, rng: &mut Rng) -> Result<()> {
        let content = &self.0.content;
        let body = content.get(key).await?.bytes().await?;
        let rows = rows && is_result(key.as_ref());
        let how = match if rows { 0 } else { rng.below(5) } {
            0 if !body.is_empty() => {
                let from = if rows { body.len() as u64 * 3 / 4 } else { 0 };
                let (mut flipped, at) = (body.to_vec(), rng.between(from, body.len() as u64 - 1));
                flipped[at as usize] ^= 1 << rng.below(8);
                content.put(key, Bytes::from(flipped).into()).await?;
                "flipped"
            }
            1 => {
                let cut = rng.below(body.len() as u64) as usize;
                content.put(key, body.slice(..cut).into()).await?;
                "cut"
            }
            2 => {
                content.put(key, Bytes::new().into()).await?;
                "emptied"
            }
            3 => match self.other(key, rng).await? {
                Some(other) => {
                    let theirs = content.get(&other).await?.bytes().await?;
                    content.put(key, theirs.into()).await?;
                    content.put(&other, body.into()).await?;
                    self.note_damage(&other, "swapped");
                    "swapped"
                }
                None => return Ok(()),
            },
            _ => {
                content.delete(key).await?;
                self.0.watch.deleted(key.as_ref());
                "deleted"
            }
        };
        self.note_damage(key, how);
        Ok(())
    }

    /// Damages one of the coordination objects that are there, when there are any.
    pub async fn damage_any(&self, rng: &mut Rng) -> Result<()> {
        let mut keys: Vec<Path> = self.coordination().await?;
        if rng.chance(600) && keys.iter().any(|key| is_result(key.as_ref())) {
            keys.retain(|key| is_result(key.as_ref()));
        }
        match rng.pick(&keys).cloned() {
            Some(key) => self.damage(&key, false, rng).await,
            None => Ok(()),
        }
    }

    async fn coordination(&self) -> Result<Vec<Path>> {
        let listed: Vec<ObjectMeta> = self.0.content.list(None).try_collect().await?;
        let keys = listed.into_iter().map(|meta| meta.location);
        Ok(keys.filter(|key| is_coordination(key.as_ref())).collect())
    }

    /// Another object of the same kind.
    async fn other(&self, key: &Path, rng: &mut Rng) -> Result<Option<Path>> {
        let mut others = self.coordination().await?;
        others.retain(|other| other != key && kind(other.as_ref()) == kind(key.as_ref()));
        Ok(rng.pick(&others).cloned())
    }

    fn note_damage(&self, key: &Path, how: &str) {
        self.0.trace.event("world", format_args!("{how} {key}"));
        self.0.trace.count("objects_damaged", 1);
    }
}
