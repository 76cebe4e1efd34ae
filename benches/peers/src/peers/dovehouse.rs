//! dovehouse's engine in its default configuration: a commit returns a ticket, and the ticket is waited
//! for. The engine has its own group commit.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context, Result};
use dovehouse_engine::{ClassId, Engine, List, Object, ObjectId, Ticket};

use super::{Awake, Peer, Put, Session};
use crate::content::Id;

pub struct Dovehouse {
    engine: Engine,
    class: ClassId,
}

impl Dovehouse {
    pub fn open(dir: &Path) -> Result<Self> {
        let engine = Engine::open(dir)?;
        let class = engine.class("Bench")?;
        Ok(Dovehouse { engine, class })
    }

    fn wake(&self, id: &Id) -> Result<Object> {
        Ok(self.engine.wake(self.class, ObjectId::from_bytes(*id))?)
    }
}

impl Peer for Dovehouse {
    fn session(&self, awake: &[Id], _alone: bool) -> Result<Box<dyn Session + '_>> {
        let objects = awake.iter().map(|id| self.wake(id));
        Ok(Box::new(Tickets {
            peer: self,
            awake: objects.collect::<Result<_>>()?,
            under_way: VecDeque::new(),
        }))
    }

    fn syncs(&self) -> u64 {
        self.engine.stats().log.durable_writes
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        append(&self.wake(id)?, key, out)
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let object = self.wake(id)?;
        let mut count = 0;
        for listed in object.list(&List::all()) {
            let (key, value) = listed?;
            out.extend_from_slice(&key);
            out.extend_from_slice(&value);
            count += 1;
        }
        Ok(count)
    }

    fn awake(&self, ids: &[Id]) -> Result<Option<Awake<'_>>> {
        let objects = ids.iter().map(|id| self.wake(id));
        let objects: Vec<Object> = objects.collect::<Result<_>>()?;
        Ok(Some(Box::new(move |number, key, out| {
            append(&objects[number], key, out)
        })))
    }

    /// Segments that wait to be used, and what is unused of the others.
    fn free_bytes(&self) -> Result<u64> {
        let log = self.engine.stats().log;
        let segments = self.engine.log().segments();
        let used: u64 = segments
            .iter()
            .map(|segment| u64::from(segment.end()))
            .sum();
        Ok(log.segment_files as u64 * log.segment_bytes - used)
    }

    fn settle(self: Box<Self>) -> Result<()> {
        self.engine.compact()?;
        self.close()
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.engine.close()?)
    }
}

fn append(object: &Object, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let value = object.get(key)?;
    out.extend_from_slice(value.as_deref().unwrap_or_default());
    Ok(value.is_some())
}

/// Commits of one thread; they become durable in the order in which they were begun.
struct Tickets<'a> {
    peer: &'a Dovehouse,
    awake: Vec<Object>,
    under_way: VecDeque<(usize, Ticket)>,
}

impl Session for Tickets<'_> {
    fn submit(&mut self, client: usize, id: &Id, puts: &[Put<'_>]) -> Result<()> {
        let ticket = match self.awake.get_mut(client) {
            Some(object) => commit(object, puts)?,
            None => commit(&mut self.peer.wake(id)?, puts)?,
        };
        self.under_way.push_back((client, ticket));
        Ok(())
    }

    fn completed(&mut self, done: &mut Vec<usize>) -> Result<()> {
        let (client, ticket) = self.under_way.pop_front().context("nothing is under way")?;
        ticket.wait()?;
        done.push(client);
        while let Some((client, _)) = self
            .under_way
            .pop_front_if(|(_, ticket)| ticket.is_durable())
        {
            done.push(client);
        }
        Ok(())
    }
}

fn commit(object: &mut Object, puts: &[Put<'_>]) -> Result<Ticket> {
    for (key, value) in puts {
        object.put(key, value)?;
    }
    object.commit()?.context("nothing was changed")
}
