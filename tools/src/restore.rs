//! `dovehouse restore`: an object as it was, or all objects of a class or of the store.

use std::path::PathBuf;

use dovehouse_engine::{ClassId, Error as EngineError, ObjectInfo, RestoreAll, RestoredAll};

use crate::exit::{DAMAGE, FAILURE, Failure};
use crate::output;
use crate::point::Point;
use crate::store;

#[derive(clap::Args)]
#[command(
    override_usage = "dovehouse restore [--with-alarms] [--dry-run] <DIR> <OBJECT> <POINT>\n       \
dovehouse restore [--with-alarms] [--dry-run] --class <CLASS> <DIR> <POINT>\n       \
dovehouse restore [--with-alarms] [--dry-run] --all <DIR> <POINT>",
    after_help = "A restore is a commit like any other: it can be undone with the point that is printed. Of a class or a \
store each object is restored by a commit of its own; those that cannot be are listed, and the others go on."
)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    #[arg(value_name = "OBJECT", allow_hyphen_values = true)]
    first: String,
    /// A bookmark, a time, or how long ago; for a class or a store a time
    #[arg(value_name = "POINT", allow_hyphen_values = true)]
    second: Option<Point>,
    /// Restore all objects of a class
    #[arg(long, value_name = "CLASS", conflicts_with_all = ["all", "second"])]
    class: Option<String>,
    /// Restore all objects of the store
    #[arg(long, conflicts_with = "second")]
    all: bool,
    /// Let alarms be what they were, too; they stay as they are otherwise
    #[arg(long)]
    with_alarms: bool,
    /// Show what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.all || arguments.class.is_some() {
        let point = arguments.first.parse();
        let point = point.map_err(|error| Failure::new(FAILURE, error))?;
        return many(arguments, &point);
    }
    let Some(point) = &arguments.second else {
        let missing = "give an OBJECT and a POINT, or a POINT and --class or --all";
        return Err(Failure::new(FAILURE, missing));
    };
    match arguments.dry_run {
        true => look(arguments, point),
        false => one(arguments, point),
    }
}

fn one(arguments: &Arguments, point: &Point) -> Result<(), Failure> {
    let engine = store::open_to_write(&arguments.dir)?;
    let ObjectInfo { id, entry, .. } = store::find(&engine, &arguments.first)?;
    let bookmark = point.bookmark(&engine, &id)?;
    let undo = engine.bookmark(&id)?;
    let mut object = engine.wake(entry.class, id)?;
    object.restore(&bookmark, arguments.with_alarms)?;
    let ticket = object.commit()?;
    if let Some(ticket) = &ticket {
        ticket.wait().map_err(EngineError::from)?;
    }
    drop(object);
    engine.close()?;
    match ticket {
        Some(_) => output::print(format!("restored to {bookmark}\nundo with {undo}"))?,
        None => output::print("nothing to restore: it is what it was")?,
    }
    Ok(())
}

fn look(arguments: &Arguments, point: &Point) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let id = store::find(&engine, &arguments.first)?.id;
    let (bookmark, present) = (point.bookmark(&engine, &id)?, engine.bookmark(&id)?);
    output::print(format!("would be restored from {present} to {bookmark}"))?;
    #[cfg(feature = "sql")]
    {
        const LISTED: usize = 20;
        let mut diff = crate::diff::between(&engine, &id, &present, &bookmark, LISTED)?;
        if !arguments.with_alarms {
            diff.alarms.clear(); // They stay.
        }
        crate::diff::print(&diff)?;
    }
    Ok(())
}

fn many(arguments: &Arguments, point: &Point) -> Result<(), Failure> {
    let engine = match arguments.dry_run {
        true => store::open(&arguments.dir)?,
        false => store::open_to_write(&arguments.dir)?,
    };
    let class: Option<ClassId> = match &arguments.class {
        Some(class) => Some(store::class(&engine, class)?),
        None => None,
    };
    let Some(time_ms) = point.time_ms(&engine) else {
        let why = "a bookmark is of one object: give a time, or how long ago";
        return Err(Failure::new(FAILURE, why));
    };
    if time_ms > engine.now_ms() {
        return Err(Failure::new(FAILURE, "that time has not come yet"));
    }
    let bar = output::progress(engine.stats().slots, "objects");
    let mut code = None;
    let what = RestoreAll {
        time_ms,
        class,
        with_alarms: arguments.with_alarms,
        dry_run: arguments.dry_run,
    };
    let done = engine.restore_all(what, |done, failure| {
        bar.set_position(done.objects);
        if let Some((id, error)) = failure {
            let failure = Failure::from(error);
            code = code.filter(|code| *code == DAMAGE).or(Some(failure.code()));
            let failure = match id {
                Some(id) => failure.about(id),
                None => failure,
            };
            // Whoever does not read this still wants the others restored.
            let _ = bar.suspend(|| output::print(&failure));
        }
    });
    bar.finish_and_clear();
    let done = done?;
    engine.close()?;
    output::print(sentence(&done, arguments.dry_run))?;
    if !arguments.dry_run && done.restored > 0 {
        output::print(format!("undo with {}", output::time(done.undo_ms)))?;
    }
    code.map_or(Ok(()), |code| Err(Failure::reported(code)))
}

fn sentence(done: &RestoredAll, is_dry: bool) -> String {
    let RestoredAll {
        restored,
        erased,
        unchanged,
        failed,
        ..
    } = done;
    let would = if is_dry { "would be " } else { "" };
    format!(
        "{restored} objects {would}restored, of which {erased} were nothing then; {unchanged} unchanged, {failed} failed"
    )
}
