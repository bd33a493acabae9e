//! Days: numbers, or dates.

use std::fmt;

/// A whole day, as the data have it: the third day of an experiment, or a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    /// Its number; of a date, the days since 1970-01-01.
    pub number: i64,
    /// It is a date, and shown as one.
    pub date: bool,
}

impl Day {
    /// The date so many days after 1970-01-01.
    pub fn date(number: i64) -> Self {
        Self { number, date: true }
    }

    /// A whole number, or a date such as `2026-11-27`, with or without a time of day. H. Hinnant, "chrono-compatible
    /// low-level date algorithms".
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self { number, date: false });
        }
        let (date, rest) = text.split_at_checked(10)?;
        if !(rest.is_empty() || rest.starts_with(['T', ' '])) {
            return None;
        }
        let mut parts = date.split('-').map(str::parse::<i64>);
        let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let shifted = year - i64::from(month <= 2);
        let year_of_era = shifted.rem_euclid(400);
        let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let number = shifted.div_euclid(400) * 146_097 + day_of_era - 719_468;
        (1..=length).contains(&day).then_some(Self::date(number))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.date {
            return self.number.fmt(f);
        }
        let days = self.number.saturating_add(719_468);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + days.div_euclid(146_097) * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_numbers_or_dates() {
        for (text, found) in [
            ("0", Some((0, false))),
            ("-3", Some((-3, false))),
            ("1970-01-01", Some((0, true))),
            ("2026-11-27", Some((20_784, true))),
            ("2000-02-29T23:59:59Z", Some((11_016, true))),
            ("1900-02-29", None),
            ("2026-13-01", None),
            ("2026-11-31", None),
            ("2026-11-2", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(Day::parse(text).map(|day| (day.number, day.date)), found, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_date_is_read_as_it_is_written(number in -100_000..1_000_000i64) {
            prop_assert_eq!(Day::parse(&Day::date(number).to_string()), Some(Day::date(number)));
        }
    }
}
