//! How many operations a second a PKCS#11 module can do with nothing in between: N threads, each with a session of its own, the key's
//! handle known, one Init and one final call into a buffer of the right size.
//!
//! It prints one JSON object a line: first that it is ready, then an answer to each line that it reads.
//!
//! | line | answer |
//! |---|---|
//! | `window WARM_UP MEASURED` (milliseconds) | `{"completed":N,"seconds":S}` |
//! | `sample` | `{"output":"HEX"}`, what the operation gives |
//! | `quit` | none: it ends, as it does with its input |
//!
//! With `--seconds` it measures one window instead, and ends.

mod arguments;
mod module;
mod operation;
mod window;

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use arguments::Arguments;
use module::Module;
use operation::Task;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raw: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let module = Module::load(&arguments.module)?;
    let slot = module.slot(&arguments.token)?;
    let sessions = (0..arguments.threads).map(|_| module.open_session(slot)).collect::<Result<Vec<_>, _>>()?;
    let first = *sessions.first().ok_or("--threads must be at least 1")?;
    module.login(first, &arguments.pin)?;
    let key = match arguments.operation.key_class() {
        Some(class) => module.find_key(first, class, &arguments.key)?,
        None => 0,
    };
    let task =
        Task { module: &module, key, operation: arguments.operation, data: arguments.data, signature: arguments.signature };
    if let Some(seconds) = arguments.seconds {
        println!("{}", window::measure(&task, &sessions, seconds * 100, seconds * 1000)?);
        return Ok(());
    }
    serve(&task, &sessions)
}

fn serve(task: &Task<'_>, sessions: &[u64]) -> Result<(), Box<dyn Error>> {
    say(r#"{"ready":true}"#)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["window", warm_up, measured] => {
                say(&window::measure(task, sessions, warm_up.parse()?, measured.parse()?)?.to_string())?;
            }
            ["sample"] => {
                let mut buffer = operation::buffer();
                let size = task.run(sessions[0], &mut buffer)?;
                say(&format!(r#"{{"output":"{}"}}"#, hex(&buffer[..size])))?;
            }
            ["quit"] => return Ok(()),
            _ => return Err(format!("unknown line: {line}").into()),
        }
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
