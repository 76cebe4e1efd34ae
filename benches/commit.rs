//! How many durable commits a second, at 1 to 1,024 clients that each wait for their own?
//!
//! ```text
//! cargo bench --bench commit            # DOVEHOUSE_BENCH_DIR=DIR chooses the disk
//! ```
//! Each client has an object of its own and puts one key of 16 bytes with a value of 44; it goes on
//! when that is durable. Beside it, in the same run and on the same disk: a bare loop of 4 KiB writes
//! with `O_DSYNC`, which is what one client can reach at best, and one SQLite file for each client in
//! its best durable configuration (WAL, `synchronous=FULL`, all connections open, one thread for each
//! client up to 64). All of them sync for real; the number of syncs stands in the table at the end.

#![expect(clippy::disallowed_methods, reason = "benches measure real time")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use dovehouse::engine::wal::fs::{Fs, Mode, RealFs};
use dovehouse::engine::{ClassId, Engine, Object, ObjectId, Ticket};
use dovehouse::sqlbridge::Connection;

const CLIENTS: [usize; 4] = [1, 16, 256, 1024];
const KEY: &[u8; 16] = b"sixteen byte key";
const VALUE_BYTES: usize = 44;
/// More threads than this only wait for each other in SQLite.
const SQLITE_THREADS_MAX: usize = 64;

/// One measurement of a contender.
struct Sample {
    contender: &'static str,
    clients: usize,
    commits: u64,
    syncs: u64,
    elapsed: Duration,
}

static SAMPLES: Mutex<Vec<Sample>> = Mutex::new(Vec::new());

fn value(round: u64) -> [u8; VALUE_BYTES] {
    let mut value = [b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&round.to_le_bytes());
    value
}

/// Commits of each client, and of the first `rest` clients one more.
fn share(commits: u64, clients: usize, client: usize) -> u64 {
    commits / clients as u64 + u64::from((client as u64) < commits % clients as u64)
}

/// Objects of one engine; its clients are spread over as many threads as there are cores.
struct Dovehouse {
    engine: Engine,
    class: ClassId,
}

impl Dovehouse {
    fn open(dir: &Path) -> Self {
        let engine = Engine::open(dir).expect("a new store");
        let class = engine.class("Bench").expect("a class");
        Dovehouse { engine, class }
    }

    fn run(&self, clients: usize, commits: u64) -> (Duration, u64) {
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(clients);
        let wake = |client: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(client as u64).to_le_bytes());
            (
                client,
                self.engine
                    .wake(self.class, ObjectId::from_bytes(id))
                    .expect("it sleeps"),
            )
        };
        let objects: Vec<(usize, Object)> = (0..clients).map(wake).collect();
        let mut parts: Vec<Vec<(usize, Object)>> = (0..threads).map(|_| Vec::new()).collect();
        objects
            .into_iter()
            .for_each(|(client, object)| parts[client % threads].push((client, object)));
        let syncs = self.engine.stats().log.durable_writes;
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in parts {
                scope.spawn(move || run_clients(part, clients, commits));
            }
        });
        (
            start.elapsed(),
            self.engine.stats().log.durable_writes - syncs,
        )
    }
}

/// Each object has one commit under way; whoever's is durable begins the next.
fn run_clients(mut objects: Vec<(usize, Object)>, clients: usize, commits: u64) {
    let mut under_way: Vec<Option<Ticket>> = objects.iter().map(|_| None).collect();
    for round in 0..share(commits, clients, 0) {
        for ((client, object), ticket) in objects.iter_mut().zip(&mut under_way) {
            if let Some(ticket) = ticket.take() {
                ticket.wait().expect("durable");
            }
            if round < share(commits, clients, *client) {
                object.put(KEY, &value(round)).expect("room");
                *ticket = object.commit().expect("space");
            }
        }
    }
    for ticket in under_way.into_iter().flatten() {
        ticket.wait().expect("durable");
    }
}

/// A loop of 4 KiB durable writes into a file that was written before.
fn bare_writes(dir: &Path, commits: u64) -> (Duration, u64) {
    const FILE_BYTES: u64 = 64 << 20;
    let file = RealFs
        .open(&dir.join("bare"), Mode::DURABLE)
        .expect("a file");
    if file.byte_len().expect("a length") < FILE_BYTES {
        file.write_all_at(&[&vec![0; FILE_BYTES as usize]], 0)
            .expect("space");
    }
    let block = [7; 4096];
    let start = Instant::now();
    for round in 0..commits {
        file.write_all_at(&[&block], round * 4096 % FILE_BYTES)
            .expect("a write");
    }
    (start.elapsed(), commits)
}

/// One SQLite file for each client, all open.
struct SqliteFiles {
    connections: Vec<Connection>,
}

impl SqliteFiles {
    fn open(dir: &Path, clients: usize) -> Self {
        let open = |client: usize| {
            let connection =
                Connection::open_file(&dir.join(format!("{client}.sqlite"))).expect("a file");
            let setup = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                CREATE TABLE IF NOT EXISTS kv(key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID";
            connection.exec(setup, &[]).expect("a table");
            connection
        };
        SqliteFiles {
            connections: (0..clients).map(open).collect(),
        }
    }

    fn run(&mut self, commits: u64) -> (Duration, u64) {
        let clients = self.connections.len();
        let per_thread = clients.div_ceil(clients.min(SQLITE_THREADS_MAX));
        let syncs = AtomicU64::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (thread, part) in self.connections.chunks_mut(per_thread).enumerate() {
                let syncs = &syncs;
                scope.spawn(move || {
                    for round in 0..share(commits, clients, 0) {
                        for (index, connection) in part.iter_mut().enumerate() {
                            if round < share(commits, clients, thread * per_thread + index) {
                                let insert = "INSERT OR REPLACE INTO kv VALUES (?, ?)";
                                let parameters =
                                    [KEY.to_vec().into(), value(round).to_vec().into()];
                                connection.exec(insert, &parameters).expect("a commit");
                                // In WAL mode with synchronous=FULL each commit syncs the log once;
                                // checkpoints sync more, which is not counted.
                                syncs.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        (start.elapsed(), syncs.into_inner())
    }
}

fn note(
    contender: &'static str,
    clients: usize,
    commits: u64,
    (elapsed, syncs): (Duration, u64),
) -> Duration {
    SAMPLES.lock().expect("no panic").push(Sample {
        contender,
        clients,
        commits,
        syncs,
        elapsed,
    });
    elapsed
}

fn commits(criterion: &mut Criterion, dir: &Path) {
    let bare_dir = dir.join("bare");
    std::fs::create_dir_all(&bare_dir).expect("a directory");
    let house = Dovehouse::open(&dir.join("dovehouse"));
    for clients in CLIENTS {
        let sqlite_dir = dir.join(format!("sqlite-{clients}"));
        std::fs::create_dir_all(&sqlite_dir).expect("a directory");
        let mut files = SqliteFiles::open(&sqlite_dir, clients);
        let mut group = criterion.benchmark_group(format!("durable-commit/{clients}"));
        group.throughput(Throughput::Elements(1)).sample_size(10);
        group.bench_function(BenchmarkId::from_parameter("dovehouse"), |bencher| {
            bencher.iter_custom(|n| note("dovehouse", clients, n, house.run(clients, n)));
        });
        if clients == 1 {
            group.bench_function(
                BenchmarkId::from_parameter("bare O_DSYNC 4 KiB"),
                |bencher| {
                    bencher.iter_custom(|n| {
                        note("bare O_DSYNC 4 KiB", 1, n, bare_writes(&bare_dir, n))
                    });
                },
            );
        }
        group.bench_function(BenchmarkId::from_parameter("SQLite file each"), |bencher| {
            bencher.iter_custom(|n| note("SQLite file each", clients, n, files.run(n)));
        });
        group.finish();
    }
}

/// The medians of all samples that ran long enough to mean something.
fn print_table() {
    const MEANINGFUL: Duration = Duration::from_millis(50);
    println!(
        "\n| clients | contender | commits/s | commits per sync |\n| ---: | --- | ---: | ---: |"
    );
    let samples = SAMPLES.lock().expect("no panic");
    for clients in CLIENTS {
        for contender in ["dovehouse", "bare O_DSYNC 4 KiB", "SQLite file each"] {
            let mine = samples.iter().filter(|sample| {
                sample.contender == contender
                    && sample.clients == clients
                    && sample.elapsed > MEANINGFUL
            });
            let mut rates: Vec<(f64, f64)> = mine
                .map(|sample| {
                    let commits = sample.commits as f64;
                    (
                        commits / sample.elapsed.as_secs_f64(),
                        commits / sample.syncs as f64,
                    )
                })
                .collect();
            rates.sort_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((rate, per_sync)) = rates.get(rates.len() / 2) {
                println!("| {clients} | {contender} | {rate:.0} | {per_sync:.1} |");
            }
        }
    }
}

fn main() {
    let chosen = std::env::var_os("DOVEHOUSE_BENCH_DIR").map(PathBuf::from);
    let base = chosen.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&base).expect("a directory");
    let dir = tempfile::tempdir_in(base).expect("a directory");
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    commits(&mut criterion, dir.path());
    criterion.final_summary();
    print_table();
}
