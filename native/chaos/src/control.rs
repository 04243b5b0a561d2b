//! The socket on which commands come: a thread that listens, a thread per connection, one line per command and answer.
//! They run as long as the process, also between `C_Finalize` and `C_Initialize`.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use crate::{command, complaint};

/// Listens first, then executes the commands of the file, then serves. So whoever finds nobody listening, and after
/// having written to the file still finds nobody, knows that the file will be read.
pub fn start(socket: Option<PathBuf>, init: Option<PathBuf>) -> io::Result<()> {
    let listener = match socket {
        Some(socket) => Some(listen(&socket)?),
        None => None,
    };
    if let Some(init) = init {
        run_file(init)?;
    }
    if let Some(listener) = listener {
        thread::Builder::new().name("chaos-control".into()).spawn(move || serve(&listener))?;
    }
    Ok(())
}

/// Binds the socket, also where a process left its own behind when it ended.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

fn run_file(path: PathBuf) -> io::Result<()> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    fs::remove_file(path)?;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Err(message) = command::execute(line) {
            complaint::complain(&format!("{line}: {message}"));
        }
    }
    Ok(())
}

fn serve(listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        let handler = thread::Builder::new().name("chaos-command".into());
        // Without a thread the connection closes, which the other side sees.
        let _ = handler.spawn(move || answer(stream));
    }
}

fn answer(mut stream: UnixStream) -> io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        let answer = match command::execute(&line?) {
            Ok(answer) => format!("ok {answer}"),
            Err(message) => format!("error {message}"),
        };
        stream.write_all(format!("{}\n", answer.trim_end()).as_bytes())?;
    }
    Ok(())
}
