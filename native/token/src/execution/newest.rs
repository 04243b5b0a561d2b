//! The newest of several keys that share their label or id: by `CKA_START_DATE`, or by the number of the version that Google's kmsp11 has in
//! `CKA_ID`. SoftHSM 2.6 cannot read the date of a private object that has one (`CKR_GENERAL_ERROR`): then the public key with the same id tells.

use std::time::{SystemTime, UNIX_EPOCH};

use cryptoki_sys::{CK_OBJECT_HANDLE, CKA_CLASS, CKA_ID, CKA_START_DATE, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY};

use crate::error::Error;
use crate::execution::resolver::{CANDIDATES, Resolver};
use crate::operation::key_ref::Newest;
use crate::p11::attributes::get_attributes;
use crate::p11::{Attribute, CallError, Class};

/// Most keys among which the newest is looked for.
const MOST: usize = 1_000;

/// What a token says of how new a key is.
struct Age {
    handle: CK_OBJECT_HANDLE,
    id: Vec<u8>,
    /// Empty: it has none.
    start_date: Vec<u8>,
    /// Whether it may have one, which the token fails to read.
    is_unreadable: bool,
}

/// Why none is the newest.
type Undecided = &'static str;

const NO_DATES: Undecided = "no_start_date";
const SAME_DATE: Undecided = "same_start_date";
const IN_FUTURE: Undecided = "start_date_in_future";
const UNREADABLE: Undecided = "start_date_unreadable";

impl Resolver<'_> {
    /// The newest of those that a template finds. The only one there is needs no date.
    pub(crate) fn find_newest(&self, Newest { find, name, .. }: &Newest) -> Result<CK_OBJECT_HANDLE, Error> {
        if let Some(handle) = self.recall(name) {
            return Ok(handle);
        }
        let found = self.search(find, MOST + 1)?;
        let handle = match found[..] {
            [] => return Err(Error::KeyNotFound),
            [handle] => handle,
            _ if found.len() > MOST => return Err(Error::TooManyObjects { limit: MOST }),
            _ => {
                let ages = found.iter().map(|handle| self.age(*handle)).collect::<Result<Vec<_>, _>>()?;
                match newest(&ages, &today()) {
                    Ok(handle) => handle,
                    Err(why) => return Err(self.ambiguous(&found, Some(why))?),
                }
            }
        };
        Ok(self.remember(name, handle, find))
    }

    fn age(&self, handle: CK_OBJECT_HANDLE) -> Result<Age, Error> {
        let start_date = self.start_date(handle)?;
        // If it is the device that fails, it does so here, too.
        let read = get_attributes(self.functions, self.session, handle, &[CKA_CLASS, CKA_ID])?;
        let id = read.iter().find(|(kind, _)| *kind == CKA_ID).and_then(|(_, read)| read.bytes().map(<[u8]>::to_vec));
        let is_private = read.iter().any(|(kind, read)| *kind == CKA_CLASS && read.ulong() == Some(CKO_PRIVATE_KEY));
        let id = id.unwrap_or_default();
        let start_date = match start_date {
            None if is_private && !id.is_empty() => self.start_date_of_public_key(&id)?,
            told => told,
        };
        Ok(Age { handle, id, is_unreadable: start_date.is_none(), start_date: start_date.unwrap_or_default() })
    }

    /// An object's date, empty if it has none; `None`: the token fails to read it.
    fn start_date(&self, handle: CK_OBJECT_HANDLE) -> Result<Option<Vec<u8>>, CallError> {
        match get_attributes(self.functions, self.session, handle, &[CKA_START_DATE]) {
            Ok(read) => Ok(Some(read.first().and_then(|(_, read)| read.bytes()).unwrap_or_default().to_vec())),
            Err(error) if matches!(error.class(), Class::Caller | Class::Ambiguous) && !error.active => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The date of the public keys that have this id, if they have the same.
    fn start_date_of_public_key(&self, id: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
        let template = vec![Attribute::ulong(CKA_CLASS, CKO_PUBLIC_KEY), Attribute::bytes(CKA_ID, id)];
        let found = self.search(&template, CANDIDATES)?;
        let dates = found.iter().map(|handle| self.start_date(*handle)).collect::<Result<Vec<_>, _>>()?;
        let (first, others) = match dates.split_first() {
            Some((Some(first), others)) if !first.is_empty() => (first, others),
            _ => return Ok(None),
        };
        Ok(others.iter().all(|other| other.as_ref() == Some(first)).then(|| first.clone()))
    }
}

/// The newest of several, on this day.
fn newest(ages: &[Age], today: &str) -> Result<CK_OBJECT_HANDLE, Undecided> {
    if ages.iter().any(|age| age.is_unreadable) {
        return Err(UNREADABLE);
    }
    let is_date = |age: &&Age| age.start_date.len() == 8 && age.start_date.iter().all(u8::is_ascii_digit);
    let dated: Vec<&Age> = ages.iter().filter(is_date).collect();
    if dated.is_empty() {
        return newest_version(ages).ok_or(NO_DATES);
    }
    // One whose time has not come yet is not in use yet.
    let begun = || dated.iter().filter(|age| age.start_date.as_slice() <= today.as_bytes());
    let last = begun().map(|age| &age.start_date).max().ok_or(IN_FUTURE)?;
    let mut of_last = begun().filter(|age| age.start_date == *last);
    match (of_last.next(), of_last.next()) {
        (Some(age), None) => Ok(age.handle),
        _ => Err(SAME_DATE),
    }
}

/// The highest of the versions of one key of Google's, which are numbered in the order in which they were made.
fn newest_version(ages: &[Age]) -> Option<CK_OBJECT_HANDLE> {
    let versions = ages.iter().map(|age| Some((version(&age.id)?, age.handle))).collect::<Option<Vec<_>>>()?;
    let ((key, highest), handle) = versions.iter().max_by_key(|((_, number), _)| *number)?;
    let is_only = versions.iter().filter(|((_, number), _)| number == highest).count() == 1;
    (is_only && versions.iter().all(|((other, _), _)| other == key)).then_some(*handle)
}

/// The key and the number of the version that an id of kmsp11's names: `projects/.../cryptoKeys/NAME/cryptoKeyVersions/NUMBER`.
fn version(id: &[u8]) -> Option<(&str, u64)> {
    let (key, number) = std::str::from_utf8(id).ok()?.rsplit_once("/cryptoKeyVersions/")?;
    let is_number = key.contains("/cryptoKeys/") && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok().map(|number| (key, number))).flatten()
}

/// The day, as `CK_DATE` has it, in UTC.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds / 86_400)
}

/// The day after so many since 1970 (Gregorian; eras of 400 years begin in March).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: &str = "20260615";

    fn ages(ages: &[(&str, &str)]) -> Vec<Age> {
        let age = |(index, (date, id)): (usize, &(&str, &str))| Age {
            handle: index as CK_OBJECT_HANDLE + 1,
            id: id.as_bytes().to_vec(),
            start_date: date.as_bytes().to_vec(),
            is_unreadable: *date == "?",
        };
        ages.iter().enumerate().map(age).collect()
    }

    #[test]
    fn the_newest_has_the_last_date_that_has_come() {
        let found = newest(&ages(&[("20250101", ""), ("20260101", ""), ("", ""), ("20260616", "")]), TODAY);
        assert_eq!(found, Ok(2));
        assert_eq!(newest(&ages(&[("20260615", ""), ("20260614", "")]), TODAY), Ok(1));
    }

    #[test]
    fn what_no_date_decides_is_not_guessed() {
        assert_eq!(newest(&ages(&[("", ""), ("        ", ""), ("00", "")]), TODAY), Err(NO_DATES));
        assert_eq!(newest(&ages(&[("20250101", ""), ("20250101", ""), ("20240101", "")]), TODAY), Err(SAME_DATE));
        assert_eq!(newest(&ages(&[("20270101", ""), ("", "")]), TODAY), Err(IN_FUTURE));
        assert_eq!(newest(&ages(&[("20250101", ""), ("?", "")]), TODAY), Err(UNREADABLE));
    }

    #[test]
    fn versions_of_one_key_of_googles_are_told_by_their_numbers() {
        let id = |number: &str| format!("projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/{number}");
        let of = |ids: &[String]| newest(&ages(&ids.iter().map(|id| ("", id.as_str())).collect::<Vec<_>>()), TODAY);
        assert_eq!(of(&[id("9"), id("10"), id("2")]), Ok(2));
        assert_eq!(of(&[id("9"), id("9")]), Err(NO_DATES));
        assert_eq!(of(&[id("9"), id("x")]), Err(NO_DATES));
        assert_eq!(of(&[id("9"), id("+10")]), Err(NO_DATES));
        assert_eq!(of(&[id("9"), id("10").replace("/k/", "/other/")]), Err(NO_DATES));
        assert_eq!(of(&[id("9"), String::new()]), Err(NO_DATES));
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), "19700101");
        assert_eq!(date(11_016), "20000229");
        assert_eq!(date(11_017), "20000301");
        assert_eq!(date(20_454), "20260101");
        assert_eq!(date(20_453), "20251231");
    }
}
