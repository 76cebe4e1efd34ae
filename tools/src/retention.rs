//! `dovehouse retention`: for how long a class keeps its history.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use dovehouse_engine::{Engine, Retention};

use crate::exit::Failure;
use crate::output;
use crate::point::duration_ms;
use crate::store;

#[derive(clap::Args)]
#[command(
    after_help = "Without a TIME it is shown. What is set goes before what the class is declared with in its program, until \
it is set to `declared`. For a class of which nothing was said it is 30 days."
)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The class
    class: String,
    /// How long, as 12h or 90d, or `off`, or `forever`, or `declared`
    time: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Time(Option<Retention>);

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Time(Some(match text {
            "declared" => return Ok(Time(None)),
            "off" => Retention::Off,
            "forever" => Retention::Forever,
            _ => {
                let ms = duration_ms(text).filter(|ms| *ms > 0);
                let ms = ms.ok_or("a time is as 12h or 90d, or `off`, `forever` or `declared`")?;
                Retention::For(Duration::from_millis(ms))
            }
        })))
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(Time(retention)) = arguments.time {
        let engine = store::open_to_write(&arguments.dir)?;
        let class = store::class(&engine, &arguments.class)?;
        engine.set_retention(class, retention)?;
        engine.close()?;
    }
    let engine = Engine::builder(&arguments.dir).open_read_only()?;
    let class = store::class(&engine, &arguments.class)?;
    Ok(output::print(sentence(engine.retention(class)))?)
}

fn sentence(retention: Retention) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    match retention {
        Retention::Off => "off".into(),
        Retention::Forever => "forever".into(),
        Retention::For(time) if time.as_secs() % DAY_SECONDS == 0 && time.subsec_nanos() == 0 => {
            format!("{}d", time.as_secs() / DAY_SECONDS)
        }
        Retention::For(time) => match jiff::SignedDuration::try_from(time) {
            Ok(time) => format!("{time:#}"),
            Err(_) => "forever".into(),
        },
    }
}
