//! Lengths, pointers and output buffers as C wants them.

use cryptoki_sys::*;

use super::error::{CallError, Phase};
use crate::support::wiped::Wiped;

/// Bytes that an output may need beyond twice the input, whatever the module says.
const OUTPUT_SLACK: usize = 1 << 20;

/// A stand-in for the address of no bytes: modules refuse NULL, and Rust's own address of an empty slice is none.
static NOTHING: [u8; 1] = [0];

/// The address of input that the module only reads. Never NULL.
pub(super) fn input(bytes: &[u8]) -> CK_BYTE_PTR {
    let bytes = if bytes.is_empty() { &NOTHING } else { bytes };
    bytes.as_ptr().cast_mut()
}

/// The address of an optional input: NULL when empty, as mechanism parameters have it.
pub(super) fn optional(bytes: &[u8]) -> CK_BYTE_PTR {
    if bytes.is_empty() { std::ptr::null_mut() } else { bytes.as_ptr().cast_mut() }
}

/// A length as C has it.
pub(super) fn length<T>(slice: &[T]) -> CK_ULONG {
    slice.len() as CK_ULONG
}

/// Zeroed bytes, or `CKR_HOST_MEMORY` when there is no room for so many.
pub(super) fn zeroed(size: usize, function: &'static str, phase: Phase) -> Result<Wiped, CallError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| CallError::new(function, CKR_HOST_MEMORY, phase))?;
    bytes.resize(size, 0);
    Ok(bytes.into())
}

/// The size of a buffer for an output of so many bytes: larger than that, and odd, which keys, blocks and tags seldom make an output.
///
/// Some modules leave the length of their output as it was given (opencryptoki 3.23, of OFB and CFB). An output that fills such a buffer is none.
fn room(bytes: usize) -> usize {
    bytes.saturating_add(1) | 1
}

/// Runs a call that writes its output into a buffer: straight into one of `guess` bytes, or one more, and again into a larger one
/// for as long as it answers `CKR_BUFFER_TOO_SMALL`, up to twice `input_size` and 1 MiB.
///
/// `guess` is more than any output that may come, as far as that is known.
///
/// `call` gets the buffer's address and its length, replaces the length by that of the output, and returns the `CK_RV`. An output that is said to fill
/// the buffer, or more than that, is the error `CKR_OK`: see [`CallError::is_of_output`].
pub(super) fn output(
    function: &'static str,
    phase: Phase,
    guess: usize,
    input_size: usize,
    mut call: impl FnMut(CK_BYTE_PTR, &mut CK_ULONG) -> CK_RV,
) -> Result<Wiped, CallError> {
    let limit = input_size.saturating_mul(2).saturating_add(OUTPUT_SLACK);
    let (mut wanted, mut grown) = (guess.clamp(1, limit), false);
    let mut size = wanted | 1;
    loop {
        let mut buffer = zeroed(size, function, phase)?;
        let mut written = length(&buffer);
        let code = call(buffer.as_mut_ptr(), &mut written);
        let written = usize::try_from(written).unwrap_or(usize::MAX);
        match code {
            CKR_OK if written < size => {
                buffer.truncate(written);
                return Ok(buffer);
            }
            // If it claims to have written beyond the buffer, nothing it says can be trusted, and the session neither.
            CKR_OK => return Err(CallError { function, code: CKR_OK, phase, active: written > size && phase == Phase::Final }),
            CKR_BUFFER_TOO_SMALL if wanted < limit => {
                grown = true;
                let told = (written > size && written != usize::MAX).then_some(written);
                wanted = match told {
                    Some(told) if told > limit => {
                        return Err(CallError::new(function, code, phase));
                    }
                    Some(told) => told,
                    None => wanted.saturating_mul(2).min(limit),
                };
                size = room(wanted);
            }
            // It ended the operation with its first answer, which a module must not: that answer is what came of it.
            CKR_OPERATION_NOT_INITIALIZED if grown => return Err(CallError::new(function, CKR_BUFFER_TOO_SMALL, phase)),
            code => return Err(CallError::new(function, code, phase)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that needs `needed` bytes and says so, or says `answer` instead. Gives the sizes it was called with.
    fn run(guess: usize, needed: usize, answer: Option<CK_ULONG>) -> (Result<usize, CallError>, Vec<usize>) {
        let mut sizes = Vec::new();
        let result = output("C_Sign", Phase::Final, guess, 0, |_, length| {
            sizes.push(*length as usize);
            if (*length as usize) < needed {
                *length = answer.unwrap_or(needed as CK_ULONG);
                CKR_BUFFER_TOO_SMALL
            } else {
                *length = needed as CK_ULONG;
                CKR_OK
            }
        });
        (result.map(|bytes| bytes.len()), sizes)
    }

    #[test]
    fn one_call_when_the_guess_fits() {
        assert_eq!(run(1024, 256, None), (Ok(256), vec![1025]));
    }

    #[test]
    fn takes_the_length_it_is_told() {
        assert_eq!(run(1, 256, None), (Ok(256), vec![1, 257]));
    }

    #[test]
    fn doubles_when_told_nothing_useful() {
        for answer in [0, 1, CK_ULONG::MAX] {
            assert_eq!(run(2, 10, Some(answer)), (Ok(10), vec![3, 5, 9, 17]));
        }
    }

    #[test]
    fn gives_up_at_the_limit() {
        let (result, sizes) = run(1 << 10, usize::MAX, Some(0));
        let error = result.unwrap_err();
        assert_eq!((error.code, error.active), (CKR_BUFFER_TOO_SMALL, true));
        assert_eq!(sizes.last(), Some(&(OUTPUT_SLACK + 1)));
        let (result, sizes) = run(1 << 10, usize::MAX, Some(1 << 40));
        assert_eq!(result.unwrap_err().code, CKR_BUFFER_TOO_SMALL);
        assert_eq!(sizes.len(), 1);
    }

    #[test]
    fn an_operation_that_ended_with_the_first_answer_has_not_failed_to_begin() {
        let mut calls = 0;
        let error = output("C_Sign", Phase::Final, 8, 0, |_, _| {
            calls += 1;
            if calls == 1 { CKR_BUFFER_TOO_SMALL } else { CKR_OPERATION_NOT_INITIALIZED }
        })
        .unwrap_err();
        assert_eq!((error.code, calls), (CKR_BUFFER_TOO_SMALL, 2));
    }

    #[test]
    fn does_not_believe_more_than_the_buffer_holds_nor_what_was_left_as_it_was() {
        let told = |more| {
            output("C_Sign", Phase::Final, 8, 0, |_, length| {
                *length += more;
                CKR_OK
            })
            .map(|_bytes| ())
        };
        let error = |active| Err(CallError { function: "C_Sign", code: CKR_OK, phase: Phase::Final, active });
        assert_eq!(told(1), error(true));
        assert_eq!(told(0), error(false));
        assert!(error(false).is_err_and(|error: CallError| error.is_of_output()));
    }

    #[test]
    fn no_output_that_may_come_fills_the_buffer() {
        // A module that is told to need so many bytes may well write as many.
        for needed in [8, 9, 1024, 1025, 4096] {
            assert_eq!(run(needed + 1, needed, None).0, Ok(needed));
            assert_eq!(run(1, needed, None).0, Ok(needed));
        }
    }

    #[test]
    fn absurd_sizes_do_not_panic() {
        let error = zeroed(usize::MAX, "C_GenerateRandom", Phase::Single).unwrap_err();
        assert_eq!(error.code, CKR_HOST_MEMORY);
    }
}
