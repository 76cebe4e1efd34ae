//! The log as its users see it: durability, refusals, damage, and reads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dovehouse_wal::fs::{Fs, RealFs};
use dovehouse_wal::sim::{Failure, Fault, Operation, SimFs};
use dovehouse_wal::{
    Access, Claim, Drive, Error, Log, LogOptions, Lsn, Opening, RESERVE_SEGMENTS, Record, Teeth,
    Ticket, TicketState,
};

mod common;

use common::{Book, SEGMENT_BYTES, options};

type Replayed = Vec<(Lsn, Vec<u8>)>;

fn open_as(fs: &SimFs, access: Access) -> Result<(Log<Book>, Replayed), Error> {
    let opening = Opening::new(
        Arc::new(fs.clone()),
        Path::new("store"),
        options(Teeth::default()),
        access,
    )?;
    let mut replayed = Vec::new();
    let log = opening.recover::<_, Error>(Arc::default(), |record, _| {
        replayed.push((record.lsn, record.body.to_vec()));
        Ok(())
    })?;
    Ok((log, replayed))
}

fn open(fs: &SimFs) -> (Log<Book>, Replayed) {
    open_as(fs, Access::Create).unwrap()
}

fn append(log: &Log<Book>, body: &[u8]) -> Result<Ticket, Error> {
    let reservation = log.reserve(body.len(), Claim::Growth)?;
    log.append(
        Record {
            kind: 1,
            flags: 0,
            body: body.to_vec(),
            note: Some(0),
        },
        reservation,
    )
}

fn bodies(replayed: &Replayed) -> Vec<&[u8]> {
    replayed.iter().map(|(_, body)| body.as_slice()).collect()
}

fn segment(number: u32) -> std::path::PathBuf {
    Path::new("store").join(format!("segment-{number:08}"))
}

#[test]
fn records_come_back_in_order_after_a_kill_and_can_be_read_by_position() {
    let fs = SimFs::new(1);
    let (log, _) = open(&fs);
    for body in [b"one".as_slice(), b"two", b"three"] {
        append(&log, body).unwrap().wait().unwrap();
    }
    let (log, replayed) = open(&fs.power_loss());
    assert_eq!(bodies(&replayed), [b"one".as_slice(), b"two", b"three"]);
    for (lsn, body) in &replayed {
        assert_eq!(log.read(*lsn, 0).unwrap().unwrap().body, *body);
    }
}

#[test]
fn a_batch_that_was_never_finished_is_dropped_and_what_came_before_it_stays() {
    let fs = SimFs::new(2);
    let (log, _) = open(&fs);
    append(&log, b"kept").unwrap().wait().unwrap();
    append(&log, &[7; 9000]).unwrap().wait().unwrap();
    // The last batch loses its tail, as a torn write does.
    fs.rot(&segment(1), 4096 * 2 + 8000, |byte| *byte ^= 1);
    let (_, replayed) = open(&fs.power_loss());
    assert_eq!(bodies(&replayed), [b"kept"]);
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_with_its_place() {
    let fs = SimFs::new(3);
    let (log, _) = open(&fs);
    for body in [b"one", b"two", b"six"] {
        append(&log, body).unwrap().wait().unwrap();
    }
    drop(log);
    fs.rot(&segment(1), 4096 * 2 + 70, |byte| *byte ^= 1);
    match open_as(&fs.power_loss(), Access::Write) {
        Err(Error::Corrupt { path, offset, .. }) => {
            assert_eq!((path, offset), (segment(1), 4096 * 2));
        }
        other => panic!("the damage went unnoticed: {other:?}"),
    }
}

#[test]
fn damage_at_the_end_of_a_segment_is_seen_by_the_one_that_follows() {
    let fs = SimFs::new(4);
    let (log, _) = open(&fs);
    for number in 0..12u8 {
        append(&log, &[number; 10_000]).unwrap().wait().unwrap();
    }
    drop(log);
    // Segment 1 holds the header block and five batches of three blocks each.
    fs.rot(&segment(1), 4096 * 13 + 500, |byte| *byte ^= 1);
    let error = open_as(&fs.power_loss(), Access::Write).unwrap_err();
    assert!(
        matches!(error, Error::Corrupt { offset: 53248, .. }),
        "{error}"
    );
}

#[test]
fn a_log_with_a_missing_segment_is_refused_since_a_later_one_saw_it_durable() {
    let fs = SimFs::new(5);
    let (log, _) = open(&fs);
    for number in 0..18u8 {
        append(&log, &[number; 10_000]).unwrap().wait().unwrap();
    }
    drop(log);
    // The header of the second segment rots away: the chain seems to end with the first.
    fs.rot(&segment(2), 20, |byte| *byte ^= 1);
    let error = open_as(&fs.power_loss(), Access::Write).unwrap_err();
    assert!(error.to_string().contains("saw it durable"), "{error}");
}

#[test]
fn an_unreadable_tail_is_not_taken_for_an_unwritten_one() {
    let fs = SimFs::new(6);
    let (log, _) = open(&fs);
    append(&log, b"acknowledged").unwrap().wait().unwrap();
    let files = log.stats().segment_files as u64;
    drop(log);
    let fs = fs.process_death();
    // The first reads are of the segments' headers; the next ones of batches.
    fs.inject(Fault {
        operation: Operation::Read,
        name: "segment",
        after: files,
        failure: Failure::Eio,
        lasting: false,
    });
    let error = open_as(&fs, Access::Write).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(bodies(&open(&fs).1), [b"acknowledged"]);
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_and_reads_go_on() {
    let fs = SimFs::new(7);
    let (log, _) = open(&fs);
    append(&log, b"safe").unwrap().wait().unwrap();
    // The reserve is complete: what is written from here on are batches.
    append(&log, b"safe too").unwrap().wait().unwrap();
    let (position, durable) = (log.position(), log.durable());
    fs.inject(Fault {
        operation: Operation::Write,
        name: "segment",
        after: 0,
        failure: Failure::Eio,
        lasting: false,
    });
    let (lost, behind) = (
        append(&log, b"lost").unwrap(),
        append(&log, b"behind").unwrap(),
    );
    assert!(matches!(lost.wait(), Err(Error::Poisoned { .. })));
    assert!(matches!(
        behind.state(),
        TicketState::Unknown(Error::Poisoned { .. })
    ));
    assert!(matches!(
        append(&log, b"later"),
        Err(Error::Poisoned { .. })
    ));
    assert_eq!(log.durable(), durable);
    let safe = Lsn::new(position.lsn.segno(), 4096 + 64);
    assert_eq!(log.read(safe, 0).unwrap().unwrap().body, b"safe");
}

#[test]
fn a_callback_is_called_once_when_its_ticket_is_settled() {
    let fs = SimFs::new(41);
    let (log, _) = open(&fs);
    let heard: Arc<parking_lot::Mutex<Vec<&str>>> = Arc::default();
    let tell = |ticket: &Ticket| {
        let heard = heard.clone();
        ticket.on_settled(move |state| {
            heard.lock().push(match state {
                TicketState::Durable(_) => "durable",
                TicketState::Unknown(_) => "unknown",
                _ => "pending",
            });
        });
    };
    let first = append(&log, b"first").unwrap();
    tell(&first);
    assert!(heard.lock().is_empty(), "nothing is written yet");
    log.commit_queued();
    assert_eq!(*heard.lock(), ["durable"]);
    tell(&first);
    assert_eq!(
        *heard.lock(),
        ["durable", "durable"],
        "it was durable already"
    );

    // The reserve is complete: what is written from here on are batches.
    append(&log, b"more").unwrap().wait().unwrap();
    fs.inject(Fault {
        operation: Operation::Write,
        name: "segment",
        after: 0,
        failure: Failure::Eio,
        lasting: false,
    });
    tell(&append(&log, b"second").unwrap());
    log.commit_queued();
    assert_eq!(*heard.lock(), ["durable", "durable", "unknown"]);
}

#[test]
fn a_full_disk_refuses_before_anything_is_queued_and_recovers_with_space() {
    let fs = SimFs::new(8);
    let files = 2 + RESERVE_SEGMENTS as u64;
    fs.set_capacity(Some(files * SEGMENT_BYTES + 20_000));
    let (log, _) = open(&fs);
    let mut acknowledged = 0;
    let error = loop {
        match append(&log, &[1; 5000]) {
            Ok(ticket) => {
                ticket.wait().unwrap();
                acknowledged += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(
        acknowledged >= 10,
        "only {acknowledged} records fitted into two segments"
    );
    fs.set_capacity(None);
    append(&log, &[1; 5000]).unwrap().wait().unwrap();
    assert_eq!(open(&fs.power_loss()).1.len(), acknowledged + 1);
}

#[test]
fn a_record_beyond_the_limit_is_refused_by_size() {
    let (log, _) = open(&SimFs::new(9));
    let limit = log.record_bytes_max();
    append(&log, &vec![0; limit]).unwrap().wait().unwrap();
    let error = append(&log, &vec![0; limit + 1]).unwrap_err();
    assert!(
        matches!(error, Error::TooBig { bytes, .. } if bytes == limit + 1),
        "{error}"
    );
}

#[test]
fn a_read_only_open_replays_the_tail_and_writes_nothing() {
    let fs = SimFs::new(10);
    let (log, _) = open(&fs);
    append(&log, b"seen").unwrap().wait().unwrap();
    let crashed = fs.process_death();
    let before = crashed.operations();
    let (reader, replayed) = open_as(&crashed, Access::ReadOnly).unwrap();
    assert_eq!(bodies(&replayed), [b"seen"]);
    assert_eq!(
        reader.read(replayed[0].0, 0).unwrap().unwrap().body,
        b"seen"
    );
    assert!(matches!(append(&reader, b"no"), Err(Error::ReadOnly)));
    drop(reader);
    assert_eq!(crashed.operations(), before, "nothing was written");
}

#[test]
fn a_store_is_open_for_one_writer_or_many_readers_and_absent_ones_are_named() {
    let fs = SimFs::new(11);
    assert!(matches!(
        open_as(&fs, Access::ReadOnly),
        Err(Error::NotAStore { .. })
    ));
    assert!(matches!(
        open_as(&fs, Access::Write),
        Err(Error::NotAStore { .. })
    ));
    let (log, _) = open(&fs);
    assert!(matches!(
        open_as(&fs, Access::ReadOnly),
        Err(Error::Locked { .. })
    ));
    assert!(matches!(
        open_as(&fs, Access::Write),
        Err(Error::Locked { .. })
    ));
    drop(log);
    let _one = open_as(&fs, Access::ReadOnly).unwrap();
    let _two = open_as(&fs, Access::ReadOnly).unwrap();
    assert!(matches!(
        open_as(&fs, Access::Write),
        Err(Error::Locked { .. })
    ));
}

#[test]
fn released_segments_are_reused_and_their_old_batches_never_come_back() {
    let fs = SimFs::new(12);
    let (log, _) = open(&fs);
    for round in 0..40u8 {
        append(&log, &[round; 15_000]).unwrap().wait().unwrap();
        let position = log.position();
        let durable = log.wait_durable(position.lsn).unwrap();
        let released: Vec<u32> = (1..position.lsn.segno()).collect();
        log.checkpoint(position, durable, false, &[round], &released)
            .unwrap();
    }
    let files = log.stats().segment_files;
    let reserve = log.reserve_segments();
    assert!(
        files <= 2 + reserve,
        "{files} files, {reserve} of them in reserve, for a log that holds nothing"
    );
    append(&log, b"after").unwrap().wait().unwrap();
    let (_, replayed) = open(&fs.power_loss());
    assert_eq!(bodies(&replayed), [b"after"]);
}

#[test]
fn a_reader_keeps_a_released_segment_from_being_overwritten() {
    let fs = SimFs::new(13);
    let (log, _) = open(&fs);
    append(&log, b"pinned").unwrap().wait().unwrap();
    let lsn = Lsn::new(1, 4096 + 64);
    let pin = log.segment(1).unwrap();
    for round in 0..40u8 {
        append(&log, &[round; 15_000]).unwrap().wait().unwrap();
        let position = log.position();
        let durable = log.wait_durable(position.lsn).unwrap();
        let released: Vec<u32> = (1..position.lsn.segno()).collect();
        log.checkpoint(position, durable, false, &[], &released)
            .unwrap();
    }
    assert!(
        log.read(lsn, 0).unwrap().is_none(),
        "it is no part of the log any more"
    );
    assert_eq!(pin.read(lsn, 0, SEGMENT_BYTES).unwrap().body, b"pinned");
}

/// The checkpoint at which a reader lets go says that the file holds a segment still. Were it used before
/// another checkpoint says otherwise, a crash would lose what was written into it.
#[test]
fn a_file_that_a_reader_let_go_of_is_used_once_a_checkpoint_says_that_it_is_free() {
    let fs = SimFs::new(14);
    let (log, _) = open(&fs);
    append(&log, b"pinned").unwrap().wait().unwrap();
    let mut pin = log.segment(1);
    let mut named = 0;
    for round in 0..40u8 {
        append(&log, &[round; 15_000]).unwrap().wait().unwrap();
        if round % 8 == 0 {
            let position = log.position();
            let durable = log.wait_durable(position.lsn).unwrap();
            let released: Vec<u32> = (1..position.lsn.segno()).collect();
            log.checkpoint(position, durable, false, &[], &released)
                .unwrap();
            named = round;
            drop(pin.take());
        }
        let (_, replayed) = open(&fs.power_loss());
        let since = usize::from(round - named);
        assert_eq!(bodies(&replayed).len(), since, "round {round}");
        if round % 8 == 4 {
            // Somebody reads for a while, again and again.
            pin = log.segments().first().cloned();
        }
    }
}

#[test]
fn a_clean_close_leaves_nothing_to_replay() {
    let fs = SimFs::new(14);
    let (log, _) = open(&fs);
    append(&log, b"checkpointed").unwrap().wait().unwrap();
    let position = log.position();
    let durable = log.wait_durable(position.lsn).unwrap();
    log.checkpoint(position, durable, true, b"payload", &[])
        .unwrap();
    drop(log);
    let fs = fs.power_loss();
    let (log, replayed) = open(&fs);
    assert!(replayed.is_empty());
    append(&log, b"goes on").unwrap().wait().unwrap();
    assert_eq!(bodies(&open(&fs.power_loss()).1), [b"goes on"]);
}

#[test]
fn threads_commit_together_on_a_real_disk_and_listeners_hear_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 1 << 20,
        drive: Drive::Thread,
        ..LogOptions::default()
    };
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let opening = Opening::new(fs.clone(), dir.path(), options.clone(), Access::Create).unwrap();
    let log = opening
        .recover::<_, Error>(Arc::new(Book::default()), |_, _| Ok(()))
        .unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    log.on_progress(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let log = &log;
            scope.spawn(move || {
                for _ in 0..50 {
                    append(log, &[thread; 300]).unwrap().wait().unwrap();
                }
            });
        }
    });
    let stats = log.stats();
    assert_eq!(stats.records, 400);
    assert!(stats.durable_writes <= 400 && heard.load(Ordering::Relaxed) > 0);
    drop(log);

    let opening = Opening::new(fs, dir.path(), options, Access::Write).unwrap();
    let mut count = 0;
    let replay = |_: dovehouse_wal::RecordView<'_>, _| {
        count += 1;
        Ok(())
    };
    let _log = opening
        .recover::<_, Error>(Arc::new(Book::default()), replay)
        .unwrap();
    assert_eq!(count, 400);
}
