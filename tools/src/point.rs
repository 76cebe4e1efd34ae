//! Points in history, as people write them.

use std::str::FromStr;

use dovehouse_engine::{Bookmark, Engine, ObjectId};
use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::exit::Failure;

/// A point in the history of an object, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Bookmark(Bookmark),
    /// In milliseconds since 1970.
    Time(u64),
    /// In milliseconds.
    Ago(u64),
}

const FORMS: &str =
    "a point is a bookmark, a time as 2026-11-28T12:00:00Z, or how long ago, as -30m, -2h or -7d";

impl FromStr for Point {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(ago) = text.strip_prefix('-') {
            return duration_ms(ago).map(Point::Ago).ok_or(FORMS);
        }
        if let Ok(bookmark) = text.parse() {
            return Ok(Point::Bookmark(bookmark));
        }
        let time: Timestamp = text.parse().map_err(|_| FORMS)?;
        let ms = u64::try_from(time.as_millisecond());
        ms.map(Point::Time).map_err(|_| FORMS)
    }
}

impl Point {
    /// The bookmark that it means for an object.
    pub(crate) fn bookmark(&self, engine: &Engine, id: &ObjectId) -> Result<Bookmark, Failure> {
        Ok(match (self, self.time_ms(engine)) {
            (_, Some(time_ms)) => engine.bookmark_at(id, time_ms)?,
            (Point::Bookmark(bookmark), None) => *bookmark,
            (_, None) => unreachable!("everything but a bookmark is a time"),
        })
    }

    /// The time that it means, unless it is a bookmark.
    pub(crate) fn time_ms(&self, engine: &Engine) -> Option<u64> {
        match self {
            Point::Bookmark(_) => None,
            Point::Time(ms) => Some(*ms),
            Point::Ago(ms) => Some(engine.now_ms().saturating_sub(*ms)),
        }
    }
}

/// A duration as people write it, `30m` or `7d`, in milliseconds; a day has 24 hours.
pub(crate) fn duration_ms(text: &str) -> Option<u64> {
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    u64::try_from(duration.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_bookmarks_times_or_ages() {
        const HOUR_MS: u64 = 3_600_000;
        let ages = [
            ("-2h", 2 * HOUR_MS),
            ("-30m", HOUR_MS / 2),
            ("-7d", 7 * 24 * HOUR_MS),
            ("-1d 2h", 26 * HOUR_MS),
            ("-90s", 90_000),
        ];
        for (text, ms) in ages {
            assert_eq!(text.parse(), Ok(Point::Ago(ms)), "{text}");
        }
        for text in ["2023-11-14T22:13:20.123Z", "2023-11-15T00:13:20.123+02:00"] {
            assert_eq!(text.parse(), Ok(Point::Time(1_700_000_000_123)), "{text}");
        }
        let bookmark = format!("00000000-00000007-12345678-{}", "ab".repeat(16));
        assert_eq!(
            bookmark.parse(),
            Ok(Point::Bookmark(bookmark.parse().unwrap()))
        );
        for wrong in [
            "",
            "-",
            "--2h",
            "2h",
            "-2",
            "yesterday",
            "2023-11-14",
            "1960-01-01T00:00:00Z",
            &bookmark[1..],
        ] {
            assert_eq!(wrong.parse::<Point>(), Err(FORMS), "{wrong}");
        }
    }
}
