//! The commands. Words are separated by spaces; after the first ones that are named here come options, `name=value`.
//! Numbers are decimal or, after `0x`, hexadecimal; times are microseconds. `F` is a C function or `*` for all.
//!
//! | command | effect |
//! |---|---|
//! | `latency F MIN [MAX]` | every call takes so much longer |
//! | `size_query MIN [MAX]` | the same for calls that only ask for a size, in place of `latency` |
//! | `fail F CODE [nth=] [count=] [probability=] [run=true]` | answers with a code, instead of the real call or after it |
//! | `hang F [nth=] [count=] [probability=]` | calls hang until released |
//! | `crash F [nth=] [probability=]` | aborts the process |
//! | `count F N` | answers this count or length, whatever the real one is: of `C_GetSlotList`, `C_GetMechanismList`, `C_FindObjects`, `C_GetAttributeValue` |
//! | `clear F` | forgets the above, and releases |
//! | `release F [code=]` | lets hanging calls go on, or answer; later ones do not hang |
//! | `session_limit N\|off` | `CKR_SESSION_COUNT` beyond |
//! | `session_idle_limit N\|off` | a session dies on which the device was not called for so long |
//! | `remove_token [slot=] [code=]`, `return_token [slot=] [from=]` | see `Pkcs11Pool.Testing.Chaos` |
//! | `kill_sessions`, `invalidate_objects` | handles die |
//! | `device_trouble CODE\|off [spare=F,F] [until=told]` | all fails but what a library knows by itself, until `C_Initialize` or `off` |
//! | `hide_objects` | nothing is found until the next `C_Initialize` |
//! | `reuse_handles on\|off [objects=true]` | the number of what has died is given out again |
//! | `replace_operations on\|off` | a second Init ends the operation that is active, instead of being refused |
//! | `endless_search on\|off` | `C_FindObjects` finds one object again and again |
//! | `refuse_attributes HANDLE CODE [kinds=N,N] [count=]` | `C_GetAttributeValue` answers a code for these attributes of an object, or for all |
//! | `unique_ids on\|off\|refused\|ignored\|same\|empty` | objects have a `CKA_UNIQUE_ID` |
//! | `logout` | a real `C_Logout` |
//! | `uninitialize` | `CKR_CRYPTOKI_NOT_INITIALIZED` until `C_Initialize` |
//! | `token_flags SET CLEARED` | what tokens show |
//! | `pin_limit N\|off`, `pin_tries user\|so` | the counter of wrong PINs |
//! | `cant_lock on\|off` | `CKR_CANT_LOCK` at `C_Initialize` |
//! | `told_size F true\|kept\|exceeded` | what it says of how long its output is |
//! | `signature_size N\|off` | `C_Verify` takes a signature to be so long |
//! | `random_limits MIN MAX\|off` | `CKR_ARGUMENTS_BAD` from `C_GenerateRandom` for fewer or more bytes |
//! | `make_iv on\|off` | writes an IV of its own over that of AES-GCM |
//! | `messages_only on\|off` | offers AES-GCM, AES-CCM and ChaCha20-Poly1305 by messages only |
//! | `early_plaintext on\|off` | gives out bytes at `C_DecryptUpdate` where the real module gathers |
//! | `slot_events on\|off` | slots are removable, and `C_WaitForSlotEvent` tells of tokens that come and go |
//! | `malformed_info on\|off` | slots and tokens describe themselves carelessly |
//! | `swap_slots A B` | what is in two slots changes places |
//! | `seed N` | makes chance repeatable |
//! | `calls`, `size_queries`, `inside`, `hanging` | counts by function |
//! | `violations`, `status`, `functions` | |
//! | `reset_counts`, `reset` | |
//! | `once ID COMMAND` | executes the command unless one with that id was |

use std::collections::BTreeMap;
use std::ptr;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use cryptoki_sys::*;

use crate::careless;
use crate::function::Function;
use crate::pins::Owner;
use crate::point::Point;
use crate::real::real;
use crate::rule::{self, Action, Rule};
use crate::state::{CHAOS, Mode};
use crate::unique_ids;

type Outcome = Result<String, String>;

/// The words of a command after its name.
struct Words<'a> {
    plain: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn read(words: impl Iterator<Item = &'a str>) -> Self {
        let (mut plain, mut options) = (Vec::new(), BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => drop(options.insert(name, value)),
                None => plain.push(word),
            }
        }
        Self { plain, options }
    }

    fn word(&self, index: usize) -> Result<&'a str, String> {
        self.plain.get(index).copied().ok_or_else(|| format!("word {} is missing", index + 2))
    }

    fn points(&self) -> Result<Vec<&'static Point>, String> {
        Ok(Function::named(self.word(0)?)?.into_iter().map(|function| CHAOS.point(function)).collect())
    }

    /// One time or two, from word `index` on.
    fn times(&self, index: usize) -> Result<(u32, u32), String> {
        let min = number(self.word(index)?)?;
        let max = self.plain.get(index + 1).map_or(Ok(min), |word| number(word))?;
        let fits = |time: u64| u32::try_from(time).map_err(|_| format!("{time} is too long"));
        Ok((fits(min)?, fits(max)?))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        self.options.get(name).map(|value| number(value)).transpose()
    }

    fn rule(&self, action: Action) -> Result<Rule, String> {
        let nth = self.number("nth")?;
        let skip = nth.unwrap_or(1).checked_sub(1).ok_or("nth begins with 1")?;
        // The n-th call is one call, unless told otherwise.
        let count = self.number("count")?.or(nth.map(|_| 1));
        let probability = self.options.get("probability").map_or(Ok(1.0), |value| parse(value))?;
        Ok(Rule { action, skip, count, probability })
    }
}

fn parse<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn number(word: &str) -> Result<u64, String> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| format!("{word} is no number")),
        None => parse(word),
    }
}

fn number_or_off(word: &str) -> Result<Option<u64>, String> {
    if word == "off" { Ok(None) } else { number(word).map(Some) }
}

/// Executes one line. `Ok`: the answer, empty where there is nothing to say.
pub fn execute(line: &str) -> Outcome {
    let mut words = line.split_whitespace();
    let name = words.next().ok_or("no command")?;
    if name == "once" {
        let id = words.next().ok_or("no id")?;
        let command = line.trim_start().splitn(3, ' ').nth(2).unwrap_or_default();
        // Locked until it is done: the second one's answer means that the first one has been executed.
        let mut seen = CHAOS.seen.lock();
        return if seen.insert(id.to_owned()) { execute_named(command) } else { done() };
    }
    execute_named(line)
}

fn execute_named(line: &str) -> Outcome {
    let mut words = line.split_whitespace();
    let name = words.next().ok_or("no command")?;
    let words = Words::read(words);
    match name {
        "calls" => counts(|point| point.calls.load(Ordering::SeqCst)),
        "size_queries" => counts(|point| point.size_queries.load(Ordering::SeqCst)),
        "inside" => counts(|point| point.inside.load(Ordering::SeqCst) as u64),
        "hanging" => counts(|point| point.hanging.load(Ordering::SeqCst) as u64),
        "violations" => violations(),
        "status" => status(),
        "functions" => Ok(Function::ALL.iter().map(|function| function.name()).collect::<Vec<_>>().join(" ")),
        "pin_tries" => pin_tries(&words),
        "remove_token" => remove_token(&words),
        "logout" => logout(),
        _ => set(name, &words).and_then(|()| done()),
    }
}

fn done() -> Outcome {
    Ok(String::new())
}

/// The commands that only set something.
fn set(name: &str, words: &Words<'_>) -> Result<(), String> {
    match name {
        "latency" => {
            let (min, max) = words.times(1)?;
            words.points()?.iter().for_each(|point| point.latency.set(min, max));
        }
        "size_query" => {
            let (min, max) = words.times(0)?;
            CHAOS.size_query.set(min, max);
        }
        "fail" => {
            let code = number(words.word(1)?)? as CK_RV;
            let run = words.options.get("run") == Some(&"true");
            add(words, Action::Fail { code, run })?;
        }
        "count" => {
            let count = number(words.word(1)?)?;
            words.points()?.iter().for_each(|point| point.count.store(count, Ordering::SeqCst));
        }
        "hang" => add(words, Action::Hang)?,
        "crash" => add(words, Action::Crash)?,
        "clear" => words.points()?.iter().for_each(|point| {
            point.retain(|_| false);
            point.latency.set(0, 0);
            point.count.store(0, Ordering::SeqCst);
            point.release(None);
        }),
        "release" => {
            let code = words.number("code")?.map(|code| code as CK_RV);
            words.points()?.iter().for_each(|point| {
                point.retain(|rule| rule.action != Action::Hang);
                point.release(code);
            });
        }
        "session_limit" => {
            let limit = number_or_off(words.word(0)?)?.map_or(usize::MAX, |limit| limit as usize);
            CHAOS.session_limit.store(limit, Ordering::SeqCst);
        }
        "session_idle_limit" => {
            CHAOS.session_idle_limit.store(number_or_off(words.word(0)?)?.unwrap_or(u64::MAX), Ordering::SeqCst);
        }
        "return_token" => {
            let slot = |name| Ok::<_, String>(words.number(name)?.map(|slot| slot as CK_SLOT_ID));
            CHAOS.slots.restore(slot("slot")?, slot("from")?)?;
        }
        "kill_sessions" => kill_sessions()?,
        "reuse_handles" => {
            let on = words.word(0)? == "on";
            CHAOS.sessions.reuses.store(on, Ordering::SeqCst);
            CHAOS.objects.reuses.store(on && words.options.get("objects") == Some(&"true"), Ordering::SeqCst);
        }
        "endless_search" => CHAOS.endless_search.store(words.word(0)? == "on", Ordering::SeqCst),
        "refuse_attributes" => {
            let (handle, code) = (number(words.word(0)?)?, number(words.word(1)?)?);
            let kinds = words.options.get("kinds").map_or(Ok(Vec::new()), |kinds| {
                kinds.split(',').map(|kind| Ok(number(kind)? as CK_ATTRIBUTE_TYPE)).collect::<Result<_, String>>()
            })?;
            let count = words.number("count")?.unwrap_or(u64::MAX);
            CHAOS.objects.refuse(handle as CK_OBJECT_HANDLE, code as CK_RV, kinds, count);
        }
        "unique_ids" => CHAOS.unique_ids.store(unique_ids::mode(words.word(0)?)?, Ordering::SeqCst),
        "replace_operations" => CHAOS.replaces_operations.store(words.word(0)? == "on", Ordering::SeqCst),
        "invalidate_objects" => CHAOS.objects.invalidate(),
        "device_trouble" if words.word(0)? == "off" => CHAOS.trouble.end(),
        "device_trouble" => {
            let code = number(words.word(0)?)? as CK_RV;
            let spared = words.options.get("spare").map_or(Ok(Vec::new()), |names| functions(names))?;
            CHAOS.trouble.begin(code, spared, words.options.get("until") != Some(&"told"));
        }
        "hide_objects" => {
            CHAOS.hides_objects.store(true, Ordering::SeqCst);
            CHAOS.objects.invalidate();
        }
        "uninitialize" => {
            if CHAOS.change_mode(Mode::Up, Mode::Lost) {
                CHAOS.objects.invalidate();
            }
        }
        "token_flags" => {
            let (set, cleared) = (number(words.word(0)?)?, number(words.word(1)?)?);
            CHAOS.flags_set.store(set, Ordering::SeqCst);
            CHAOS.flags_cleared.store(cleared, Ordering::SeqCst);
        }
        "pin_limit" => CHAOS.pins.set_limit(number_or_off(words.word(0)?)?.map(|limit| limit as u32)),
        "cant_lock" => CHAOS.cant_lock.store(words.word(0)? == "on", Ordering::SeqCst),
        "told_size" => {
            let told = careless::told(words.word(1)?)?;
            words.points()?.iter().for_each(|point| point.told_size.store(told, Ordering::SeqCst));
        }
        "signature_size" => {
            let size = number_or_off(words.word(0)?)?.map_or(0, |size| size as usize);
            CHAOS.signature_size.store(size, Ordering::SeqCst);
        }
        "random_limits" => {
            let (min, max) = match number_or_off(words.word(0)?)? {
                Some(min) => (min as usize, number(words.word(1)?)? as usize),
                None => (0, usize::MAX),
            };
            CHAOS.random_min.store(min, Ordering::SeqCst);
            CHAOS.random_max.store(max, Ordering::SeqCst);
        }
        "make_iv" => CHAOS.makes_iv.store(words.word(0)? == "on", Ordering::SeqCst),
        "messages_only" => CHAOS.messages_only.store(words.word(0)? == "on", Ordering::SeqCst),
        "early_plaintext" => CHAOS.early_plaintext.store(words.word(0)? == "on", Ordering::SeqCst),
        "slot_events" => CHAOS.slot_events.store(words.word(0)? == "on", Ordering::SeqCst),
        "malformed_info" => CHAOS.malformed_info.store(words.word(0)? == "on", Ordering::SeqCst),
        "swap_slots" => CHAOS.slots.swap(number(words.word(0)?)? as CK_SLOT_ID, number(words.word(1)?)? as CK_SLOT_ID)?,
        "seed" => rule::seed(number(words.word(0)?)?),
        "reset_counts" => CHAOS.reset_counts(),
        "reset" => CHAOS.reset(),
        _ => return Err(format!("unknown command {name}")),
    }
    Ok(())
}

fn functions(names: &str) -> Result<Vec<Function>, String> {
    Ok(names.split(',').map(Function::named).collect::<Result<Vec<_>, _>>()?.concat())
}

fn add(words: &Words<'_>, action: Action) -> Result<(), String> {
    let rule = words.rule(action)?;
    words.points()?.iter().for_each(|point| point.add(rule.clone()));
    Ok(())
}

fn counts(count: impl Fn(&Point) -> u64) -> Outcome {
    let counts = CHAOS.counts(count).into_iter().map(|(function, count)| format!("{}={count}", function.name()));
    Ok(counts.collect::<Vec<_>>().join(" "))
}

/// The number, then the texts, between tabs.
fn violations() -> Outcome {
    let (number, texts) = CHAOS.violations();
    Ok([vec![number.to_string()], texts].concat().join("\t"))
}

fn status() -> Outcome {
    let initialized = CHAOS.mode() == Mode::Up;
    let (sessions, refused) = (CHAOS.sessions.open(), CHAOS.sessions.refused());
    let (away, stale) = (CHAOS.slots.is_away(), CHAOS.objects.stale());
    Ok(format!("initialized={initialized} sessions={sessions} token_away={away} dead_sessions={refused} stale_objects={stale}"))
}

fn pin_tries(words: &Words<'_>) -> Outcome {
    let owner = if words.word(0)? == "so" { Owner::SecurityOfficer } else { Owner::User };
    Ok(CHAOS.pins.left(owner).map_or("off".into(), |left| left.to_string()))
}

fn remove_token(words: &Words<'_>) -> Outcome {
    let slot = words.number("slot")?.map(|slot| slot as CK_SLOT_ID);
    let code = words.number("code")?.map_or(CKR_DEVICE_REMOVED, |code| code as CK_RV);
    let real = CHAOS.slots.remove(slot, code)?;
    let _not_finalized_meanwhile = CHAOS.lifecycle.lock();
    // The last session takes the login with it. Before the handles: none is stale on a session that lives.
    CHAOS.sessions.kill(real);
    CHAOS.objects.invalidate();
    done()
}

/// Logs every token out on which the application has a session, by way of a session of our own, since the
/// application's may be in use.
fn logout() -> Outcome {
    let _not_finalized_meanwhile = CHAOS.lifecycle.lock();
    let slots = CHAOS.sessions.slots();
    if slots.is_empty() {
        return Err("no session is open, so nobody is logged in".into());
    }
    log_out(&slots)?;
    done()
}

/// All sessions die. Where handles of objects are given out again, those die with them, and the login: sessions that a call is using live on in
/// the real module, and would keep it.
fn kill_sessions() -> Result<(), String> {
    let _not_finalized_meanwhile = CHAOS.lifecycle.lock();
    let _none_is_added = CHAOS.sessions.hold_back();
    let slots = CHAOS.sessions.slots();
    CHAOS.sessions.kill(None);
    if CHAOS.objects.reuses.load(Ordering::SeqCst) {
        // Where the module is not initialized, nobody is logged in.
        if CHAOS.mode() == Mode::Up {
            log_out(&slots)?;
        }
        CHAOS.objects.number_anew();
    }
    Ok(())
}

fn log_out(slots: &[CK_SLOT_ID]) -> Result<(), String> {
    let list = CHAOS.real().filter(|_| CHAOS.mode() == Mode::Up).ok_or("the module is not initialized")?;
    for &slot in slots {
        let mut session = CK_INVALID_HANDLE;
        // SAFETY: the handle is written to a local; no callback is given.
        let code = unsafe { real!(list, C_OpenSession(slot, CKF_SERIAL_SESSION, ptr::null_mut(), None, &mut session)) };
        checked("C_OpenSession", code)?;
        // SAFETY: takes a handle only; a bad one is an error code.
        let code = unsafe { real!(list, C_Logout(session)) };
        crate::claims::close(session);
        checked("C_Logout", code)?;
    }
    Ok(())
}

fn checked(function: &str, code: CK_RV) -> Result<(), String> {
    if code == CKR_OK { Ok(()) } else { Err(format!("{function} answers 0x{code:x}")) }
}
