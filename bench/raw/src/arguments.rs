//! The command line.

use std::path::PathBuf;

use crate::operation::Operation;

/// `--name value` for each.
#[derive(Debug)]
pub struct Arguments {
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    pub pin: String,
    /// The key's label.
    pub key: String,
    pub operation: Operation,
    pub data: Vec<u8>,
    /// What a verification verifies.
    pub signature: Vec<u8>,
    pub threads: usize,
    /// Measure once, for so long.
    pub seconds: Option<u64>,
}

impl Arguments {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments {
            module: PathBuf::new(),
            token: String::new(),
            pin: String::new(),
            key: String::new(),
            operation: Operation::Random,
            data: Vec::new(),
            signature: Vec::new(),
            threads: 1,
            seconds: None,
        };
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--module" => arguments.module = value.into(),
                "--token" => arguments.token = value,
                "--pin" => arguments.pin = value,
                "--key" => arguments.key = value,
                "--op" => arguments.operation = value.parse()?,
                "--data" => arguments.data = unhex(&value)?,
                "--signature" => arguments.signature = unhex(&value)?,
                "--threads" => arguments.threads = number(&name, &value)?,
                "--seconds" => arguments.seconds = Some(number(&name, &value)?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(arguments)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} wants a number, got {value}"))
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()),
        _ => Err(format!("expected hexadecimal digits, two a byte, got {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn options_are_read() {
        let arguments = parse("--token t --threads 8 --op hmac --data 00ff --seconds 2").unwrap();
        assert_eq!((arguments.token.as_str(), arguments.threads, arguments.seconds), ("t", 8, Some(2)));
        assert_eq!((arguments.operation, arguments.data), (Operation::Hmac, vec![0, 255]));
    }

    #[test]
    fn a_bad_one_is_named() {
        assert_eq!(parse("--threads many").unwrap_err(), "--threads wants a number, got many");
        assert_eq!(parse("--pin").unwrap_err(), "--pin wants a value");
        assert_eq!(parse("--fast yes").unwrap_err(), "unknown option --fast");
        assert!(parse("--data 0").unwrap_err().starts_with("expected hexadecimal"));
        assert!(parse("--op sing").unwrap_err().contains("sing"));
    }
}
