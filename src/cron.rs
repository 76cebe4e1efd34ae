//! Schedules: a cron expression in a time zone, and when it is due next.
//!
//! An alarm keeps its schedule as text, the zone before the expression: `Europe/Berlin 0 3 * * *`.

use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::error::{Error, Result};

/// The zone of schedules that do not say another.
pub(crate) const UTC: &str = "UTC";

#[derive(Debug)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// Reads an expression for a zone of the system's time zone database.
    pub(crate) fn new(zone: &str, expression: &str) -> Result<Self> {
        let refused = |why: String| Error::Schedule {
            schedule: format!("{zone} {expression}"),
            why,
        };
        let cron: Cron = expression
            .parse()
            .map_err(|error: croner::errors::CronError| refused(error.to_string()))?;
        let zone = match zone {
            UTC => TimeZone::UTC,
            zone => TimeZone::get(zone).map_err(|error| refused(error.to_string()))?,
        };
        Ok(Schedule { cron, zone })
    }

    /// Reads what [`Schedule::text`] wrote.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let (zone, expression) = text.split_once(' ').unwrap_or((UTC, text));
        Self::new(zone, expression)
    }

    /// How an alarm keeps it.
    pub(crate) fn text(zone: &str, expression: &str) -> String {
        format!("{zone} {expression}")
    }

    /// The first time after `ms`, in milliseconds since 1970.
    pub(crate) fn after(&self, ms: u64) -> Result<u64> {
        let next = i64::try_from(ms)
            .map_err(|error| error.to_string())
            .and_then(|ms| Timestamp::from_millisecond(ms).map_err(|error| error.to_string()))
            .and_then(|now| {
                let now = now.to_zoned(self.zone.clone());
                let next = self.cron.find_next_occurrence(&now, false);
                next.map_err(|error| error.to_string())
            });
        let refused = |why| Error::Schedule {
            schedule: self.cron.as_str().to_owned(),
            why,
        };
        let next_ms = next.map_err(refused)?.timestamp().as_millisecond();
        Ok(next_ms as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-01-30 12:34:56.789 UTC.
    const NOW_MS: u64 = 1_706_618_096_789;

    fn after(zone: &str, expression: &str, ms: u64) -> String {
        let next = Schedule::new(zone, expression).unwrap().after(ms).unwrap();
        Timestamp::from_millisecond(next as i64)
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_schedule_gives_the_next_time_and_never_the_present_one() {
        assert_eq!(after(UTC, "*/5 * * * *", NOW_MS), "2024-01-30T12:35:00Z");
        assert_eq!(after(UTC, "0 3 * * *", NOW_MS), "2024-01-31T03:00:00Z");
        assert_eq!(after(UTC, "*/10 * * * * *", NOW_MS), "2024-01-30T12:35:00Z");
        assert_eq!(after(UTC, "0 0 29 2 *", NOW_MS), "2024-02-29T00:00:00Z");
        assert_eq!(after(UTC, "@hourly", NOW_MS), "2024-01-30T13:00:00Z");
        let full_hour = 1_706_620_000_000 - 1_706_620_000_000 % 3_600_000;
        assert_eq!(after(UTC, "0 * * * *", full_hour), "2024-01-30T14:00:00Z");
    }

    #[test]
    fn a_zones_clocks_skip_an_hour_and_repeat_one_and_the_time_comes_once() {
        let berlin = |ms: i64| after("Europe/Berlin", "30 2 * * *", ms as u64);
        let ms = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!(berlin(ms("2024-03-30T12:00:00Z")), "2024-03-31T01:00:00Z");
        assert_eq!(berlin(ms("2024-03-31T01:00:00Z")), "2024-04-01T00:30:00Z");
        assert_eq!(berlin(ms("2024-10-26T12:00:00Z")), "2024-10-27T00:30:00Z");
        assert_eq!(berlin(ms("2024-10-27T00:30:00Z")), "2024-10-28T01:30:00Z");
        let last_day = after("Europe/Berlin", "0 9 L * *", NOW_MS);
        assert_eq!(last_day, "2024-01-31T08:00:00Z");
    }

    #[test]
    fn what_is_no_schedule_or_never_comes_is_refused() {
        for (zone, expression) in [
            (UTC, ""),
            (UTC, "every day"),
            (UTC, "61 * * * *"),
            ("Nowhere/Town", "0 3 * * *"),
        ] {
            let refused = Schedule::new(zone, expression);
            assert!(
                matches!(refused, Err(Error::Schedule { .. })),
                "{zone} {expression}"
            );
        }
        let never = Schedule::read("UTC 0 0 31 2 *").unwrap();
        assert!(matches!(never.after(NOW_MS), Err(Error::Schedule { .. })));
    }
}
