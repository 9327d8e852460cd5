//! What may become of a registry: each transition gives the next document or says why not.

use super::{FrameBox, FrameRecord, FrameState, Hive, Refusal, Registry, default_names};
use crate::ids::FrameId;
use crate::keys;
use crate::names::{FrameName, Name, fold};

impl Registry {
    pub fn apply_create_hive(&self, hive: &Name) -> Result<Self, Refusal> {
        if let Some((existing, _)) = self.hives.get_key_value(hive) {
            return Err(Refusal::HiveExists(existing.clone()));
        }
        let mut next = self.clone();
        let mut content = Hive::default();
        // So that `USE` of a new hive is enough to create a frame.
        if let Some((_, box_name)) = default_names() {
            content.boxes.insert(box_name, FrameBox::default());
        }
        next.hives.insert(hive.clone(), content);
        Ok(next)
    }

    pub fn apply_create_box(&self, hive: &Name, box_name: &Name) -> Result<Self, Refusal> {
        let (hive, content) = self.hive(hive)?;
        if let Some((existing, _)) = content.boxes.get_key_value(box_name) {
            return Err(Refusal::BoxExists(hive.clone(), existing.clone()));
        }
        let mut next = self.clone();
        next.hives
            .entry(hive.clone())
            .or_default()
            .boxes
            .insert(box_name.clone(), FrameBox::default());
        Ok(next)
    }

    /// Refused while a frame is left in any state.
    pub fn apply_drop_box(&self, hive: &Name, box_name: &Name) -> Result<Self, Refusal> {
        let (hive, _) = self.hive(hive)?;
        let (box_name, content) = self.frame_box(hive, box_name)?;
        let what = format!("box {hive}.{box_name}");
        if default_names().is_some_and(|(h, b)| h == *hive && b == *box_name) {
            return Err(Refusal::Permanent(what));
        }
        if let Some(frame) = content.frames.keys().next() {
            return Err(Refusal::NotEmpty {
                what,
                example: format!("frame {frame}"),
            });
        }
        let mut next = self.clone();
        if let Some(content) = next.hives.get_mut(hive) {
            content.boxes.remove(box_name);
        }
        Ok(next)
    }

    /// Refused while a box is left, but for an empty default one, which came with the hive.
    pub fn apply_drop_hive(&self, hive: &Name) -> Result<Self, Refusal> {
        let (hive, content) = self.hive(hive)?;
        let what = format!("hive {hive}");
        if default_names().is_some_and(|(h, _)| h == *hive) {
            return Err(Refusal::Permanent(what));
        }
        let default_box = default_names().map(|(_, box_name)| box_name);
        let mut left = content.boxes.iter().filter(|(name, content)| {
            Some(*name) != default_box.as_ref() || !content.frames.is_empty()
        });
        if let Some((box_name, _)) = left.next() {
            return Err(Refusal::NotEmpty {
                what,
                example: format!("box {box_name}"),
            });
        }
        let mut next = self.clone();
        next.hives.remove(hive);
        Ok(next)
    }

    /// The plain location of a new frame, while no frame was ever there: the caller still has to
    /// look whether something else lies there.
    pub fn plain_location(&self, name: &FrameName) -> Result<Option<String>, Refusal> {
        let (hive, _) = self.hive(&name.hive)?;
        let (box_name, _) = self.frame_box(hive, &name.box_name)?;
        let spelled = FrameName::new(hive.clone(), box_name.clone(), name.frame.clone());
        let location = keys::frame_location(&spelled, None);
        let is_free =
            !self.used_locations.contains(&fold(&location)) && self.check_free(&location).is_ok();
        let is_free = is_free || crate::planted!(PlaceReused);
        Ok(is_free.then_some(location))
    }

    /// Reserves a name, an id and a location for a frame that is going to be made: `location` is what
    /// [`Self::plain_location`] gave, or `None` for the one with the id.
    pub fn apply_reserve(
        &self,
        name: &FrameName,
        id: FrameId,
        location: Option<&str>,
    ) -> Result<(Self, FrameName, FrameRecord), Refusal> {
        let free = self.plain_location(name)?;
        let (hive, _) = self.hive(&name.hive)?;
        let (box_name, content) = self.frame_box(hive, &name.box_name)?;
        let spelled = FrameName::new(hive.clone(), box_name.clone(), name.frame.clone());
        if content.frames.contains_key(&name.frame) {
            return Err(Refusal::FrameExists(spelled));
        }
        let mut next = self.clone();
        let location = match (location, free) {
            (Some(wanted), Some(free)) if wanted == free => {
                next.used_locations.insert(fold(&free));
                free
            }
            _ => keys::frame_location(&spelled, Some(id)),
        };
        self.check_free(&location)?;
        let record = FrameRecord {
            id,
            location,
            state: FrameState::Creating,
            attached: false,
        };
        next.put(&spelled, Some(record.clone()));
        Ok((next, spelled, record))
    }

    /// Version 0 is there: the frame becomes visible. `None` when it is already.
    pub fn apply_make_live(&self, name: &FrameName, id: FrameId) -> Result<Option<Self>, Refusal> {
        let (spelled, record) = self.frame_with_id(name, id)?;
        match record.state {
            FrameState::Live => Ok(None),
            FrameState::Creating => Ok(Some(self.with_state(&spelled, record, FrameState::Live))),
            state => Err(Refusal::WrongState {
                name: spelled,
                state,
            }),
        }
    }

    /// Gives up a reservation whose version 0 never came. The location stays used: version 0 may
    /// still be on its way.
    pub fn apply_abort(&self, name: &FrameName, id: FrameId) -> Result<Self, Refusal> {
        let (spelled, record) = self.frame_with_id(name, id)?;
        if record.state != FrameState::Creating {
            return Err(Refusal::WrongState {
                name: spelled,
                state: record.state,
            });
        }
        let mut next = self.clone();
        next.put(&spelled, None);
        Ok(next)
    }

    /// Makes an existing table a frame.
    pub fn apply_attach(
        &self,
        name: &FrameName,
        id: FrameId,
        location: &str,
    ) -> Result<(Self, FrameName), Refusal> {
        keys::check_location(location)?;
        let (hive, _) = self.hive(&name.hive)?;
        let (box_name, content) = self.frame_box(hive, &name.box_name)?;
        let spelled = FrameName::new(hive.clone(), box_name.clone(), name.frame.clone());
        if content.frames.contains_key(&name.frame) {
            return Err(Refusal::FrameExists(spelled));
        }
        self.check_free(location)?;
        let mut next = self.clone();
        next.used_locations.insert(fold(location));
        let record = FrameRecord {
            id,
            location: location.to_string(),
            state: FrameState::Live,
            attached: true,
        };
        next.put(&spelled, Some(record));
        Ok((next, spelled))
    }

    /// Whether a frame has this id, in any state.
    pub fn has_frame_id(&self, id: FrameId) -> bool {
        self.frames().any(|(_, record)| record.id == id)
    }

    /// Hides a live frame: its drop has begun and will be finished by whoever finds it.
    pub fn apply_begin_drop(
        &self,
        name: &FrameName,
        id: FrameId,
        with_data: bool,
    ) -> Result<Self, Refusal> {
        let (spelled, record) = self.frame_with_id(name, id)?;
        if record.state != FrameState::Live {
            return Err(Refusal::WrongState {
                name: spelled,
                state: record.state,
            });
        }
        let state = if with_data {
            FrameState::DroppingWithData
        } else {
            FrameState::Dropping
        };
        Ok(self.with_state(&spelled, record, state))
    }

    /// Frees the name of a frame whose ledger says that it was dropped (or that was only attached).
    pub fn apply_finish_drop(&self, name: &FrameName, id: FrameId) -> Result<Self, Refusal> {
        let (spelled, record) = self.frame_with_id(name, id)?;
        if !record.state.is_dropping() && !record.attached {
            return Err(Refusal::WrongState {
                name: spelled,
                state: record.state,
            });
        }
        let mut next = self.clone();
        if record.state == FrameState::DroppingWithData && !record.attached {
            next.purging.insert(record.location.clone(), id);
        }
        next.put(&spelled, None);
        Ok(next)
    }

    /// The data of a dropped frame is gone. `None` when that was known.
    pub fn apply_purged(&self, location: &str) -> Option<Self> {
        self.purging.contains_key(location).then(|| {
            let mut next = self.clone();
            next.purging.remove(location);
            next
        })
    }

    fn with_state(&self, name: &FrameName, record: &FrameRecord, state: FrameState) -> Self {
        let mut next = self.clone();
        next.put(
            name,
            Some(FrameRecord {
                state,
                ..record.clone()
            }),
        );
        next
    }

    pub(super) fn put(&mut self, name: &FrameName, record: Option<FrameRecord>) {
        let hive = self.hives.entry(name.hive.clone()).or_default();
        let content = hive.boxes.entry(name.box_name.clone()).or_default();
        match record {
            Some(record) => content.frames.insert(name.frame.clone(), record),
            None => content.frames.remove(&name.frame),
        };
    }

    fn frame_with_id(
        &self,
        name: &FrameName,
        id: FrameId,
    ) -> Result<(FrameName, &FrameRecord), Refusal> {
        let (spelled, record) = self.frame(name)?;
        if record.id == id {
            Ok((spelled, record))
        } else {
            Err(Refusal::FrameReplaced(spelled))
        }
    }

    /// Whether a location is apart from those of all frames and of all that is being deleted.
    fn check_free(&self, location: &str) -> Result<(), Refusal> {
        for (frame, record) in self.frames() {
            if keys::locations_overlap(&record.location, location) {
                let (location, other) = (location.to_string(), record.location.clone());
                return Err(Refusal::LocationTaken {
                    location,
                    other,
                    frame,
                });
            }
        }
        match self
            .purging
            .keys()
            .find(|other| keys::locations_overlap(other, location))
        {
            Some(other) => Err(Refusal::LocationPurging(other.clone())),
            None => Ok(()),
        }
    }
}
